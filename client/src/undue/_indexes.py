"""Indexes, what building one found, and aliases, as frozen values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ._resources import Failure
from ._results import Diagnostics


class IndexState(StrEnum):
    """Whether an index can be used."""

    BUILDING = "BUILDING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What building or changing an index found."""

    rows: int
    """Rows that it holds, those that were erased since included."""
    bytes: int
    """Of its files."""
    bytes_per_row: float
    """Of its files, for each row, without what all rows share."""
    resident_bytes: int
    """Memory that it takes in a runner, beside the model."""
    recall: float
    """Share of the 10 most helpful and the 10 most harmful rows of a dense scan that the search found, over
    `recall_queries` training rows that were asked about."""
    recall_queries: int
    """How many rows were asked about."""
    staleness: float
    """By how much the curvature of the rows that it holds differs from the fitted one, as a share: 0 after building;
    from 0.1 on, build anew."""
    diagnostics: Diagnostics
    """What its scores mean."""


@dataclass(frozen=True, slots=True)
class Index:
    """What `client.explain` answers from: training rows with all that scoring them takes.

    It is what was last heard of it: `client.indexes.get` hears more.
    """

    name: str
    """`indexes/{id}`."""
    model: str
    """`models/{id}/versions/{n}`."""
    train: str
    """The data set that the model was trained on, `datasets/{id}/versions/{n}`."""
    method: str
    """"exact", "gauss_newton" or "ekfac"."""
    damping: float | None
    """λ as it was asked for; `report.diagnostics.damping` is the one that was used."""
    parameters: tuple[str, ...]
    """fnmatch patterns of the parameters that the scores run over; none means those that the model registered."""
    leverage_correction: bool | None
    """As it was asked for; `report.diagnostics.leverage_correction` says what was done."""
    seed: int
    """Of whatever was drawn at random."""
    state: IndexState
    job: str
    """The newest job that builds or changes it."""
    report: IndexReport | None
    """What its newest job found; None until READY."""
    failure: Failure | None
    """Why it was not built."""
    datasets: tuple[str, ...]
    """The data sets whose rows it holds, one after the other: `train`, then those it was extended by. Its rows are
    numbered through."""
    erased_rows: int
    """How many rows were erased."""
    create_time: datetime
    etag: str = ""
    """Changes whenever the index does; `delete` takes it, to delete only what was seen."""
    warnings: tuple[str, ...] = ()
    """What to know before its answers are trusted; that it should be built anew comes first."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that means an index."""

    name: str
    """`aliases/{id}`."""
    index: str
    """`indexes/{id}`."""
    update_time: datetime
    """When it was last set."""
