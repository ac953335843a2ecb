"""The factored index: training rows kept such that live predictions are explained in milliseconds.

`fit_index` measures the curvature and chooses what is kept of a row; an `Encoder` makes `RowBlock`s, of which `Shard`s
are sorted; a `Searcher` answers.
"""

from .encoding import Encoder
from .fitted import FittedIndex
from .fitting import METHODS, fit_index, precision
from .found import Found
from .recall import measured_recall
from .rows import RowBlock, Shard
from .search import Searcher
from .staleness import Drift, drifted

__all__ = [
    "METHODS",
    "Drift",
    "Encoder",
    "FittedIndex",
    "Found",
    "RowBlock",
    "Searcher",
    "Shard",
    "drifted",
    "fit_index",
    "measured_recall",
    "precision",
]
