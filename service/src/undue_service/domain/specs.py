"""What is asked for: the settings of models, data sets and jobs, as plain values."""

from dataclasses import dataclass, field
from math import prod
from typing import Literal

ObjectiveName = Literal["cross_entropy", "binary_logistic", "squared_error"]
Measurement = Literal["loss", "logit", "margin"]
DType = Literal[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "utf8",
]
"""NumPy's names of element types; "utf8" for strings, each ended by a NUL byte."""


@dataclass(frozen=True, slots=True)
class ObjectiveSpec:
    """R(θ) = (1/n) Σ w_i ℓ_i(θ) + l2/2 · ‖θ‖² over the parameters not excluded."""

    name: ObjectiveName
    l2: float = 0.0
    l2_exclude: tuple[str, ...] = ()
    """fnmatch patterns of parameters that the L2 term leaves out."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """An array whose raw little-endian C-order bytes are an artifact."""

    dtype: DType
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class ArraysSource:
    """A data set sent as arrays."""

    inputs: dict[str, TensorRef]
    targets: TensorRef | None = None
    ids: TensorRef | None = None
    weights: TensorRef | None = None
    groups: dict[str, TensorRef] = field(default_factory=dict)
    """Name to strings or integers by which rows are told apart."""
    kind: Literal["arrays"] = "arrays"

    def digests(self) -> tuple[str, ...]:
        """Return the artifacts that this source is made of."""
        optional = (self.targets, self.ids, self.weights)
        return tuple(ref.digest for ref in (*self.inputs.values(), *self.groups.values(), *optional) if ref is not None)


@dataclass(frozen=True, slots=True)
class TransformSpec:
    """(x · scale − mean) / std in float32, in another shape of row."""

    row_shape: tuple[int, ...] = ()
    """None keeps the shape."""
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    """One number, or one for each entry of the row's first axis; none means 0."""
    std: tuple[float, ...] = ()
    """As mean; none means 1."""


@dataclass(frozen=True, slots=True)
class SchemaSpec:
    """Which columns of a file play which part."""

    inputs: dict[str, tuple[str, ...]]
    """Input name to its columns: one column of any rank, or several scalar ones that are stacked in this order."""
    target: str | None = None
    id: str | None = None
    weight: str | None = None
    groups: tuple[str, ...] = ()
    """Columns of strings or integers by which rows are told apart."""
    transforms: dict[str, TransformSpec] = field(default_factory=dict)
    """Input name to what is done to its values."""


FileFormat = Literal["npz", "parquet", "csv", "idx", "image_folder"]
SEVERAL_FILES: frozenset[FileFormat] = frozenset({"parquet", "csv", "idx"})
"""Formats of which several files may make one data set."""


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file of a data set that is an artifact."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class LocatedFile:
    """A file of a data set that is read where it lies."""

    name: str
    path: str
    size: int
    mtime_ns: int
    """Size and time of the last change when it was registered: another one is another file."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A data set in files."""

    format: FileFormat
    files: tuple[UploadedFile | LocatedFile, ...]
    schema: SchemaSpec
    uri: str | None = None
    """What was asked for, where the files are read where they lie."""
    kind: Literal["file"] = "file"

    def digests(self) -> tuple[str, ...]:
        """Return the artifacts that this source is made of."""
        return tuple(file.digest for file in self.files if isinstance(file, UploadedFile))


DataSource = ArraysSource | FileSource


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as it was registered."""

    format: Literal["onnx", "pt2"]
    digest: str
    objective: ObjectiveSpec
    parameters: tuple[str, ...] = ()
    """fnmatch patterns of the parameters that influence runs over; none means all."""
    output: str | None = None
    """Name of the output that is the prediction; needed where there are several."""
    sample: str | None = None
    """Resource name of the data set whose rows the parity and fit checks use."""

    def digests(self) -> tuple[str, ...]:
        """Return the artifacts that this model is made of."""
        return (self.digest,)


@dataclass(frozen=True, slots=True)
class ModelValidation:
    """Job: open a model in a runner and check it."""

    model: str
    kind: Literal["model_validation"] = "model_validation"


@dataclass(frozen=True, slots=True)
class DatasetValidation:
    """Job: open a data set in a runner and check it."""

    dataset: str
    kind: Literal["dataset_validation"] = "dataset_validation"


@dataclass(frozen=True, slots=True)
class Influence:
    """Job: score training rows for test rows. Positive = removal raises the test row's cost."""

    model: str
    train: str
    test: str
    rows: tuple[int, ...] = ()
    """Test rows; none means all."""
    method: str = "exact"
    measurement: Measurement = "loss"
    damping: float | None = None
    """λ of the damped Hessian; None resolves to one reported scalar."""
    top_k: int | None = 10
    """How many rows a side; None keeps the whole score matrix."""
    leverage_correction: bool | None = None
    """None: on where the method has one and the model is a linear head."""
    tolerance: float | None = None
    """Relative residual at which an iterative solver stops; None is its own."""
    max_iterations: int | None = None
    """Of one solve; None is the solver's own limit."""
    aggregate: Literal["mean"] | None = None
    """None explains each row by itself; "mean" the mean of the rows' costs."""
    kind: Literal["influence"] = "influence"


@dataclass(frozen=True, slots=True)
class SelfInfluence:
    """Job: rank training rows by their influence on their own loss."""

    model: str
    train: str
    method: str = "exact"
    damping: float | None = None
    top_k: int | None = None
    """How many rows to keep; None keeps all."""
    leverage_correction: bool | None = None
    tolerance: float | None = None
    max_iterations: int | None = None
    kind: Literal["self_influence"] = "self_influence"


@dataclass(frozen=True, slots=True)
class Retrain:
    """Job: measure what changes when training rows are removed, by fitting the model again without them."""

    model: str
    train: str
    test: str
    without: tuple[tuple[int, ...], ...]
    """One fit for each: the training rows that it goes without."""
    rows: tuple[int, ...] = ()
    """Test rows; none means all."""
    measurement: Measurement = "loss"
    tolerance: float | None = None
    """‖∇R‖ at which a fit has converged; None is 1e-10."""
    max_iterations: int | None = None
    """Of one fit; None is 100."""
    kind: Literal["retrain"] = "retrain"


RequestedJob = Influence | SelfInfluence | Retrain
"""What CreateJob queues; validations come with what they validate."""
JobSpec = ModelValidation | DatasetValidation | RequestedJob


def named_resources(spec: "JobSpec | ModelSpec | DataSource") -> tuple[str, ...]:
    """Return the models and data sets that a job works on, or that a model was checked with, each once.

    A validation is part of what it validates and names nothing.
    """
    match spec:
        case Influence(model=model, train=train, test=test) | Retrain(model=model, train=train, test=test):
            return tuple(dict.fromkeys((model, train, test)))
        case SelfInfluence(model=model, train=train):
            return (model, train)
        case ModelSpec(sample=str(sample)):
            return (sample,)
    return ()


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


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter of a model."""

    name: str
    shape: tuple[int, ...]
    selected: bool
    """Whether influence runs over it."""
    l2: bool
    """Whether the L2 term covers it."""


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
class ModelReport:
    """What validation found in a model."""

    inputs: tuple[ColumnSchema, ...]
    outputs: tuple[str, ...]
    parameters: tuple[ParameterInfo, ...]
    dtype: DType
    linear_head: bool
    """Whether the prediction is linear in every selected parameter."""
    output_activation: str
    """A softmax or sigmoid that ends the model and that the objective looks behind; empty for none."""
    parity_max_abs: float | None
    """Largest difference between onnxruntime and torch on the sample rows; None without ONNX or a sample."""
    parity_rows: int
    stationarity: Stationarity | None
    warnings: tuple[str, ...]
    outputs_per_row: int = 1
    """C: how many numbers a prediction is."""
    speed: Speed | None = None
    """None without a sample."""
    kind: Literal["model_report"] = "model_report"

    @property
    def dim(self) -> int:
        """Return P, the number of selected parameters."""
        return sum(prod(one.shape) for one in self.parameters if one.selected)


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
    """model, train, test and code, each sha256."""
    seconds: float
    warnings: tuple[str, ...] = ()
    matvecs: int = 0
    """Products of the damped Hessian with one vector that the solves took, those for the residuals included."""


@dataclass(frozen=True, slots=True)
class InfluenceReport:
    """What a job that scores or measures leaves: diagnostics beside its result artifacts."""

    diagnostics: Diagnostics
    rows: int
    train_rows: int
    kind: Literal["influence_report"] = "influence_report"


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

    report: ModelReport | DatasetReport | InfluenceReport | RowsReport
    files: tuple[Produced, ...] = field(default=())
