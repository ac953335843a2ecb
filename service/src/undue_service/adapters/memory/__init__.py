"""The stores in memory: for tests and for a service that keeps nothing. They pass the same contract suites."""

from .jobs import MemoryJobStore
from .outside import MemoryLocator, NoMetrics
from .registry import MemoryRegistry
from .uploads import MemoryInventory, MemoryUploadStore

__all__ = ["MemoryInventory", "MemoryJobStore", "MemoryLocator", "MemoryRegistry", "MemoryUploadStore", "NoMetrics"]
