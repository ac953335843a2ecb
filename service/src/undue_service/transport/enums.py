"""Enums of the API and the domain's words for them."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

from undue.v1 import datasets_pb2, indexes_pb2, jobs_pb2, mislabels_pb2, models_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.indexes import IndexState
from undue_service.domain.jobs import JobState
from undue_service.domain.mislabels import RankingName
from undue_service.domain.reports import ParameterUse
from undue_service.domain.resources import ResourceState
from undue_service.domain.specs import DType, ModelFormat

D = TypeVar("D")


class Words(Generic[D]):
    """A table between an enum's numbers and the domain's words."""

    def __init__(self, words: Mapping[Any, D]) -> None:
        self._to_domain: dict[Any, D] = dict(words)
        self._to_proto = {word: number for number, word in words.items()}

    def to_domain(self, field: str, number: int) -> D:
        """Return the domain's word.

        Raises:
            InvalidArgument: the field has no value, or one that is not known.
        """
        if number not in self._to_domain:
            raise InvalidArgument.at(
                field, "must be set to one of " + ", ".join(str(word) for word in self._to_domain.values())
            )
        return self._to_domain[number]

    def to_proto(self, word: D) -> Any:
        """Return the enum's number."""
        return self._to_proto[word]


FORMATS: Words[ModelFormat] = Words(
    {
        models_pb2.Model.FORMAT_ONNX: "onnx",
        models_pb2.Model.FORMAT_PT2: "pt2",
        models_pb2.Model.FORMAT_SAFETENSORS: "safetensors",
    }
)
FILE_FORMATS: Words[str] = Words(
    {
        datasets_pb2.FileSource.FORMAT_NPZ: "npz",
        datasets_pb2.FileSource.FORMAT_PARQUET: "parquet",
        datasets_pb2.FileSource.FORMAT_CSV: "csv",
        datasets_pb2.FileSource.FORMAT_IDX: "idx",
        datasets_pb2.FileSource.FORMAT_IMAGE_FOLDER: "image_folder",
    }
)
PARAMETER_USES: Words[ParameterUse] = Words(
    {
        models_pb2.ParameterInfo.USE_LINEAR: "linear",
        models_pb2.ParameterInfo.USE_CONVOLUTION: "convolution",
        models_pb2.ParameterInfo.USE_EMBEDDING: "embedding",
        models_pb2.ParameterInfo.USE_NORMALISATION: "normalisation",
        models_pb2.ParameterInfo.USE_ELEMENTWISE: "elementwise",
        models_pb2.ParameterInfo.USE_OTHER: "other",
    }
)
LOSSES: Words[str] = Words(
    {
        models_pb2.Objective.LOSS_CROSS_ENTROPY: "cross_entropy",
        models_pb2.Objective.LOSS_BINARY_LOGISTIC: "binary_logistic",
        models_pb2.Objective.LOSS_SQUARED_ERROR: "squared_error",
        models_pb2.Objective.LOSS_SMOOTH_HINGE: "smooth_hinge",
    }
)
MEASUREMENTS: Words[str] = Words(
    {
        jobs_pb2.MEASUREMENT_LOSS: "loss",
        jobs_pb2.MEASUREMENT_LOGIT: "logit",
        jobs_pb2.MEASUREMENT_MARGIN: "margin",
    }
)
WEIGHTS_FORMATS: Words[str] = Words(
    {
        models_pb2.WeightsFile.FORMAT_SAFETENSORS: "safetensors",
        models_pb2.WeightsFile.FORMAT_ONNX: "onnx",
        models_pb2.WeightsFile.FORMAT_PT2: "pt2",
    }
)
OPTIMIZERS: Words[str] = Words({models_pb2.Training.OPTIMIZER_SGD: "sgd", models_pb2.Training.OPTIMIZER_ADAM: "adam"})
SCHEDULES: Words[str | None] = Words(
    {
        models_pb2.Training.SCHEDULE_UNSPECIFIED: None,
        models_pb2.Training.SCHEDULE_LINEAR: "linear",
        models_pb2.Training.SCHEDULE_COSINE: "cosine",
    }
)
INITIALISERS: Words[str] = Words({models_pb2.Training.INITIALISER_TORCH: "torch"})
NORMALIZATIONS: Words[str] = Words({jobs_pb2.NORMALIZATION_THETA: "theta", jobs_pb2.NORMALIZATION_LOSS: "loss"})
STARTS: Words[str] = Words({jobs_pb2.START_WARM: "warm", jobs_pb2.START_COLD: "cold"})
PROTOCOLS: Words[str] = Words(
    {jobs_pb2.FidelitySettings.PROTOCOL_LOO: "loo", jobs_pb2.FidelitySettings.PROTOCOL_LDS: "lds"}
)
RANKINGS: Words[RankingName] = Words(
    {
        mislabels_pb2.RANKING_SELF_INFLUENCE: "self_influence",
        mislabels_pb2.RANKING_LOSS: "loss",
        mislabels_pb2.RANKING_MARGIN: "margin",
        mislabels_pb2.RANKING_CONFIDENT_LEARNING: "confident_learning",
        mislabels_pb2.RANKING_RANDOM: "random",
    }
)
SCALES: Words[str] = Words({jobs_pb2.SCALE_REMOVAL: "removal", jobs_pb2.SCALE_RELATIVE: "relative"})
DAMPING_SOURCES: Words[str] = Words(
    {
        jobs_pb2.Diagnostics.DAMPING_SOURCE_GIVEN: "given",
        jobs_pb2.Diagnostics.DAMPING_SOURCE_CONVEX: "convex",
        jobs_pb2.Diagnostics.DAMPING_SOURCE_MEAN_EIGENVALUE: "mean_eigenvalue",
        jobs_pb2.Diagnostics.DAMPING_SOURCE_UNUSED: "unused",
    }
)
MODEL_STATES: Words[ResourceState] = Words(
    {getattr(models_pb2.Model, f"STATE_{state.value}"): state for state in ResourceState}
)
DATASET_STATES: Words[ResourceState] = Words(
    {getattr(datasets_pb2.Dataset, f"STATE_{state.value}"): state for state in ResourceState}
)
INDEX_STATES: Words[IndexState] = Words(
    {getattr(indexes_pb2.Index, f"STATE_{state.value}"): state for state in IndexState}
)
JOB_STATES: Words[JobState] = Words({getattr(jobs_pb2.Job, f"STATE_{state.value}"): state for state in JobState})
DTYPES: Words[DType] = Words(
    {
        number: cast(DType, name.removeprefix("DATA_TYPE_").lower())
        for name, number in tensors_pb2.DataType.items()
        if number != tensors_pb2.DATA_TYPE_UNSPECIFIED
    }
)
