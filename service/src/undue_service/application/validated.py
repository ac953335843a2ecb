"""What is known of a registered model or data set: how it was registered, and what its validation found."""

from undue_service.domain.reports import DatasetReport, ModelReport
from undue_service.domain.resources import Registration
from undue_service.domain.specs import ModelSpec


def dataset_report(registration: Registration) -> DatasetReport:
    """Return what validation found in a data set that is READY."""
    assert isinstance(registration.report, DatasetReport)  # noqa: S101  it is ready
    return registration.report


def model_report(registration: Registration) -> ModelReport:
    """Return what validation found in a model that is READY."""
    assert isinstance(registration.report, ModelReport)  # noqa: S101  it is ready
    return registration.report


def model_spec(registration: Registration) -> ModelSpec:
    """Return a model as it was registered."""
    assert isinstance(registration.spec, ModelSpec)  # noqa: S101  the registry keeps the two collections apart
    return registration.spec


def is_regression(model: Registration) -> bool:
    """Return whether a model's predictions are numbers, not labels."""
    return model_spec(model).objective.name == "squared_error"
