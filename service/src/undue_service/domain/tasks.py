"""What a runner is asked to do: a job with everything it names looked up."""

from dataclasses import dataclass
from typing import Literal

from .choices import Measurement
from .comparison import Compare
from .fidelity import Fidelity
from .group_influence import GroupInfluence
from .index_jobs import IndexSpec
from .influence import Influence
from .leverage import Leverage
from .mislabels import Mislabels
from .perturb_jobs import Perturb
from .retraining import Retrain
from .self_influence import SelfInfluence
from .specs import DataSource, ModelSpec


@dataclass(frozen=True, slots=True)
class ModelTask:
    """Open a model and check it."""

    model: ModelSpec
    sample: DataSource | None
    kind: Literal["model"] = "model"


@dataclass(frozen=True, slots=True)
class DatasetTask:
    """Read a data set and check it."""

    source: DataSource
    kind: Literal["dataset"] = "dataset"


@dataclass(frozen=True, slots=True)
class InfluenceTask:
    """Score training rows for test rows."""

    spec: Influence
    model: ModelSpec
    train: DataSource
    test: DataSource
    digests: dict[str, str]
    kind: Literal["influence"] = "influence"


@dataclass(frozen=True, slots=True)
class SelfInfluenceTask:
    """Rank training rows by their influence on their own loss."""

    spec: SelfInfluence
    model: ModelSpec
    train: DataSource
    digests: dict[str, str]
    kind: Literal["self_influence"] = "self_influence"


@dataclass(frozen=True, slots=True)
class RetrainTask:
    """Measure what changes when training rows are removed."""

    spec: Retrain
    model: ModelSpec
    train: DataSource
    test: DataSource
    digests: dict[str, str]
    kind: Literal["retrain"] = "retrain"


@dataclass(frozen=True, slots=True)
class FidelityTask:
    """Hold scores against retraining."""

    spec: Fidelity
    model: ModelSpec
    train: DataSource
    test: DataSource
    digests: dict[str, str]
    kind: Literal["fidelity"] = "fidelity"


@dataclass(frozen=True, slots=True)
class LeverageTask:
    """Compute leverage, Cook's distance and DFBETA of training rows."""

    spec: Leverage
    model: ModelSpec
    train: DataSource
    digests: dict[str, str]
    kind: Literal["leverage"] = "leverage"


@dataclass(frozen=True, slots=True)
class MislabelsTask:
    """Find mislabelled training rows."""

    spec: Mislabels
    model: ModelSpec
    train: DataSource
    test: DataSource | None
    digests: dict[str, str]
    kind: Literal["mislabels"] = "mislabels"


@dataclass(frozen=True, slots=True)
class GroupInfluenceTask:
    """Share the influence on some predictions among groups of training rows."""

    spec: GroupInfluence
    model: ModelSpec
    train: DataSource
    test: DataSource
    digests: dict[str, str]
    kind: Literal["group_influence"] = "group_influence"


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Hold what one or two models say of the same test rows against each other and against what is near."""

    spec: Compare
    model: ModelSpec
    other: ModelSpec | None
    train: DataSource
    test: DataSource
    digests: dict[str, str]
    kind: Literal["compare"] = "compare"


@dataclass(frozen=True, slots=True)
class PerturbTask:
    """Perturb training rows so that predictions flip."""

    spec: Perturb
    model: ModelSpec
    train: DataSource
    test: DataSource
    digests: dict[str, str]
    kind: Literal["perturb"] = "perturb"


@dataclass(frozen=True, slots=True)
class RowsTask:
    """Read some rows of a data set."""

    source: DataSource
    rows: tuple[int, ...]
    kind: Literal["rows"] = "rows"


@dataclass(frozen=True, slots=True)
class IndexedDataset:
    """A data set whose rows an index holds."""

    name: str
    """`datasets/{id}/versions/{n}`."""
    source: DataSource
    digest: str
    """sha256 of its content."""
    rows: int


@dataclass(frozen=True, slots=True)
class HeldIndex:
    """An index as its files and tombstones are now."""

    name: str
    """`indexes/{id}`."""
    revision: str
    spec: IndexSpec
    model: ModelSpec
    datasets: tuple[IndexedDataset, ...]
    """In the order of its row numbers."""
    files: dict[str, str]
    """Role to digest."""
    erased: tuple[int, ...] = ()
    """Row numbers."""


@dataclass(frozen=True, slots=True)
class IndexBuildTask:
    """Build an index."""

    spec: IndexSpec
    model: ModelSpec
    train: IndexedDataset
    digests: dict[str, str]
    kind: Literal["index_build"] = "index_build"


@dataclass(frozen=True, slots=True)
class IndexExtendTask:
    """Append rows to an index."""

    held: HeldIndex
    added: IndexedDataset
    digests: dict[str, str]
    kind: Literal["index_extend"] = "index_extend"


@dataclass(frozen=True, slots=True)
class IndexCompactTask:
    """Write an index anew without its erased rows."""

    held: HeldIndex
    digests: dict[str, str]
    kind: Literal["index_compact"] = "index_compact"


@dataclass(frozen=True, slots=True)
class OpenIndexTask:
    """Hold an index in memory, for ExplainTasks."""

    held: HeldIndex
    kind: Literal["open_index"] = "open_index"


EXPLAIN_ROWS = 256
"""That one call asks about, at most."""


@dataclass(frozen=True, slots=True)
class ExplainCall:
    """What one caller wants to know. Its rows travel in the task's attachment."""

    measurement: Measurement = "loss"
    top_k: int = 10
    exact: bool = False
    """Whether the lists are guaranteed."""
    with_instances: bool = True


@dataclass(frozen=True, slots=True)
class ExplainTask:
    """Explain the rows of some calls from an index that is held in memory."""

    index: str
    revision: str
    calls: tuple[ExplainCall, ...]
    kind: Literal["explain"] = "explain"


RequestedTask = (
    InfluenceTask
    | SelfInfluenceTask
    | RetrainTask
    | FidelityTask
    | LeverageTask
    | MislabelsTask
    | GroupInfluenceTask
    | PerturbTask
    | CompareTask
)
"""Of jobs that CreateJob queues."""

Task = (
    ModelTask
    | DatasetTask
    | RequestedTask
    | RowsTask
    | IndexBuildTask
    | IndexExtendTask
    | IndexCompactTask
    | OpenIndexTask
    | ExplainTask
)
