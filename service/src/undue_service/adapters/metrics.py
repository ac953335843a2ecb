"""Metrics for Prometheus. Only the API process exports them; names are those that users' dashboards rely on."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily

from undue_service.application.ports import PoolStatus
from undue_service.domain.jobs import Job
from undue_service.domain.reports import DatasetReport, IndexReport, InfluenceReport, PerturbationReport

_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_STAGE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_BATCH_CALLS = (1, 2, 4, 8, 16, 32, 64)
_JOB_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200)


class PrometheusMetrics:
    """Metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        call = ("grpc_type", "grpc_service", "grpc_method")
        self._started = self._counter("grpc_server_started", "Calls started.", *call)
        self._handled = self._counter("grpc_server_handled", "Calls ended.", *call, "grpc_code")
        self._handling = self._histogram("grpc_server_handling_seconds", "Time of a call.", _CALL_SECONDS, *call)
        self._submitted = self._counter("undue_jobs_submitted", "Jobs queued.", "kind")
        self._finished = self._counter("undue_jobs_finished", "Jobs ended.", "kind", "outcome")
        self._queue = self._histogram("undue_job_queue_seconds", "From queued to first started.", _JOB_SECONDS)
        self._duration = self._histogram(
            "undue_job_duration_seconds", "From first started to ended.", _JOB_SECONDS, "kind"
        )
        self._restarts = self._counter("undue_runner_restarts", "Runners lost and replaced.", "reason")
        self._examples = self._counter("undue_examples_processed", "Training rows that finished jobs read.", "kind")
        text = "Stages of an explanation: queue and total of each call, the others of each batch."
        self._stage = self._histogram("undue_explain_stage_seconds", text, _STAGE_SECONDS, "stage")
        self._batch = self._histogram("undue_explain_batch_size", "Calls that were answered together.", _BATCH_CALLS)

    def watch(self, unfinished: Callable[[], Mapping[str, int]], pool: Callable[[], PoolStatus]) -> None:
        """Ask for what is not counted but is so at the time of a scrape."""
        self.registry.register(_Now(unfinished, pool))

    def call_started(self, method: str, kind: str) -> None:
        """See Metrics."""
        self._started.labels(kind, *_split(method)).inc()

    def call_handled(self, method: str, kind: str, code: str, seconds: float) -> None:
        """See Metrics."""
        self._handled.labels(kind, *_split(method), code).inc()
        self._handling.labels(kind, *_split(method)).observe(seconds)

    def job_submitted(self, kind: str) -> None:
        """See Metrics."""
        self._submitted.labels(kind).inc()

    def job_finished(self, job: Job) -> None:
        """See Metrics."""
        kind = job.spec.kind
        self._finished.labels(kind, job.state.value.lower()).inc()
        if job.start_time is not None and job.end_time is not None:
            self._queue.observe((job.start_time - job.create_time).total_seconds())
            self._duration.labels(kind).observe((job.end_time - job.start_time).total_seconds())
        if isinstance(job.report, InfluenceReport | PerturbationReport):
            self._examples.labels(kind).inc(job.report.train_rows)
        elif isinstance(job.report, IndexReport):
            self._examples.labels(kind).inc(job.report.rows_read)
        elif isinstance(job.report, DatasetReport):
            self._examples.labels(kind).inc(job.report.rows)

    def runner_lost(self, reason: str) -> None:
        """See Metrics."""
        self._restarts.labels(reason).inc()

    def explain_stage(self, stage: str, seconds: float) -> None:
        """See ExplainMetrics."""
        self._stage.labels(stage).observe(seconds)

    def explain_batch(self, calls: int) -> None:
        """See ExplainMetrics."""
        self._batch.observe(calls)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)


class _Now:
    """Gauges, made at each scrape."""

    def __init__(self, unfinished: Callable[[], Mapping[str, int]], pool: Callable[[], PoolStatus]) -> None:
        self._unfinished = unfinished
        self._pool = pool

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: the registry then need not ask the database when this is registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        found = self._unfinished()
        yield GaugeMetricFamily("undue_jobs_queued", "Jobs that wait for a slot.", value=found["QUEUED"])
        yield GaugeMetricFamily("undue_jobs_running", "Jobs that a runner works on.", value=found["RUNNING"])
        runners = GaugeMetricFamily("undue_runners", "Runner processes.", labels=("lane", "state"))
        pool = self._pool()
        states = [(runner.lane, runner.state) for runner in pool.runners]
        for lane, state in sorted(set(states)):
            runners.add_metric((lane, state), states.count((lane, state)))
        yield runners
        text = "Most memory of a device that one runner has held."
        peaks = GaugeMetricFamily("undue_device_memory_peak_bytes", text, labels=("device",))
        for device, peak in pool.peak_bytes.items():
            peaks.add_metric((device,), peak)
        yield peaks
        text = "What the indexes that runners hold in memory take, with their models."
        yield GaugeMetricFamily("undue_index_resident_bytes", text, value=pool.resident_bytes)


def _split(method: str) -> tuple[str, str]:
    service, _, name = method.lstrip("/").partition("/")
    return service, name
