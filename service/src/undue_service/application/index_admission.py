"""What is known to be wrong with an index before a runner sees it."""

from dataclasses import replace

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.indexes import Index
from undue_service.domain.methods import (
    DENSE_PARAMETER_LIMIT,
    INDEX_GAUSS_NEWTON_LIMIT,
    INDEX_METHODS,
    default_index_method,
    method_spec,
)
from undue_service.domain.reports import ColumnSchema, DatasetReport, ModelReport
from undue_service.domain.resources import Registration

from .checks import check_dense, check_leverage, trained_on
from .validated import dataset_report, model_report


def settled_index(spec: IndexSpec, model: Registration, train: Registration) -> IndexSpec:
    """Return what an index is built of, with the method that it gets where it names none, and the versions.

    Raises:
        InvalidArgument: METHOD_UNKNOWN; INVALID_FIELD for a method that no index has; LEVERAGE_UNAVAILABLE;
            TARGETS_MISSING; DATASET_DEGENERATE; PARAMETERS_NOT_FOUND.
        FailedPrecondition: TOO_MANY_PARAMETERS.
    """
    trained_on("index.train", train)
    found = model_report(model).selecting(spec.parameters)
    method = spec.method or default_index_method(found.linear_head, found.dim)
    _check_method(spec, method, found)
    return replace(spec, method=method, model=model.name, train=train.name)


def _check_method(spec: IndexSpec, method: str, model: ModelReport) -> None:
    if method not in INDEX_METHODS:
        method_spec(method)  # raises where there is no such method at all
        listed = f"{', '.join(map(repr, INDEX_METHODS[:-1]))} and {INDEX_METHODS[-1]!r}"
        text = f"{method!r} scores rows by a job only; indexes are built by {listed}"
        raise InvalidArgument.at("index.method", text)
    advice = ', or use method="ekfac"'
    if method == "exact":
        check_dense("exact", DENSE_PARAMETER_LIMIT, model, advice)
    if method == "gauss_newton":
        # An index holds the decomposed matrix; a job's solve in the space of the rows has none.
        limit = DENSE_PARAMETER_LIMIT if model.linear_head else INDEX_GAUSS_NEWTON_LIMIT
        check_dense("gauss_newton in an index", limit, model, advice)
    if spec.leverage_correction:
        if not method_spec(method).has_leverage_correction:
            text = f'{method} has no leverage correction; use method="exact", or leave leverage_correction out'
            raise InvalidArgument.at("index.leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)
        check_leverage("index", spec, model)


def check_extension(index: Index, model: Registration, train: Registration, added: Registration) -> None:
    """Hold rows that are to be appended against those that an index was built of.

    Raises:
        InvalidArgument: TARGETS_MISSING, INPUT_MISMATCH or TARGET_MISMATCH; INVALID_FIELD where it holds them already.
    """
    if added.name in index.datasets:
        raise InvalidArgument.at("dataset", f"{index.name} holds the rows of {added.name} already")
    known, new = dataset_report(train), dataset_report(added)
    if new.target is None:
        text = f"{added.name} has no targets, so no row of it has a loss: register it with targets"
        raise InvalidArgument.at("dataset", text, Reason.TARGETS_MISSING)
    wanted, found = (_inputs(model_report(model), one) for one in (known, new))
    if wanted != found:
        text = f"{added.name} has {_listed(new.inputs)} where {train.name} has {_listed(known.inputs)}"
        raise InvalidArgument.at("dataset", text, Reason.INPUT_MISMATCH)
    if known.target is None or _kind(known.target) != _kind(new.target):
        was = "no target" if known.target is None else f"the target {_listed((known.target,))}"
        text = f"{added.name} has the target {_listed((new.target,))} where {train.name} has {was}"
        raise InvalidArgument.at("dataset", text, Reason.TARGET_MISMATCH)


def check_erasure(index: Index, rows: tuple[int, ...], held: int, erased: int) -> None:
    """Hold rows that are to be erased against those of an index.

    Args:
        index: that is ready.
        rows: their numbers.
        held: how many rows its data sets have together.
        erased: how many rows would be erased of them.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; INVALID_FIELD where no row would be left.
    """
    wrong = next((row for row in rows if not 0 <= row < held), None)
    if wrong is not None:
        text = f"row {wrong} does not exist; {index.name} has {held:,} rows, numbered from 0"
        raise InvalidArgument.at("rows", text, Reason.ROW_OUT_OF_RANGE)
    if erased >= held:
        raise InvalidArgument.at("rows", f"leave no row of {index.name} to explain anything by: delete the index")


def _inputs(model: ModelReport, rows: DatasetReport) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes of what a model reads of a data set: by name, or its only column as its only input."""
    shapes = {column.name: column.shape for column in rows.inputs}
    if len(model.inputs) == len(shapes) == 1:
        return {model.inputs[0].name: rows.inputs[0].shape}
    return {column.name: shapes.get(column.name) for column in model.inputs}


def _kind(target: ColumnSchema) -> tuple[tuple[int, ...], bool]:
    """Return a target's shape and whether it is a number, not a label."""
    return target.shape, target.dtype.startswith(("float", "bfloat"))


def _listed(columns: tuple[ColumnSchema, ...]) -> str:
    return ", ".join(f"{one.name!r} ({one.dtype} of shape {one.shape} a row)" for one in columns)
