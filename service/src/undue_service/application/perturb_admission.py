"""What is known to be wrong with a perturb job before a runner sees it."""

from math import prod

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.perturbation import AttackSettings
from undue_service.domain.reports import ColumnSchema, DatasetReport, ModelReport

_FIELD = "job.perturb"
_FLOATING = ("float16", "bfloat16", "float32", "float64")


def check_perturb(spec: Perturb, model: ModelReport, train: DatasetReport) -> None:
    """Hold a perturb job against the model's inputs and the rows that there are.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; INPUT_NOT_DIFFERENTIABLE where the named input, or every
            one, is of integers; INVALID_FIELD for more candidates than rows, or limits that do not fit the input.
    """
    settings = spec.settings
    _check_settings(settings)
    perturbed = perturbed_input(settings, model)
    _check_candidates(settings, train.rows)
    _check_columns(settings, perturbed)


def perturbed_input(settings: AttackSettings, model: ModelReport) -> ColumnSchema:
    """Return the input that is perturbed.

    Raises:
        InvalidArgument: INPUT_NOT_DIFFERENTIABLE where there is no such input of floating-point numbers; INVALID_FIELD
            where there are several and none is named.
    """
    field = f"{_FIELD}.input"
    if settings.input is not None:
        found = next((one for one in model.inputs if one.name == settings.input), None)
        if found is None:
            listed = ", ".join(repr(one.name) for one in model.inputs)
            raise InvalidArgument.at(field, f"the model has no input {settings.input!r}; it has {listed}")
        candidates = [found]
    else:
        candidates = list(model.inputs)
    floating = [one for one in candidates if one.dtype in _FLOATING]
    if not floating:
        listed = ", ".join(f"{one.name!r} ({one.dtype})" for one in candidates)
        text = (
            f"{listed} holds integers, such as tokens, which cannot be moved by a little: perturb embeddings instead, "
            "by registering a model whose input is the embedding"
        )
        raise InvalidArgument.at(field, text, Reason.INPUT_NOT_DIFFERENTIABLE)
    if len(floating) > 1:
        listed = ", ".join(repr(one.name) for one in floating)
        raise InvalidArgument.at(field, f"name the one to perturb: the model has {listed}")
    return floating[0]


def _check_settings(settings: AttackSettings) -> None:
    """Hold the settings against each other, and name a wrong one by its path in the request."""
    try:
        settings.check()
    except InvalidArgument as error:
        [found] = error.violations
        raise InvalidArgument.at(f"{_FIELD}.{found.field}", found.description, found.reason) from error


def _check_candidates(settings: AttackSettings, rows: int) -> None:
    wrong = next((row for row in settings.candidate_rows if not 0 <= row < rows), None)
    if wrong is not None:
        text = f"row {wrong} does not exist; the data set has {rows:,} rows, numbered from 0"
        raise InvalidArgument.at(f"{_FIELD}.candidate_rows", text, Reason.ROW_OUT_OF_RANGE)
    if settings.candidates > rows:
        text = f"{settings.candidates:,} are more than the {rows:,} training rows"
        raise InvalidArgument.at(f"{_FIELD}.candidates", text)


def _check_columns(settings: AttackSettings, perturbed: ColumnSchema) -> None:
    """Hold limits and places against the numbers of one row."""
    size = prod(perturbed.shape)
    for name in ("minimum", "maximum"):
        limit = getattr(settings, name)
        if limit is not None and len(limit) not in (1, size):
            text = (
                f"has {len(limit):,} numbers, and a row of {perturbed.name!r} has {size:,}: give one for each, or one"
            )
            raise InvalidArgument.at(f"{_FIELD}.{name}", text)
    wrong = next((place for place in settings.fixed if not 0 <= place < size), None)
    if wrong is not None:
        text = f"there is no number {wrong} in a row of {perturbed.name!r}, which has {size:,}, numbered from 0"
        raise InvalidArgument.at(f"{_FIELD}.fixed", text)
    if len(set(settings.fixed)) == size:
        raise InvalidArgument.at(f"{_FIELD}.fixed", "holds every number of a row: nothing is left to perturb")
