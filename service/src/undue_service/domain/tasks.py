"""What a runner is asked to do: a job with everything it names looked up."""

from dataclasses import dataclass
from typing import Literal

from .specs import DataSource, Fidelity, Influence, Leverage, ModelSpec, Retrain, SelfInfluence


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
class RowsTask:
    """Read some rows of a data set."""

    source: DataSource
    rows: tuple[int, ...]
    kind: Literal["rows"] = "rows"


Task = (
    ModelTask | DatasetTask | InfluenceTask | SelfInfluenceTask | RetrainTask | FidelityTask | LeverageTask | RowsTask
)
