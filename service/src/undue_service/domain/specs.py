"""What is asked for: the settings of models and data sets, as plain values, and the kinds of jobs that there are."""

import math
from dataclasses import dataclass, field
from typing import Literal

from .architectures import ArchitectureChoice
from .comparison import Compare
from .errors import InvalidArgument
from .fidelity import Fidelity
from .group_influence import GroupInfluence
from .index_jobs import IndexExtend, IndexJob, IndexSpec
from .influence import Influence
from .leverage import Leverage
from .mislabels import Mislabels
from .perturb_jobs import Perturb
from .retraining import Retrain
from .self_influence import SelfInfluence
from .validations import DatasetValidation, ModelValidation

ObjectiveName = Literal["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]

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
    temperature: float = 0.0
    """t of smooth_hinge, > 0; 0 for every other loss."""


def check_temperature(objective: ObjectiveSpec, field: str = "objective") -> None:
    """Raise InvalidArgument (INVALID_FIELD) for a temperature that a loss has not, or for none where it needs one."""
    t, smooth = objective.temperature, objective.name == "smooth_hinge"
    if smooth and not (math.isfinite(t) and t > 0):
        text = (
            f"smooth_hinge needs a finite temperature > 0, not {t}: the hinge itself has no second derivative, so "
            "influence is that of its surrogate, with 0.001 to 0.1 for a model that was trained with the hinge"
        )
        raise InvalidArgument.at(f"{field}.temperature", text)
    if not smooth and t != 0:
        raise InvalidArgument.at(f"{field}.temperature", f"{objective.name} has no temperature: leave it out")


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


WeightsFormat = Literal["safetensors", "onnx", "pt2"]


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file that holds a value of every parameter of a model, by the names that the model has for them."""

    format: WeightsFormat
    digest: str


Initialiser = Literal["torch"]
"""Of a cold start: "torch" draws each tap's weights as torch's own layer would."""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """The recipe by which a model was trained: that of its retraining.

    Each step descends (1/B) Σ w_i ℓ_i + l2/2 · ‖mask ∘ θ‖² over B rows; B stays where rows are left out of it.
    """

    optimizer: Literal["sgd", "adam"]
    lr: float
    epochs: int
    batch_size: int | None = None
    """None: all rows in each step."""
    momentum: float = 0.0
    """Of SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam."""
    eps: float = 1e-8
    """Of Adam."""
    schedule: Literal["linear", "cosine"] | None = None
    """Of the learning rate, from lr to 0 over all steps; None keeps it."""
    seed: int = 0
    """Of the rows' order, and of a named initialiser."""
    init: WeightsFile | Initialiser | None = None
    """Where a cold start begins; None: only warm starts, from the registered weights."""


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """The same model at other weights: of an earlier epoch, or of another seed."""

    weights: WeightsFile
    learning_rate: float
    """η of the steps that it stands for."""


ModelFormat = Literal["onnx", "pt2", "safetensors"]
""""safetensors" holds weights alone, of an architecture."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as it was registered."""

    format: ModelFormat
    digest: str
    objective: ObjectiveSpec
    parameters: tuple[str, ...] = ()
    """fnmatch patterns of the parameters that influence runs over; none means all."""
    output: str | None = None
    """Name of the output that is the prediction; needed where there are several."""
    sample: str | None = None
    """Resource name of the data set whose rows the parity and fit checks use."""
    training: TrainingSpec | None = None
    checkpoints: tuple[CheckpointSpec, ...] = ()
    architecture: ArchitectureChoice | None = None
    """Of safetensors: what the weights are loaded into."""

    def digests(self) -> tuple[str, ...]:
        """Return the artifacts that this model is made of."""
        init = self.training.init if self.training is not None else None
        weights = (*(one.weights for one in self.checkpoints), *([init] if isinstance(init, WeightsFile) else []))
        return (self.digest, *(one.digest for one in weights))


ResumedJob = IndexJob | Perturb
"""Jobs that a later attempt goes on with from what an earlier one left in a workspace."""

ScoringJob = Influence | SelfInfluence | Fidelity | GroupInfluence | Compare
"""Jobs that run a method."""

MeasuringJob = Influence | Retrain | Fidelity | GroupInfluence | Compare
"""Jobs that measure a cost of test rows, all of which they may name."""

TestingJob = MeasuringJob | Mislabels | Perturb
"""Jobs that may work on a test set."""

RequestedJob = TestingJob | SelfInfluence | Leverage
"""What CreateJob queues; validations come with what they validate."""

JobSpec = ModelValidation | DatasetValidation | IndexJob | RequestedJob


def named_resources(spec: "JobSpec | ModelSpec | IndexSpec | DataSource") -> tuple[str, ...]:
    """Return the models and data sets that a job works on, a model was checked with or an index is of, each once.

    A validation is part of what it validates and names nothing.
    """
    if isinstance(spec, RequestedJob):
        other = spec.other if isinstance(spec, Compare) else None
        return tuple(dict.fromkeys(filter(None, (spec.model, other, spec.train, test_of(spec)))))
    match spec:
        case ModelSpec(sample=str(sample)):
            return (sample,)
        case IndexSpec(model=model, train=train):
            return (model, train)
        case IndexExtend(dataset=dataset):
            return (dataset,)
    return ()


def test_of(spec: RequestedJob) -> str:
    """Return the name of the test set that a job works on; empty where it works on none."""
    return spec.test if isinstance(spec, TestingJob) else ""
