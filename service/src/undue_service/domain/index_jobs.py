"""Jobs of an index, which build and change its files, and what it is built of."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """What an index is built of."""

    model: str
    train: str
    method: str = "ekfac"
    damping: float | None = None
    """λ of the damped curvature; None resolves to one reported scalar."""
    parameters: tuple[str, ...] = ()
    """fnmatch patterns of the parameters that the scores run over; none means those that the model registered."""
    leverage_correction: bool | None = None
    """None: on where the method has one and the model is a linear head."""
    seed: int = 0
    """Of whatever is drawn at random."""


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """Job: build an index."""

    index: str
    kind: Literal["index_build"] = "index_build"


@dataclass(frozen=True, slots=True)
class IndexExtend:
    """Job: append the rows of a data set to an index, without fitting its curvature again."""

    index: str
    dataset: str
    kind: Literal["index_extend"] = "index_extend"


@dataclass(frozen=True, slots=True)
class IndexCompact:
    """Job: write the files of an index anew, without the rows that were erased."""

    index: str
    kind: Literal["index_compact"] = "index_compact"


IndexJob = IndexBuild | IndexExtend | IndexCompact
"""Jobs that leave the files of an index."""
