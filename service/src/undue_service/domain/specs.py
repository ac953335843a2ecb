"""What is asked for: the settings of models, data sets and jobs, as plain values."""

import math
from dataclasses import dataclass, field
from typing import Literal

from .architectures import ArchitectureChoice
from .comparison import Compare
from .edits import EditSpec
from .errors import InvalidArgument
from .group_influence import GroupInfluence
from .mislabels import Mislabels
from .perturb_jobs import Perturb

ObjectiveName = Literal["cross_entropy", "binary_logistic", "squared_error", "smooth_hinge"]

Measurement = Literal["loss", "logit", "margin"]

Start = Literal["warm", "cold"]
"""Where training by a recipe begins: at the registered weights, or at the recipe's initial ones."""

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
class FidelitySettings:
    """How scores are held against retraining.

    "loo": leave-one-out on rows at random and on rows from strata of the score, from the same start with the same
    recipe. "lds": the linear datamodelling score (Park et al. 2023) over random subsets.
    """

    protocol: Literal["loo", "lds"] = "loo"
    samples: int = 50
    """loo: training rows drawn at random, and as many again over the strata. lds: subsets."""
    strata: int = 5
    """loo: quantiles of the score's size, averaged over the test rows, from each of which equally many are drawn."""
    share: float = 0.5
    """lds: of the training rows in a subset."""
    seeds: int = 1
    """Retrainings of each, averaged."""
    start: Start | None = None
    """None: cold where the recipe has an initialiser, else warm; a linear head is always fitted to its minimum."""
    bootstrap: int = 1000
    """Resamples behind each interval of 95 %."""
    seed: int = 0


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
    parameters: tuple[str, ...] = ()
    """fnmatch patterns of the parameters that the scores run over; none means those that the model registered."""
    rank: int | None = None
    """What a method truncates to (docs/scores.md says what for each); None is the method's own."""
    normalization: Literal["theta", "loss"] | None = None
    """Of `relatif`; None is "theta"."""
    ensemble: bool = False
    """Whether scores are averaged over the registered checkpoints."""
    seed: int = 0
    """Of whatever a method draws at random."""
    fidelity: FidelitySettings | None = None
    """Whether the scores are held against retraining, and how."""
    kind: Literal["influence"] = "influence"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are explained, of a test set of so many rows."""
        return len(self.rows) or of_set


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
    parameters: tuple[str, ...] = ()
    """fnmatch patterns of the parameters that the scores run over; none means those that the model registered."""
    rank: int | None = None
    """What a method truncates to (docs/scores.md says what for each); None is the method's own."""
    normalization: Literal["theta", "loss"] | None = None
    """Of `relatif`; None is "theta"."""
    ensemble: bool = False
    """Whether scores are averaged over the registered checkpoints."""
    seed: int = 0
    """Of whatever a method draws at random."""
    kind: Literal["self_influence"] = "self_influence"


@dataclass(frozen=True, slots=True)
class Retrain:
    """Job: measure what changes when training rows are removed or edited, by fitting the model again."""

    model: str
    train: str
    test: str
    without: tuple[tuple[int, ...], ...] = ()
    """One fit for each: the training rows that it goes without."""
    counterfactuals: tuple[EditSpec, ...] = ()
    """One fit for each, after those."""
    rows: tuple[int, ...] = ()
    """Test rows; none means all."""
    measurement: Measurement = "loss"
    tolerance: float | None = None
    """‖∇R‖ at which a fit has converged; None is 1e-10."""
    max_iterations: int | None = None
    """Of one fit; None is 100."""
    start: Start | None = None
    """As in FidelitySettings; of a model that is no linear head."""
    seeds: int = 1
    """Retrainings of each set, averaged; of a model that is no linear head."""
    kind: Literal["retrain"] = "retrain"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are measured, of a test set of so many rows."""
        return len(self.rows) or of_set

    def edit(self, index: int) -> EditSpec | None:
        """Return what the counterfactual at a position edits; None where it only leaves rows out."""
        place = index - len(self.without)
        return self.counterfactuals[place] if place >= 0 else None


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Job: hold a method's scores against retraining."""

    model: str
    train: str
    test: str
    settings: FidelitySettings = field(default_factory=FidelitySettings)
    rows: tuple[int, ...] = ()
    """Test rows; none means all."""
    method: str = "exact"
    measurement: Measurement = "loss"
    damping: float | None = None
    leverage_correction: bool | None = None
    tolerance: float | None = None
    max_iterations: int | None = None
    parameters: tuple[str, ...] = ()
    """fnmatch patterns of the parameters that the scores run over; none means those that the model registered."""
    rank: int | None = None
    """What a method truncates to (docs/scores.md says what for each); None is the method's own."""
    normalization: Literal["theta", "loss"] | None = None
    """Of `relatif`; None is "theta"."""
    ensemble: bool = False
    """Whether scores are averaged over the registered checkpoints."""
    seed: int = 0
    """Of whatever a method draws at random."""
    kind: Literal["fidelity"] = "fidelity"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are measured, of a test set of so many rows."""
        return len(self.rows) or of_set

    def scoring(self) -> Influence:
        """Return the job that makes the scores, all of them."""
        return Influence(
            model=self.model,
            train=self.train,
            test=self.test,
            rows=self.rows,
            method=self.method,
            measurement=self.measurement,
            damping=self.damping,
            top_k=None,
            leverage_correction=self.leverage_correction,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            parameters=self.parameters,
            rank=self.rank,
            normalization=self.normalization,
            ensemble=self.ensemble,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Leverage:
    """Job: leverage, Cook's distance and DFBETA of the training rows of a linear model, in closed form."""

    model: str
    train: str
    damping: float | None = None
    dfbeta: bool = False
    """Whether the (n, P) changes of the coefficients are kept."""
    kind: Literal["leverage"] = "leverage"


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


def ranking_of(spec: Mislabels) -> SelfInfluence | None:
    """Return the job whose scores a mislabels job ranks by; None where it does not ask for them."""
    if "self_influence" not in spec.rankings:
        return None
    return SelfInfluence(
        model=spec.model,
        train=spec.train,
        method=spec.method,
        damping=spec.damping,
        leverage_correction=spec.leverage_correction,
        seed=spec.seed,
    )
