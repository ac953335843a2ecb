"""What was found: reports of validations and jobs, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Literal

from .errors import InvalidArgument, Reason
from .perturb_jobs import PerturbationSummary
from .specs import DType


@dataclass(frozen=True, slots=True)
class ColumnSchema:
    """One column of a data set as it was found."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    """Shape of one row."""


@dataclass(frozen=True, slots=True)
class GroupSchema:
    """A column by whose values rows are told apart."""

    name: str
    values: int
    """How many different ones it has."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What validation found in a data set."""

    rows: int
    inputs: tuple[ColumnSchema, ...]
    target: ColumnSchema | None
    has_ids: bool
    has_weights: bool
    digest: str
    """sha256 over names, types, shapes and values: the same data has the same digest in every format."""
    groups: tuple[GroupSchema, ...] = ()
    classes: tuple[str, ...] = ()
    """What the labels 0, 1, … stand for, where the files say so."""
    files: tuple[str, ...] = ()
    """Names of the files that were read, in their order."""
    inputs_vary: bool = True
    """Whether any input differs between rows."""
    targets_vary: bool = True
    """Whether the targets do."""
    kind: Literal["dataset_report"] = "dataset_report"


ParameterUse = Literal["linear", "convolution", "embedding", "normalisation", "elementwise", "other"]


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter of a model."""

    name: str
    shape: tuple[int, ...]
    selected: bool
    """Whether influence runs over it."""
    l2: bool
    """Whether the L2 term covers it."""
    uses: tuple[ParameterUse, ...] = ()
    """What the model does with it; empty where that was not looked at."""


@dataclass(frozen=True, slots=True)
class Stationarity:
    """How near the registered weights are to a minimum of the registered objective."""

    gradient_norm: float
    """‖∇R(θ)‖ over the selected parameters."""
    relative: float
    """‖∇R(θ)‖ over the mean of ‖∇ℓ_i(θ)‖: 0 at a minimum, near 1 where all rows pull the same way."""
    mean_loss: float


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured of a model's cost when it was registered, on the device that checked it."""

    row_seconds: float
    """Of one training row's loss and gradient."""
    product_seconds: float
    """Of one training row's share in the product of the Hessian with one vector; 0 for a linear head, where it is two
    matrix products."""
    flops_per_second: float
    """Of a float64 matrix product."""
    base_bytes: int
    """Memory of the runner with the model open."""
    row_bytes: int
    """Memory of one row in a block of rows."""


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """What validation found at one checkpoint."""

    stationarity: Stationarity | None
    """On the sample; None without one that has targets."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What validation found in a model."""

    inputs: tuple[ColumnSchema, ...]
    outputs: tuple[str, ...]
    parameters: tuple[ParameterInfo, ...]
    dtype: DType
    linear_head: bool
    """Whether the prediction is linear in every selected parameter."""
    output_activation: str
    """What ends the model and the objective looks behind: a softmax or sigmoid, or that two outputs are made of one
    score; empty for none."""
    parity_max_abs: float | None
    """Largest difference between onnxruntime and torch on the sample rows; None without ONNX or a sample."""
    parity_rows: int
    stationarity: Stationarity | None
    warnings: tuple[str, ...]
    outputs_per_row: int = 1
    """C: how many numbers a prediction is."""
    speed: Speed | None = None
    """None without a sample."""
    checkpoints: tuple[CheckpointReport, ...] = ()
    """In the order of the model's checkpoints."""
    output: str = ""
    """Name of the output that is the prediction."""
    kind: Literal["model_report"] = "model_report"

    @property
    def dim(self) -> int:
        """Return P, the number of selected parameters."""
        return sum(prod(one.shape) for one in self.parameters if one.selected)

    def selecting(self, patterns: Sequence[str]) -> "ModelReport":
        """Return the report of the same model with other parameters selected; no patterns leave it as it is.

        Whether another selection is a linear head is not known before a runner looks: it counts as none.

        Raises:
            InvalidArgument: PARAMETERS_NOT_FOUND where a pattern matches nothing.
        """
        if not patterns:
            return self
        names = [one.name for one in self.parameters]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
                text = f"no parameter matches {pattern!r}; there are {listed}"
                raise InvalidArgument.at("parameters", text, Reason.PARAMETERS_NOT_FOUND)
        chosen = tuple(
            replace(one, selected=any(fnmatchcase(one.name, pattern) for pattern in patterns))
            for one in self.parameters
        )
        return replace(self, parameters=chosen, linear_head=self.linear_head and chosen == self.parameters)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with the bootstrap interval of 95 % around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Predicted against measured changes, over pairs of a retraining and a test row."""

    pearson: Interval
    spearman: Interval
    slope: Interval
    """Of measured on predicted, through the origin: 1 where the size is right; of no meaning for relative scores."""
    retrainings: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Stratum:
    """The rows of one quantile of the score's size."""

    low: float
    high: float
    """Bounds of the mean |score| over the test rows."""
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class FidelityFinding:
    """How well scores foretell what retraining does."""

    protocol: Literal["loo", "lds"]
    recipe: str
    """What was retrained, from where, and with which divisor."""
    agreement: Agreement
    """loo: over the rows drawn at random. lds: sums over subsets against costs, pooled within each test row."""
    strata: tuple[Stratum, ...] = ()
    """loo only."""
    lds: Interval | None = None
    """lds only: Spearman's correlation over the subsets, averaged over the test rows."""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What a score is an estimate of, and how far to trust it."""

    estimand: str
    scale: Literal["removal", "relative"]
    method: str
    damping: float
    damping_source: Literal["given", "convex", "mean_eigenvalue", "unused"]
    leverage_correction: bool
    solver: str
    solver_status: str
    residual: float
    """Largest ‖(H+λI)s − v‖ / ‖v‖ over the right-hand sides; 0 where nothing was solved."""
    stationarity: Stationarity
    recipe: str
    seed: int
    dtype: DType
    device: str
    digests: dict[str, str]
    """model, train, test and code, and checkpoints where the model has any, each sha256."""
    seconds: float
    warnings: tuple[str, ...] = ()
    matvecs: int = 0
    """Products of the damped Hessian with one vector that the solves took, those for the residuals included."""
    fidelity: FidelityFinding | None = None
    """Where it was asked for."""


@dataclass(frozen=True, slots=True)
class InfluenceReport:
    """What a job that scores or measures leaves: diagnostics beside its result artifacts."""

    diagnostics: Diagnostics
    rows: int
    train_rows: int
    other: Diagnostics | None = None
    """Of another model that was asked, too."""
    kind: Literal["influence_report"] = "influence_report"


@dataclass(frozen=True, slots=True)
class PerturbationReport:
    """What a perturb job leaves beside its result artifacts."""

    diagnostics: Diagnostics
    summary: PerturbationSummary
    attacks: int
    train_rows: int
    kind: Literal["perturbation_report"] = "perturbation_report"


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What building or changing an index leaves beside its files."""

    rows: int
    """That its files hold."""
    bytes: int
    """Of its files."""
    bytes_per_row: float
    """Of its files, without what all rows share."""
    resident_bytes: int
    """Memory that it takes in a runner, beside the model."""
    recall: float
    """Share of the 10 most helpful and 10 most harmful rows of a dense scan that the search found; ties are equal."""
    recall_queries: int
    """Over so many training rows that were asked about."""
    staleness: float
    """Relative difference of the curvature of the rows that it holds from the fitted one."""
    diagnostics: Diagnostics
    rows_read: int = 0
    """Training rows that the job read: 0 where it only wrote what was there anew."""
    kind: Literal["index_report"] = "index_report"


@dataclass(frozen=True, slots=True)
class OpenedReport:
    """What opening an index leaves: it is resident in the runner."""

    index: str
    resident_bytes: int
    kind: Literal["opened_report"] = "opened_report"


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why one call of a batch has no answer."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExplainReport:
    """What explaining a batch of calls leaves beside its arrays."""

    resident: bool
    """Whether the index was there; where not, nothing was done: open it, then ask again."""
    failures: dict[int, CallFailure] = field(default_factory=dict)
    """By the place of the call in the batch."""
    recall: float = 0.0
    """As it was measured when the index was built."""
    method: str = ""
    damping: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """gradient, screen, rescore, instances."""
    kind: Literal["explain_report"] = "explain_report"


@dataclass(frozen=True, slots=True)
class RowsReport:
    """What reading some rows leaves beside the file that holds them."""

    rows: int
    kind: Literal["rows_report"] = "rows_report"


@dataclass(frozen=True, slots=True)
class Produced:
    """A file that a runner left in its scratch folder, to be kept as an artifact."""

    role: str
    path: str


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a finished task hands back."""

    report: (
        ModelReport
        | DatasetReport
        | InfluenceReport
        | PerturbationReport
        | IndexReport
        | RowsReport
        | OpenedReport
        | ExplainReport
    )
    files: tuple[Produced, ...] = field(default=())
    kept: tuple[str, ...] = ()
    """Roles of files that the task was given and that stay what they are: of an index that was changed."""
    attachment: bytes = b""
    """Arrays, as safetensors, of a task that is too short-lived for files. They travel beside this value."""
