"""What the use cases need from outside. One contract suite tests every implementation of a port."""

from .files import ArtifactStore, Held, ResultReader, SourceLocator, Staging
from .outside import Clock, Metrics
from .pool import PoolStatus, RunnerLostError, RunnerStatus, Work, WorkerPool
from .stores import Deleted, Inventory, JobStore, Page, Registry, StaleLeaseError, UploadStore

__all__ = [
    "ArtifactStore",
    "Clock",
    "Deleted",
    "Held",
    "Inventory",
    "JobStore",
    "Metrics",
    "Page",
    "PoolStatus",
    "Registry",
    "ResultReader",
    "RunnerLostError",
    "RunnerStatus",
    "SourceLocator",
    "Staging",
    "StaleLeaseError",
    "UploadStore",
    "Work",
    "WorkerPool",
]
