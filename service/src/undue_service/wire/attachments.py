"""What travels beside a task and its result: the arrays of an ExplainTask, which is too short for files. Safetensors.

Questions: for call i of the batch `{i}.input.{name}` (B, …), and where it has any `{i}.targets` (B,) or (B, c).
Answers: for every call i that has one `{i}.prediction`, `{i}.target`, `{i}.loss` (B,), and `{i}.helpful_rows`,
`{i}.helpful_scores`, `{i}.harmful_rows`, `{i}.harmful_scores` (B, k), unused places −1; for each of the u training rows
that any of them names, once, `row` (ascending), `dataset`, `dataset_row`, `prediction`, `target`, `loss` (u,), `ids`,
strings as in `results`; and for v of these, `shown` (v,) by their places, `input.{name}` (v, …).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.results import Answer, Explanation, IndexedRows, Questions, ScoredExample
from undue_service.domain.tasks import EXPLAIN_ROWS, ExplainCall

from .examples import Array, decode_texts, encode_texts, values
from .framing import MAX_ANSWER_BYTES

MAX_HEADER_BYTES = 1 << 20
"""Of the names and shapes of the arrays that a runner sends."""


@dataclass(frozen=True, slots=True)
class AnswerArrays:
    """What a runner found for the B rows of one call; k places a side."""

    prediction: Array
    """(B,) classes (integers) or numbers (floating), or (B, c) several numbers."""
    target: Array
    """What was explained, like `prediction`."""
    loss: Array
    """(B,)."""
    helpful_rows: Array
    """(B, k) row numbers of the index; unused places, at the end of a row, −1."""
    helpful_scores: Array
    """(B, k), largest first."""
    harmful_rows: Array
    """(B, k)."""
    harmful_scores: Array
    """(B, k), most negative first."""


@dataclass(frozen=True, slots=True)
class ListedRows:
    """The u training rows that the calls of a batch list, each once."""

    row: Array
    """(u,) row numbers of the index, ascending."""
    dataset: Array
    """(u,) places among the index's data sets."""
    dataset_row: Array
    """(u,) row numbers of the data set."""
    ids: Sequence[str]
    """Where the data set has none, its row numbers."""
    prediction: Array
    """(u,) or (u, c), as in AnswerArrays."""
    target: Array
    """(u,) or (u, c)."""
    loss: Array
    """(u,)."""
    shown: Array
    """(v,) places, ascending, of those rows whose inputs are here: those that a call with instances lists."""
    inputs: Mapping[str, Array]
    """(v, …) each, as a model sees them; none where v is 0."""


def encode_questions(questions: Sequence[Questions]) -> bytes:
    """Return the arrays of a batch of calls."""
    arrays: dict[str, Array] = {}
    for place, one in enumerate(questions):
        arrays |= {f"{place}.input.{name}": array for name, array in one.inputs.items()}
        if one.targets is not None:
            arrays[f"{place}.targets"] = one.targets
    return _save(arrays)


def decode_questions(data: bytes) -> list[Questions]:
    """Return the calls of a batch, in their order.

    Raises:
        ValueError: these are not the arrays of a batch.
    """
    parts = _by_call(_load(data))
    if sorted(parts) != list(range(len(parts))):
        raise ValueError("a batch of calls that lacks one")
    found = []
    for place in range(len(parts)):
        arrays = parts[place]
        targets = arrays.pop("targets", None)
        found.append(Questions(_named(arrays, "input."), targets))
    return found


def encode_answers(answers: Mapping[int, AnswerArrays], listed: ListedRows) -> bytes:
    """Return the answers of a batch, by the places of their calls: those of failed calls are left out.

    Raises:
        ResourceExhausted: INVALID_FIELD where they have more than MAX_ANSWER_BYTES.
    """
    arrays: dict[str, Array] = {f"input.{name}": array for name, array in listed.inputs.items()}
    arrays |= {name: getattr(listed, name) for name in _LISTED} | {"ids": encode_texts(listed.ids)}
    for place, one in answers.items():
        arrays |= {f"{place}.{field.name}": getattr(one, field.name) for field in fields(one)}
    data = _save(arrays)
    check_answer(len(data))
    return data


def check_answer(size: int) -> None:
    """Refuse an answer of so many bytes, most of which are usually instances, if that is too many.

    Raises:
        ResourceExhausted: INVALID_FIELD.
    """
    if size > MAX_ANSWER_BYTES:
        text = (
            f"the answer would have {size / 2**20:.1f} MiB, more than the {MAX_ANSWER_BYTES >> 20} MiB allowed: ask "
            "about fewer rows at once, with a smaller top_k, or without instances and read those rows with ReadRows"
        )
        raise ResourceExhausted(Reason.INVALID_FIELD, text, metadata={"limit": str(MAX_ANSWER_BYTES)})


def decode_answers(data: bytes, calls: Sequence[ExplainCall]) -> dict[int, Answer]:
    """Return the answers by the places of their calls, with the instances of those that ask for them.

    Raises:
        ValueError: these are not answers of such calls.
    """
    # What is said in a few bytes of a file may take a thousand times as many here.
    _check(int.from_bytes(data[:8], "little") <= MAX_HEADER_BYTES, "a header")
    arrays = _load(data)
    try:
        listed = _Listed(arrays)
        parts = _by_call(arrays)
        if not set(parts) <= set(range(len(calls))):
            raise ValueError("an answer to a call that was not made")
        return {place: listed.answer(part, calls[place]) for place, part in parts.items()}
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no answers: {error!r}") from error


class _Listed:
    """The table of listed rows, as values."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        columns = {name: arrays[name] for name in _LISTED}
        shown, self._row = columns.pop("shown"), columns["row"]
        n = len(self._row)
        for name in ("row", "dataset", "dataset_row"):
            _check(columns[name].shape == (n,) and columns[name].dtype == np.int64, name)
        _check(bool((np.diff(self._row) > 0).all()), "row")
        _check(all(len(column) == n for column in columns.values()) and _are_finite(columns.values()), "listed rows")
        _check(int((arrays["ids"] == 0).sum()) == n, "ids")
        ids = decode_texts(arrays["ids"])
        self._dataset, self._dataset_row = columns["dataset"], columns["dataset_row"]
        self._examples = list(
            zip(
                self._row.tolist(),
                ids,
                values(columns["target"]),
                values(columns["prediction"]),
                columns["loss"].tolist(),
                strict=True,
            )
        )
        self._inputs = _named(arrays, "input.")
        _check(shown.ndim == 1 and bool((np.diff(shown) > 0).all()), "shown")
        _check(not len(shown) or (shown.dtype.kind == "i" and shown[0] >= 0 and shown[-1] < n), "shown")
        inputs = self._inputs.values()
        _check(all(len(array) == len(shown) and array.dtype.kind in "biuf" for array in inputs), "input")
        self._shown = np.full(n, -1)
        self._shown[shown] = np.arange(len(shown))

    def answer(self, arrays: Mapping[str, Array], call: ExplainCall) -> Answer:
        """Return one call's answer."""
        sides = [arrays[f"{side}_{part}"] for side in ("helpful", "harmful") for part in ("rows", "scores")]
        tests = [arrays[name] for name in ("prediction", "target", "loss")]
        count, k = sides[0].shape
        _check(count <= EXPLAIN_ROWS and k <= call.top_k and all(one.shape == (count, k) for one in sides), "lists")
        _check(all(len(one) == count for one in tests) and _are_finite([*tests, *sides]), "explanations")
        _check(sides[0].dtype == sides[2].dtype == np.int64, "rows")
        rows = np.concatenate([sides[0], sides[2]], axis=1)
        scores = np.concatenate([sides[1], sides[3]], axis=1).tolist()
        used = rows >= 0
        places = np.searchsorted(self._row, rows)
        _check(bool((self._row[places[used]] == rows[used]).all()), "rows")
        entries, is_used = places.tolist(), used.tolist()
        explained = zip(values(tests[0]), values(tests[1]), tests[2].tolist(), strict=True)

        def scored(at: int, side: slice) -> tuple[ScoredExample, ...]:
            found = zip(entries[at][side], scores[at][side], is_used[at][side], strict=True)
            return tuple(self._scored(place, score) for place, score, here in found if here)

        explanations = tuple(
            Explanation(
                row=at,
                id="",
                prediction=prediction,
                target=target,
                loss=loss,
                helpful=scored(at, slice(0, k)),
                harmful=scored(at, slice(k, 2 * k)),
            )
            for at, (prediction, target, loss) in enumerate(explained)
        )
        return Answer(explanations, self._instances(np.unique(places[used])) if call.with_instances else ())

    def _scored(self, place: int, score: float) -> ScoredExample:
        row, identity, target, prediction, loss = self._examples[place]
        return ScoredExample(row, identity, score, target, prediction, loss)

    def _instances(self, places: Array) -> tuple[IndexedRows, ...]:
        _check(bool((self._shown[places] >= 0).all()), "shown")
        found = []
        for dataset in np.unique(self._dataset[places]).tolist():
            here = places[self._dataset[places] == dataset]
            found.append(
                IndexedRows(
                    dataset=dataset,
                    rows=tuple(self._row[here].tolist()),
                    dataset_rows=tuple(self._dataset_row[here].tolist()),
                    inputs={name: array[self._shown[here]] for name, array in self._inputs.items()},
                )
            )
        return tuple(found)


_LISTED = ("row", "dataset", "dataset_row", "prediction", "target", "loss", "shown")
_CALL = re.compile(r"(\d{1,6})\.(.+)", re.DOTALL)


def _by_call(arrays: Mapping[str, Array]) -> dict[int, dict[str, Array]]:
    found: dict[int, dict[str, Array]] = {}
    for key, array in arrays.items():
        if match := _CALL.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = array
    return found


def _named(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _check(is_so: bool, what: str) -> None:
    if not is_so:
        raise ValueError(f"{what} of another kind or size than the rest")


def _are_finite(arrays: Iterable[Array]) -> bool:
    """Return whether these are finite numbers; several for each row are floating ones, of four bytes or eight."""
    return all(
        array.dtype.kind in "biuf"
        and (array.ndim == 1 or (array.dtype.kind == "f" and array.dtype.itemsize >= 4) or array.dtype == np.int64)
        and bool(np.isfinite(array).all())
        for array in arrays
    )


def _save(arrays: Mapping[str, Array]) -> bytes:
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _load(data: bytes) -> dict[str, Array]:
    try:
        return load(data)
    except (SafetensorError, KeyError, AttributeError) as error:  # the last two: element types that NumPy lacks
        raise ValueError(f"no arrays: {error}") from error
