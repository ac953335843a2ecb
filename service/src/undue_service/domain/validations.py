"""Jobs `model_validation` and `dataset_validation`: what is registered is opened and checked."""

from dataclasses import dataclass
from typing import Literal


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
