# On a machine with Python 3.11 or newer and make, `make demo` and `make test` need nothing else first.
# PIP_EXTRA passes options to pip: PIP_EXTRA="--index-url …" for a CPU wheel index of torch.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.undue-installed

EXAMPLES_STAMP := $(VENV)/.undue-examples

BENCH_BIN := .venv-bench/bin
BENCH_STAMP := .venv-bench/.undue-installed

.PHONY: setup demo test test-slow examples reproduction conformance chaos bench check image-check proto sync format clean

setup: $(STAMP)

$(STAMP): constraints.txt requirements-dev.txt client/pyproject.toml service/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "undue needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch alone and first: another package's looser wish for it would bring its CUDA builds
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt -e client -e 'service[runner]' -r requirements-dev.txt
	@touch $@

demo: setup
	@$(BIN)/python examples/demo.py

test: setup
	$(BIN)/python -m pytest

# The paper's experiments on real data, which is fetched into a cache: docs/reproduction.md. EXAMPLES="cnn" narrows.
examples: $(EXAMPLES_STAMP)
	$(BIN)/python examples/reproduce.py --quick $(EXAMPLES)

# The same, whole: hours of two cores.
reproduction: $(EXAMPLES_STAMP)
	$(BIN)/python examples/reproduce.py $(EXAMPLES)

$(EXAMPLES_STAMP): $(STAMP) examples/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt -r examples/requirements.txt
	@touch $@

# Long suites and the browser's (Debian: chromium).
test-slow: $(EXAMPLES_STAMP)
	$(BIN)/python -m pytest -m slow

# The ONNX backend suite of the installed onnx through the importer: docs/models.md. CONFORMANCE="--only conv --show" narrows.
conformance: setup
	@PYTHONPATH=tests $(BIN)/python -W ignore -m conformance $(CONFORMANCE)

# Fifty rounds of SIGKILL at random instants; UNDUE_CHAOS_SEED repeats a run.
chaos: setup
	$(BIN)/python -m pytest -m chaos -s

# Side by side with peers, in a venv of their own: docs/benchmarks.md. BENCH="--workload convex --only ours,pydvl" narrows.
bench: $(BENCH_STAMP)
	$(BENCH_BIN)/python -W ignore -m benchmarks $(BENCH)

$(BENCH_STAMP): constraints.txt benchmarks/requirements.txt benchmarks/requirements-alone.txt client/pyproject.toml service/pyproject.toml
	test -x $(BENCH_BIN)/python || $(PYTHON) -m venv .venv-bench
	# torch alone and first, as in setup
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt torch
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt -e client -e 'service[runner]' -r benchmarks/requirements.txt
	$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_EXTRA) --no-deps -r benchmarks/requirements-alone.txt
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/protos.py check
	$(BIN)/python tools/reasons.py check
	$(BIN)/python tools/unasync.py check
	$(BIN)/hadolint Dockerfile
	$(BIN)/yamllint --strict deploy buf.yaml

# Both images, built and started without Docker: as root, with Debian's mmdebstrap and bubblewrap (docs/deploying.md).
image-check: setup
	$(BIN)/python tools/image_check.py --build-arg "PIP_EXTRA=$(PIP_EXTRA)" $(IMAGE_CHECK)

# Rewrites the stubs and docs/errors.md from proto/.
proto: setup
	$(BIN)/python tools/protos.py generate
	$(BIN)/python tools/reasons.py generate

# Rewrites the blocking client from the asyncio one.
sync: setup
	$(BIN)/python tools/unasync.py generate

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
