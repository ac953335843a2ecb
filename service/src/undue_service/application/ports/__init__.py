"""What the use cases need from outside. One contract suite tests every implementation of a port."""

from .files import ArtifactStore, Held, ResultReader, SourceLocator, Staging
from .indexes import AliasStore, DeletedIndex, ErasureStore, IndexStore, RecentIndexes
from .outside import Clock, Metrics
from .pool import NOWHERE, PoolStatus, RunnerLostError, RunnerStatus, Work, WorkerPool
from .stores import Deleted, Inventory, JobStore, Page, Registry, StaleLeaseError, UploadStore

__all__ = [
    "NOWHERE",
    "AliasStore",
    "ArtifactStore",
    "Clock",
    "Deleted",
    "DeletedIndex",
    "ErasureStore",
    "Held",
    "IndexStore",
    "Inventory",
    "JobStore",
    "Metrics",
    "Page",
    "PoolStatus",
    "RecentIndexes",
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
