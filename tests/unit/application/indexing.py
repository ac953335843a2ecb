"""Indexes over real folders and the stores in memory, and what stands around them."""

from datetime import UTC, datetime, timedelta

from undue_service.adapters.artifacts import LocalArtifacts, LocalStaging
from undue_service.adapters.memory import (
    MemoryAliasStore,
    MemoryErasureStore,
    MemoryIndexStore,
    MemoryInventory,
    MemoryJobStore,
    MemoryLocator,
    MemoryRecentIndexes,
    MemoryRegistry,
    MemoryUploadStore,
    NoMetrics,
)
from undue_service.application.changes import Changes
from undue_service.application.deletion import Deletions
from undue_service.application.index_tasks import IndexTasks
from undue_service.application.indexes import Indexes
from undue_service.application.planning import Planner
from undue_service.application.registration import Registrations
from undue_service.application.retention import Retention
from undue_service.application.superseding import Superseding
from undue_service.application.uploads import Uploads
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.reports import (
    ColumnSchema,
    DatasetReport,
    Diagnostics,
    IndexReport,
    ModelReport,
    ParameterInfo,
    Speed,
    Stationarity,
)
from undue_service.domain.specs import ArraysSource, ModelSpec, ObjectiveSpec, TensorRef

NOW = datetime(2026, 1, 1, tzinfo=UTC)
X, Y = ColumnSchema("x", "float32", (3,)), ColumnSchema("y", "int64", ())
SPEED = Speed(1e-5, 1e-5, 1e10, 10**8, 10**4)


class Clock:
    """The real time, and what the test adds: the files bear the machine's times."""

    def __init__(self):
        self.ahead = timedelta()

    def now(self):
        return datetime.now(UTC) + self.ahead


class Counting(NoMetrics):
    def __init__(self):
        self.submitted, self.finished = [], []

    def job_submitted(self, kind):
        self.submitted.append(kind)

    def job_finished(self, job):
        self.finished.append((job.id, job.state))


class Bench:
    """A model, its training rows and rows to append, all ready."""

    def __init__(self, root):
        self.root, self.clock, self.metrics, changes = root, Clock(), Counting(), Changes()
        self.jobs = MemoryJobStore()
        self.store = MemoryIndexStore(self.jobs)
        registry, uploads = MemoryRegistry(self.jobs, self.store), MemoryUploadStore()
        self.artifacts, self.staging = LocalArtifacts(root), LocalStaging(root)
        inventory = MemoryInventory(self.jobs, registry, uploads)
        self.retention = Retention(inventory, self.artifacts, self.staging, self.clock, timedelta(hours=24))
        self.uploads = Uploads(uploads, self.artifacts, self.staging, self.clock, 1 << 20)
        self.registrations = Registrations(registry, self.artifacts, changes, self.metrics, self.clock, MemoryLocator())
        self.deletions = Deletions(registry, self.jobs, self.retention, changes, self.metrics, self.clock)
        self.superseding = Superseding(self.jobs, self.store, self.staging, self.retention)
        self.erasures = MemoryErasureStore(self.store)
        self.planner = Planner(
            self.registrations,
            self.artifacts,
            self.staging,
            IndexTasks(self.registrations, self.store, self.erasures),
        )
        self.indexes = Indexes(
            self.store,
            self.erasures,
            MemoryAliasStore(self.store),
            MemoryRecentIndexes(self.store),
            self.registrations,
            self.superseding,
            changes,
            self.metrics,
            self.clock,
        )
        self.model("m")
        self.data("train", rows=4)
        self.data("more", rows=2)
        self.metrics.submitted.clear()

    def model(self, name, dim=30, head=False, speed=SPEED, inputs=(X,)):
        """Register a model with one selected parameter of that many numbers."""
        spec = ModelSpec("pt2", self.uploads.keep("t", name.encode()), ObjectiveSpec("cross_entropy"))
        parameters = (ParameterInfo("w", (dim,), selected=True, l2=True), ParameterInfo("v", (5,), False, l2=True))
        report = ModelReport(
            inputs, ("o",), parameters, "float32", head, "", None, 0, None, (), outputs_per_row=3, speed=speed
        )
        return self._made(self.registrations.create_model("t", name, spec, None), report)

    def data(self, name, rows=4, inputs=(X,), target=Y, **varying):
        """Register a data set."""
        source = ArraysSource({"x": TensorRef("float32", (rows, 3), self.uploads.keep("t", name.encode()))})
        report = DatasetReport(rows, inputs, target, False, False, f"content of {name}", **varying)
        return self._made(self.registrations.create_dataset("t", name, source, None), report)

    def create(self, **settings):
        """Ask for an index."""
        spec = {"model": "models/m", "train": "datasets/train", "method": ""} | settings
        return self.indexes.create("t", IndexSpec(**spec), None)

    def built(self, files=None, **settings):
        """Return an index that was built with these files."""
        index = self.create(**settings)
        self.succeed(index.jobs[0], files or {"manifest": b"m", "fit": b"f", "shard-0": b"s"})
        return self.indexes.get("t", "name", index.name)

    def succeed(self, job, files):
        """Let a job succeed with files, or with the digests of those that stay."""
        results = {role: data if isinstance(data, str) else self.keep(data) for role, data in files.items()}
        now = self.clock.now()
        job = self.jobs.update("t", job.id, lambda job: job.start(now).succeed(now, index_report(), results))
        self.superseding.attempted(job)
        return job

    def keep(self, data):
        """Keep a file as a runner leaves it, and return its digest."""
        (self.root / "left").write_bytes(data)
        return self.artifacts.keep("t", self.root / "left")

    def has(self, digest):
        """Return whether a file is there."""
        return self.artifacts.contains("t", digest)

    def _made(self, registration, report):
        job = registration.validation.id
        self.jobs.update("t", job, lambda job: job.start(NOW).succeed(NOW, report, {}))
        return self.registrations.get("t", registration.collection, "name", registration.name)


def index_report(rows=4):
    """Return what a job of an index found."""
    stationarity = Stationarity(0.0, 0.0, 1.0)
    found = Diagnostics(
        "e", "removal", "ekfac", 0.1, "given", False, "s", "ok", 0.0, stationarity, "r", 0, "float32", "cpu", {}, 1.0
    )
    return IndexReport(rows, 100, 12.5, 80, 0.999, 10, 0.25, found, rows_read=rows)
