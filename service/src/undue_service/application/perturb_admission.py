"""What is known to be wrong with a perturb job before a runner sees it."""

from collections.abc import Sequence
from math import prod

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.perturbation import AttackSettings
from undue_service.domain.reports import ColumnSchema, ModelReport
from undue_service.domain.resources import Registration

from .checks import check_dense, check_recipe, check_rows
from .validated import dataset_report, is_regression, model_report

_FIELD = "job.perturb"
_FLOATING = ("float16", "bfloat16", "float32", "float64")


def check_perturb_job(spec: Perturb, model: Registration, train: Registration, test: Registration) -> None:
    """Hold a perturb job against the model's inputs and the rows that there are.

    Raises:
        InvalidArgument: OBJECTIVE_MISMATCH for a regression; ROW_OUT_OF_RANGE; INPUT_NOT_DIFFERENTIABLE where the named
            input, or every one, is of integers; INVALID_FIELD for more candidates than rows, or limits that do not fit
            the input.
        FailedPrecondition: TOO_MANY_PARAMETERS; RECIPE_MISSING.
    """
    settings, found = spec.settings, model_report(model)
    if is_regression(model):
        text = f"{model.name} is a regression, whose predictions are numbers: none flips"
        raise InvalidArgument.at(f"{_FIELD}.model", text, Reason.OBJECTIVE_MISMATCH)
    _check_attacks(spec.attacks, dataset_report(test).rows)
    _check_settings(settings)
    perturbed = perturbed_input(settings, found)
    _check_candidates(settings, dataset_report(train).rows)
    _check_columns(settings, perturbed)
    check_recipe(_FIELD, model)
    if found.linear_head:
        check_dense("perturb", DENSE_PARAMETER_LIMIT, found)


def _check_attacks(attacks: Sequence[Sequence[int]], rows: int) -> None:
    """Hold what is aimed at against the test rows; an attack named twice would make the share look surer than it is."""
    seen: dict[frozenset[int], int] = {}
    for place, targets in enumerate(attacks):
        field = f"{_FIELD}.attacks[{place}].rows"
        check_rows(field, targets, rows)
        first = seen.setdefault(frozenset(targets), place)
        if first != place:
            raise InvalidArgument.at(field, f"aims at the same test rows as attack {first}: name each once")


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
    check_rows(f"{_FIELD}.candidate_rows", settings.candidate_rows, rows)
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
