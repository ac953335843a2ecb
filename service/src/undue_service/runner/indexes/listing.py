"""The training rows that answers list, each once for all calls of a batch."""

from collections.abc import Mapping, Sequence

import numpy as np

from undue_service.domain.errors import Reason
from undue_service.domain.reports import CallFailure
from undue_service.domain.tasks import ExplainCall
from undue_service.engine.index import Found
from undue_service.engine.queries import RowFacts
from undue_service.wire.attachments import AnswerArrays, ListedRows
from undue_service.wire.examples import Array
from undue_service.wire.framing import MAX_ANSWER_BYTES

from .rows import JoinedRows

INSTANCE_BYTES = MAX_ANSWER_BYTES // 2
"""Of the instances of a batch; the other half is for what is said of them."""


def list_rows(
    found: Sequence[Found],
    answers: Mapping[int, AnswerArrays],
    calls: Sequence[ExplainCall],
    rows: JoinedRows,
    limit: int = INSTANCE_BYTES,
) -> tuple[ListedRows, dict[int, CallFailure]]:
    """Return the rows that the answers list, and the calls whose instances are too large to be sent.

    Args:
        found: what the engine found, of which the answers are.
        answers: by the places of their calls.
        calls: of the batch.
        rows: of the index.
        limit: bytes of the instances.
    """
    inputs = _inputs(found, rows)
    row_bytes = sum(values[:1].nbytes for values in inputs.values())
    of_calls = {place: _listed(one) for place, one in answers.items()}
    shown, failures = _shown(of_calls, calls, row_bytes, limit)
    needed = [listed for place, listed in of_calls.items() if place not in failures]
    listed = np.unique(np.concatenate([np.zeros(0, np.int64), *needed]))
    if not found:
        return _none(), failures
    facts = RowFacts.joined([one.train for one in found])
    at = _first(facts.rows, listed)
    which, within = rows.places(listed)
    table = ListedRows(
        row=listed,
        dataset=which,
        dataset_row=within,
        ids=rows.ids(listed),
        prediction=facts.predictions[at],
        target=facts.targets[at],
        loss=facts.losses[at],
        shown=np.searchsorted(listed, shown),
        inputs={name: values[_first(facts.rows, shown)] for name, values in inputs.items()} if len(shown) else {},
    )
    return table, failures


def _shown(
    of_calls: Mapping[int, Array], calls: Sequence[ExplainCall], row_bytes: int, limit: int
) -> tuple[Array, dict[int, CallFailure]]:
    """Return the rows whose inputs are sent, ascending, and the calls that ask for too many."""
    failures: dict[int, CallFailure] = {}
    shown: Array = np.zeros(0, np.int64)
    for place, listed in of_calls.items():
        if not calls[place].with_instances:
            continue
        together = np.union1d(shown, listed)
        if len(together) * row_bytes <= limit:
            shown = together
        else:
            fits = len(listed) * row_bytes <= limit
            failures[place] = no_room() if fits else _too_large(len(listed), row_bytes, limit)
    return shown, failures


def no_room() -> CallFailure:
    """Return the failure of a call whose answer fits, but not together with the others of its batch."""
    text = "what other callers asked for at the same time left no room for the answer: ask again"
    return CallFailure("UNAVAILABLE", Reason.TOO_MANY_REQUESTS, text)


def _too_large(count: int, row_bytes: int, limit: int) -> CallFailure:
    text = (
        f"the instances of the {count:,} rows that the answer lists take {count * row_bytes:,} bytes, more than the "
        f"{limit:,} of one answer: ask about fewer rows, with a smaller top_k, or without instances"
    )
    return CallFailure("RESOURCE_EXHAUSTED", Reason.INVALID_FIELD, text, {"limit": str(limit)})


def _inputs(found: Sequence[Found], rows: JoinedRows) -> dict[str, Array]:
    """Return the inputs of all rows that were found, in the types of the data."""
    parts = [one.instances.inputs for one in found]
    dtypes = rows.dtypes() if parts else {}  # torch lacks some of them
    return {
        name: np.concatenate([part[name].numpy() for part in parts]).astype(dtype, copy=False)
        for name, dtype in dtypes.items()
    }


def _listed(answer: AnswerArrays) -> Array:
    listed = np.unique(np.concatenate([answer.helpful_rows.ravel(), answer.harmful_rows.ravel()]))
    return listed[listed >= 0]


def _first(rows: Array, wanted: Array) -> Array:
    """Return where each wanted row stands first; rows come in any order, some more than once."""
    order = np.argsort(rows, kind="stable")
    return order[np.searchsorted(rows[order], wanted)]


def _none() -> ListedRows:
    nothing: Array = np.zeros(0, np.int64)
    return ListedRows(nothing, nothing, nothing, (), nothing, nothing, nothing.astype(np.float64), nothing, {})
