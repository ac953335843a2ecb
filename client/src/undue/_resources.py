"""What the service knows, as frozen values: models, data sets, progress, the installation itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy.typing as npt

from ._architectures import Architecture, ArchitectureInfo
from ._inputs import Objective
from ._recipes import Training


class State(StrEnum):
    """Whether a model or a data set can be used."""

    VALIDATING = "VALIDATING"
    READY = "READY"
    FAILED = "FAILED"


class JobState(StrEnum):
    """How far a job has come."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing can change any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed."""

    reason: str
    """Stable, for programs; `undue.v1.ErrorReason`."""
    message: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come."""

    state: JobState
    stage: str
    """What it is doing."""
    done: int
    total: int
    """0 where it is not known."""
    rate: float = 0.0
    """How much of the stage is done in a second; 0 where it is not known yet."""
    seconds_left: float | None = None
    """How long the stage will take from here; None where it is not known."""

    @property
    def fraction(self) -> float | None:
        """How much of the stage is done, from 0 to 1; None where it is not known."""
        return min(1.0, self.done / self.total) if self.total > 0 else None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What is known of one array without its values."""

    name: str
    dtype: str
    """NumPy's name of the element type; "utf8" for strings."""
    row_shape: tuple[int, ...]
    """Shape of one row."""


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter of a model."""

    name: str
    shape: tuple[int, ...]
    selected: bool
    """Whether influence runs over it."""
    l2: bool
    """Whether the L2 term covers it."""
    uses: tuple[str, ...] = ()
    """What the model does with it: linear, convolution, embedding, normalisation, elementwise or other."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far onnxruntime and torch agree on a model."""

    max_abs_difference: float
    """Largest absolute difference of any output on the checked rows."""
    rows: int
    """How many rows were checked."""


@dataclass(frozen=True, slots=True)
class Stationarity:
    """How near the registered weights are to a minimum of the registered objective."""

    gradient_norm: float
    """‖∇R(θ)‖ over the selected parameters."""
    relative: float
    """‖∇R(θ)‖ over the mean of ‖∇ℓ_i(θ)‖: 0 at a minimum."""
    mean_loss: float
    """Mean loss, without the L2 term."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What validation found in a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    parameters: tuple[ParameterInfo, ...]
    dtype: str
    """Element type of the parameters."""
    linear_head: bool
    """Whether the prediction is linear in every selected parameter."""
    output_activation: str
    """What ends the model and the objective looks behind: a softmax or sigmoid, or that two outputs are made of one
    score; empty for none."""
    parity: Parity | None
    """None without an ONNX file or a sample."""
    stationarity: Stationarity | None
    """None without a sample."""
    warnings: tuple[str, ...]
    output: str = ""
    """Name of the output that is the prediction."""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A registered checkpoint of a model."""

    learning_rate: float
    stationarity: Stationarity | None
    """How near its weights are to a minimum of the objective on the sample; None before READY, and without a sample."""


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model. A version never changes once it is registered."""

    name: str
    """`models/{id}/versions/{n}`."""
    state: State
    format: str
    """"onnx", "pt2" or "safetensors" (weights alone, of an architecture)."""
    objective: Objective
    parameters: tuple[str, ...]
    """fnmatch patterns of the parameters that influence runs over; none means all."""
    output: str | None
    """Name of the output that is the prediction; None for the only one."""
    sample: str | None
    """Name of the data set that the parity and fit checks used."""
    report: ModelReport | None
    """What validation found; None until READY."""
    failure: Failure | None
    """Why validation failed."""
    validation_job: str
    create_time: datetime
    etag: str = ""
    """Changes whenever the version does; `delete` takes it, to delete only what was seen."""
    training: Training | None = None
    """The recipe by which it was trained; its `init` is "torch", "weights" (a file that the service keeps) or None."""
    checkpoints: tuple[CheckpointInfo, ...] = ()
    architecture: Architecture | None = None
    """Of weights alone: what they are loaded into."""

    @property
    def version(self) -> int:
        """The number of this version, counted from 1."""
        return _version(self.name)


@dataclass(frozen=True, slots=True)
class Group:
    """A column by whose values rows are told apart."""

    name: str
    values: int
    """How many different ones it has."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What validation found in a data set."""

    rows: int
    inputs: tuple[TensorSpec, ...]
    target: TensorSpec | None
    has_ids: bool
    has_weights: bool
    digest: str
    """sha256 over names, types, shapes and values: the same data has the same digest in every format."""
    groups: tuple[Group, ...] = ()
    classes: tuple[str, ...] = ()
    """What the labels 0, 1, … stand for, where the files say so: the folders of images."""
    files: tuple[str, ...] = ()
    """The files that were read, in their order."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One version of a data set. A version never changes once it is registered."""

    name: str
    """`datasets/{id}/versions/{n}`."""
    state: State
    format: str
    """"arrays", "npz", "parquet", "csv", "idx" or "image_folder"."""
    report: DatasetReport | None
    """What validation found; None until READY."""
    failure: Failure | None
    """Why validation failed."""
    validation_job: str
    create_time: datetime
    etag: str = ""
    """Changes whenever the version does; `delete` takes it, to delete only what was seen."""
    uri: str | None = None
    """Where the service reads it; None where it was sent."""

    @property
    def version(self) -> int:
        """The number of this version, counted from 1."""
        return _version(self.name)

    def __len__(self) -> int:
        """Return the number of rows.

        Raises:
            ValueError: the data set is not READY, so its rows have not been counted.
        """
        if self.report is None:
            raise ValueError(f"{self.name} is {self.state}: its rows have not been counted")
        return self.report.rows

    def __bool__(self) -> bool:
        return True  # not the length: a data set is no container, and an unread one has none


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would take, from a cost model and the speed that was measured when its model was registered."""

    rows: int
    """Rows that are read, each once."""
    peak_bytes: int
    """Memory of the runner at its peak."""
    seconds: float
    """Time of computing, once a runner has started and opened the model. Good to a factor of about two."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One row of a data set: the instance itself, as the model sees it.

    What came in the same answer as an explanation has neither weight nor groups; `client.datasets.read` tells them.
    """

    row: int
    """Row of the data set; of what `explain` was asked about, of its inputs."""
    id: str
    inputs: Mapping[str, npt.NDArray[Any]]
    """By name; a single input may have the empty name."""
    target: int | float | npt.NDArray[Any] | None
    """None where the data set has no targets."""
    weight: float | None
    groups: Mapping[str, str]
    dataset: str = ""
    """The data set that it is a row of, as it was named; empty for a row that `explain` was asked about."""

    @property
    def input(self) -> npt.NDArray[Any]:
        """The only input.

        Raises:
            ValueError: there are several.
        """
        if len(self.inputs) != 1:
            raise ValueError(f"there are {len(self.inputs)} inputs: {', '.join(self.inputs)}")
        return next(iter(self.inputs.values()))


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One attribution method."""

    name: str
    scale: str
    """"removal": a score is a change of the cost, in its unit; "relative": only order and relative size count."""
    estimand: str
    """What it estimates."""
    uses_damping: bool
    is_iterative: bool = False
    """Whether it takes a tolerance and a number of iterations."""
    has_leverage_correction: bool = False
    rank: str = ""
    """What `rank` truncates; empty where it takes none."""
    has_normalization: bool = False
    needs_checkpoints: bool = False
    draws_at_random: bool = False
    """Whether its seed changes the scores."""
    has_self_influence: bool = True
    parameter_limit: int | None = None
    """The most parameters that it works on; None for any number."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may not exceed."""

    max_upload_bytes: int
    max_chunk_bytes: int
    max_page_size: int


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """One process of the service that runs models."""

    pid: int
    """Process id on the service's machine."""
    device: str
    lane: str
    """"batch" or "serve"."""
    state: str
    """STARTING, IDLE or BUSY."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What an installation is and can do."""

    version: str
    methods: tuple[MethodInfo, ...]
    limits: Limits
    devices: tuple[str, ...]
    """"cpu", "cuda:0", …"""
    runners: tuple[RunnerInfo, ...]
    libraries: Mapping[str, str]
    """Versions of the libraries that compute, by name; empty until a runner has started."""
    architectures: tuple[ArchitectureInfo, ...] = ()
    """What weights alone may be registered as."""


def _version(name: str) -> int:
    return int(name.rpartition("/")[2])
