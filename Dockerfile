# Two images of the service: `--target api`, without torch, and `--target runner`, the default, which can run jobs.
#
#   docker build --build-arg TORCH_INDEX=URL-of-the-CPU-wheels -t undue .
#
# docs/deploying.md says what each is good for; `make image-check` carries out these steps without Docker.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm


FROM ${PYTHON_IMAGE} AS wheels
# Options for every pip of the build, such as --index-url of a mirror.
ARG PIP_EXTRA=""
WORKDIR /src
COPY constraints.txt ./
# pip lives here and installs into /opt/undue from outside: the images themselves carry no installer.
RUN python -m venv /opt/build \
 && python -m venv --without-pip /opt/undue \
 && /opt/build/bin/pip install --no-cache-dir ${PIP_EXTRA} --constraint constraints.txt hatchling
COPY client client
COPY service service
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels ./client ./service


FROM wheels AS api-env
RUN /opt/build/bin/pip --python /opt/undue/bin/python install --no-cache-dir ${PIP_EXTRA} \
    --constraint constraints.txt /wheels/*.whl


FROM api-env AS runner-env
# Where torch's wheels of one build are, and which build: its version is asked for as 2.13.0+cpu, which the default
# package index does not have. A build that was not told the right index fails at once, and fetches no CUDA by accident.
ARG TORCH_INDEX=""
ARG TORCH_BUILD=cpu
RUN /opt/build/bin/pip --python /opt/undue/bin/python install --no-cache-dir ${PIP_EXTRA} \
    ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} --constraint constraints.txt \
    "torch==$(sed -n 's/^torch==//p' constraints.txt)+${TORCH_BUILD}" \
 || { echo "pass --build-arg TORCH_INDEX=, the index that has torch's ${TORCH_BUILD} wheels" >&2; exit 1; }
RUN /opt/build/bin/pip --python /opt/undue/bin/python install --no-cache-dir ${PIP_EXTRA} \
    --constraint constraints.txt /wheels/undue-*.whl "$(echo /wheels/undue_service-*.whl)[runner]"


FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 undue \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/undue --shell /usr/sbin/nologin undue \
 && install --directory --owner=undue --group=undue --mode=0700 /var/lib/undue
ENV PATH=/opt/undue/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    UNDUE_DATA_DIR=/var/lib/undue \
    UNDUE_METRICS_ADDRESS=127.0.0.1:9464
USER 10001:10001
WORKDIR /var/lib/undue
VOLUME /var/lib/undue
# No EXPOSE: this version listens on loopback alone, so there is no port for another network namespace.
STOPSIGNAL SIGTERM
# Ready: the database answers and jobs are being scheduled. http.client, because urllib would obey HTTP_PROXY.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", "import http.client, os, sys; ask = http.client.HTTPConnection(os.environ['UNDUE_METRICS_ADDRESS'], timeout=3); ask.request('GET', '/readyz'); sys.exit(ask.getresponse().status != 200)"]
ENTRYPOINT ["undue-service"]
CMD ["serve"]


FROM runtime AS api
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="undue-api" \
      org.opencontainers.image.description="undue-service without torch: calls, migrations, the command line; no jobs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=api-env /opt/undue /opt/undue


FROM runtime AS runner
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="undue" \
      org.opencontainers.image.description="undue-service with its local pool of runners" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=runner-env /opt/undue /opt/undue
