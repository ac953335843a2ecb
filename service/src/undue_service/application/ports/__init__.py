"""What the use cases need from outside. One contract suite tests every implementation of a port."""

from .files import ArtifactStore, Held, PerturbationReader, ResultReader, SourceLocator, Staging
from .indexes import AliasStore, DeletedIndex, ErasureStore, IndexStore, RecentIndexes
from .outside import Clock, ExplainMetrics, Metrics
from .pool import NOWHERE, Attachments, PoolStatus, RunnerLostError, RunnerStatus, Work, WorkerPool
from .stores import Deleted, Inventory, JobStore, Page, Registry, StaleLeaseError, UploadStore

__all__ = [
    "NOWHERE",
    "AliasStore",
    "ArtifactStore",
    "Attachments",
    "Clock",
    "Deleted",
    "DeletedIndex",
    "ErasureStore",
    "ExplainMetrics",
    "Held",
    "IndexStore",
    "Inventory",
    "JobStore",
    "Metrics",
    "Page",
    "PerturbationReader",
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
