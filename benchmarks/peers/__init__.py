"""Who is measured: ours and the peers, one file each.

Each file has `contenders(workload) -> {label: Entry}`. A library is imported when its contender is made, in the process
that measures it.
"""

from collections.abc import Mapping
from importlib import import_module

from .base import Contender, Entry, Unavailable

NAMES = ("ours", "kronfluence", "dattri", "captum", "pydvl", "curvlinops", "traker")


def contenders(peer: str, workload: str) -> Mapping[str, Entry]:
    """Return a peer's contenders for a workload, by label."""
    return import_module(f"{__name__}.{peer}").contenders(workload)


__all__ = ["NAMES", "Contender", "Entry", "Unavailable", "contenders"]
