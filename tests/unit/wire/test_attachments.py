"""Arrays that travel beside ExplainTasks: what is written is read, and nothing that a runner sends passes for more."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from undue_service.domain.errors import ResourceExhausted
from undue_service.domain.results import Questions
from undue_service.domain.tasks import ExplainCall
from undue_service.wire.attachments import (
    AnswerArrays,
    ListedRows,
    decode_answers,
    decode_questions,
    encode_answers,
    encode_questions,
)
from undue_service.wire.framing import MAX_ANSWER_BYTES

N = 1000


def test_questions_are_read_as_they_were_written():
    rng = np.random.default_rng(0)
    questions = [
        Questions({"x": rng.normal(size=(2, 3, 4)).astype(np.float32), "targets": np.arange(2)}, np.array([3, 1])),
        Questions({"": rng.integers(0, 255, (1, 5), dtype=np.uint8)}, None),
        Questions({"1.input.x": rng.normal(size=(4, 1))[::2]}, rng.normal(size=(2, 2))),
    ]
    read = decode_questions(encode_questions(questions))
    assert len(read) == 3
    for one, other in zip(read, questions, strict=True):
        assert one.inputs.keys() == other.inputs.keys()
        for name, array in other.inputs.items():
            np.testing.assert_array_equal(one.inputs[name], array, strict=True)
        assert (one.targets is None) == (other.targets is None)
        if other.targets is not None:
            np.testing.assert_array_equal(one.targets, other.targets, strict=True)


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, save({"1.input.x": np.zeros(1)})], ids=["none", "noise", "gap"])
def test_what_is_no_batch_of_questions_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"arrays|lacks"):
        decode_questions(data)


def answers(seed, counts, k=3, *, numbers=0, width=2):
    """Random answers of some calls, and the rows that they list; of unused places the last of each list."""
    rng = np.random.default_rng(seed)

    def some(n):
        return rng.normal(size=(n, numbers)) if numbers else rng.integers(0, 10, n)

    calls = {}
    for place, count in counts.items():
        rows = np.stack([rng.choice(N, 2 * k, replace=False) for _ in range(count)])
        used = rng.integers(0, k + 1, (count, 2, 1))
        helpful, harmful = np.where(np.arange(k) < used, rows.reshape(count, 2, k), -1).swapaxes(0, 1)
        scores = np.sort(np.abs(rng.normal(size=(count, 2, k))), axis=2)[..., ::-1]
        calls[place] = AnswerArrays(
            some(count), some(count), rng.normal(size=count), helpful, scores[:, 0], harmful, -scores[:, 1]
        )
    named = [one for call in calls.values() for one in (call.helpful_rows, call.harmful_rows)]
    row = np.unique(np.concatenate([one.ravel() for one in named] or [np.zeros(0, np.int64)]))
    row = row[row >= 0]
    listed = ListedRows(
        row=row,
        dataset=(row >= 600).astype(np.int64),
        dataset_row=row % 600,
        ids=[f"é-{number}" for number in row.tolist()],
        prediction=some(len(row)),
        target=some(len(row)),
        loss=rng.normal(size=len(row)),
        shown=np.arange(len(row)),
        inputs={"x": np.repeat(row[:, None], width, axis=1).astype(np.float32), "y": row},
    )
    return calls, listed


@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.dictionaries(st.integers(0, 5), st.integers(1, 4), max_size=4),
    numbers=st.integers(0, 2),
    k=st.integers(1, 4),
)
def test_answers_are_read_as_they_were_written(seed, counts, numbers, k):
    found, listed = answers(seed, counts, k, numbers=numbers)
    read = decode_answers(encode_answers(found, listed), [ExplainCall(top_k=k, with_instances=True)] * 6)
    places = {row: place for place, row in enumerate(listed.row.tolist())}

    def value(one):
        return tuple(one.tolist()) if numbers else int(one)

    assert set(read) == set(counts)
    for place, answer in read.items():
        arrays = found[place]
        mentioned = set()
        for at, one in enumerate(answer.explanations):
            assert (one.row, one.id, one.loss) == (at, "", arrays.loss[at])
            assert (one.prediction, one.target) == (value(arrays.prediction[at]), value(arrays.target[at]))
            for side in ("helpful", "harmful"):
                rows, scores = (getattr(arrays, f"{side}_{part}")[at] for part in ("rows", "scores"))
                entries = getattr(one, side)
                assert [entry.row for entry in entries] == rows[rows >= 0].tolist()
                assert [entry.score for entry in entries] == scores[rows >= 0].tolist()
                for entry in entries:
                    there = places[entry.row]
                    assert (entry.id, entry.loss) == (listed.ids[there], listed.loss[there])
                    assert entry.prediction == value(listed.prediction[there])
                    assert entry.target == value(listed.target[there])
                    mentioned.add(entry.row)
        shown = {}
        for part in answer.instances:
            for at, (row, in_dataset) in enumerate(zip(part.rows, part.dataset_rows, strict=True)):
                assert (part.dataset, in_dataset) == (int(row >= 600), row % 600)
                assert (part.inputs["x"][at] == row).all()
                shown[row] = part.inputs["y"][at]
        assert shown == {row: row for row in mentioned}
        assert len({part.dataset for part in answer.instances}) == len(answer.instances)


def test_a_call_without_instances_has_none_and_needs_none():
    found, listed = answers(1, {0: 2, 1: 2})
    calls = [ExplainCall(with_instances=False), ExplainCall()]
    wanted = np.concatenate([found[1].helpful_rows.ravel(), found[1].harmful_rows.ravel()])
    shown = np.flatnonzero(np.isin(listed.row, wanted))
    part = replace(listed, shown=shown, inputs={name: array[shown] for name, array in listed.inputs.items()})
    read = decode_answers(encode_answers(found, part), calls)
    whole = decode_answers(encode_answers(found, listed), calls)
    assert read[0].instances == ()
    assert [one.rows for one in read[1].instances] == [one.rows for one in whole[1].instances]
    for one, other in zip(read[1].instances, whole[1].instances, strict=True):
        np.testing.assert_array_equal(one.inputs["x"], other.inputs["x"])
    with pytest.raises(ValueError, match="shown"):
        decode_answers(encode_answers(found, part), [ExplainCall(), ExplainCall()])


FAULTS = {
    "a row that is not listed": {"0.helpful_rows": lambda a: np.full_like(a, N + 5)},
    "rows that are no integers": {"0.harmful_rows": lambda a: a.astype(np.float64)},
    "lists of unlike length": {"0.harmful_rows": lambda a: a[:, :-1]},
    "fewer losses": {"0.loss": lambda a: a[:-1]},
    "no number": {"0.helpful_scores": lambda a: np.full_like(a, np.nan)},
    "infinity": {"loss": lambda a: np.full_like(a, np.inf)},
    "complex numbers": {"0.loss": lambda a: a.astype(np.complex64)},
    "no array of rows": {"0.helpful_rows": lambda _: np.array(3)},
    "an explanation that is a picture": {"0.prediction": lambda a: np.zeros((len(a), 2, 2))},
    "no such call": {"9.loss": lambda _: np.zeros(1)},
    "half an answer": {"1.loss": lambda _: np.zeros(1)},
    "rows out of order": {"row": lambda a: a[::-1]},
    "ids that are no text": {"ids": lambda a: np.full_like(a, 255)},
    "too few ids": {"ids": lambda a: a[: len(a) // 2]},
    "a place that is none": {"shown": lambda a: a + 1},
    "places before the first": {"shown": lambda a: a - 1},
    "places that are no integers": {"shown": lambda a: a.astype(np.float32)},
    "fewer inputs": {"input.x": lambda a: a[1:]},
    "inputs of a type that has no name": {"input.x": lambda a: a.astype(np.complex64)},
    "no table": {"row": None},
    "strings without end": {"ids": lambda _: np.zeros(100_000, np.uint8)},
    "more rows than a call has": {
        "0.helpful_rows": lambda _: np.zeros((300, 0), np.int64),
        "0.harmful_rows": lambda _: np.zeros((300, 0), np.int64),
        "0.helpful_scores": lambda _: np.zeros((300, 0)),
        "0.harmful_scores": lambda _: np.zeros((300, 0)),
        "0.prediction": lambda _: np.zeros(300),
        "0.target": lambda _: np.zeros(300),
        "0.loss": lambda _: np.zeros(300),
    },
    "many small numbers": {"0.prediction": lambda a: np.zeros((len(a), 1000), np.uint8)},
    "names without end": {"x" * (1 << 20): lambda _: np.zeros(1)},
    "a scalar": {"loss": lambda _: np.array(1.0)},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nonsense_is_a_value_error(fault):
    found, listed = answers(2, {0: 3})
    arrays = load(encode_answers(found, listed))
    for name, change in fault.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = np.ascontiguousarray(change(arrays.get(name)))
    with pytest.raises(ValueError, match=r"."):
        decode_answers(save(arrays), [ExplainCall(), ExplainCall()])


def test_an_answer_that_is_too_large_is_refused():
    found, listed = answers(4, {0: 1})
    wide = {"x": np.zeros((len(listed.shown), MAX_ANSWER_BYTES // len(listed.shown)), np.uint8)}
    with pytest.raises(ResourceExhausted, match="32 MiB allowed: ask about fewer rows"):
        encode_answers(found, replace(listed, inputs=wide))


def test_longer_lists_than_were_asked_for_are_a_value_error():
    found, listed = answers(3, {0: 1}, k=4)
    with pytest.raises(ValueError, match="lists"):
        decode_answers(encode_answers(found, listed), [ExplainCall(top_k=3)])


@given(st.binary(max_size=200))
def test_noise_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"."):
        decode_answers(data, [ExplainCall()])


@given(seed=st.integers(0, 2**32 - 1), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_a_value_error_or_an_answer(seed, at, bit):
    found, listed = answers(seed, {0: 2, 1: 1})
    data = bytearray(encode_answers(found, listed))
    data[at % len(data)] ^= 1 << bit
    try:
        read = decode_answers(bytes(data), [ExplainCall(), ExplainCall()])
    except ValueError:
        return
    assert set(read) <= {0, 1}
