"""The stores in memory: for tests and for a service that keeps nothing. They pass the same contract suites."""

from .indexes import MemoryAliasStore, MemoryErasureStore, MemoryIndexStore, MemoryRecentIndexes
from .jobs import MemoryJobStore
from .outside import MemoryLocator, NoMetrics
from .registry import MemoryRegistry
from .uploads import MemoryInventory, MemoryUploadStore

__all__ = [
    "MemoryAliasStore",
    "MemoryErasureStore",
    "MemoryIndexStore",
    "MemoryInventory",
    "MemoryJobStore",
    "MemoryLocator",
    "MemoryRecentIndexes",
    "MemoryRegistry",
    "MemoryUploadStore",
    "NoMetrics",
]
