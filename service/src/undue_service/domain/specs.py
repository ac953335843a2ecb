"""What is asked for: the settings of models, data sets and jobs, as plain values."""

from dataclasses import dataclass, field
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
    """Real: no part of it was a link."""
    size: int
    mtime_ns: int
    ctime_ns: int
    """Whoever may write to a file may set its mtime, but not when it or what is known of it was last changed."""
    inode: int
    """These four are the file's when it was registered: any other one is another file."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A data set in files."""

    format: FileFormat
    files: tuple[UploadedFile | LocatedFile, ...]
    schema: SchemaSpec
    uri: str | None = None
    """What was asked for, where the files are read where they lie."""
    kind: Literal["file"] = "file"

    @property
    def listed_apart(self) -> bool:
        """Whether its files, of which there may be very many, are kept apart from it. No answer names them."""
        return self.uri is not None and self.format not in SEVERAL_FILES

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
