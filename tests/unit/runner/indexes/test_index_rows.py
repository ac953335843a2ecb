"""Rows of several data sets as those of one, and the table of those that answers list."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_formats import FORMATS, Files
from dataset_tables import Table
from undue_service.datasets.opening import open_source
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.tasks import ExplainCall
from undue_service.engine.data import Batch
from undue_service.engine.index import Found
from undue_service.engine.queries import RowFacts
from undue_service.runner.indexes.listing import list_rows
from undue_service.runner.indexes.rows import JoinedRows, NamedSource
from undue_service.wire.attachments import AnswerArrays, decode_answers, encode_answers


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


def joined(files: Files, tables: list[Table], form: str = "arrays") -> JoinedRows:
    return JoinedRows(
        [
            NamedSource(f"datasets/{at}", open_source(FORMATS[form].build(one, files), files.resolve))
            for at, one in enumerate(tables)
        ]
    )


DTYPES = ["uint8", "int8", "uint16", "uint32", "int32", "int64", "float32", "float64"]


@st.composite
def several(draw) -> list[Table]:
    shape = draw(st.sampled_from([(), (2,), (1, 3)]))
    names = draw(st.sampled_from([("x",), ("a", "b")]))
    with_targets = draw(st.booleans())

    def table(at: int) -> Table:
        n = draw(st.integers(1, 9))
        random = np.random.default_rng(draw(st.integers(0, 1000)))
        inputs = {
            name if len(names) > 1 else f"x{at}": random.integers(0, 100, (n, *shape)).astype(
                draw(st.sampled_from(DTYPES))
            )
            for name in names
        }
        weights = random.random(n) if draw(st.booleans()) else None
        ids = [f"{at}-{i}" for i in range(n)] if draw(st.booleans()) else None
        return Table(inputs, random.integers(0, 3, n) if with_targets else None, ids, weights)

    return [table(at) for at in range(draw(st.integers(1, 3)))]


@settings(max_examples=60, deadline=None)
@given(tables=several(), data=st.data())
def test_rows_are_those_of_the_arrays_one_after_the_other(files, tables, data):
    rows = joined(files, tables)
    lengths = [len(one) for one in tables]
    assert len(rows) == sum(lengths)
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=30))
    size = data.draw(st.integers(1, 40))
    inputs = {
        name: np.concatenate([list(one.inputs.values())[at] for one in tables])
        for at, name in enumerate(tables[0].inputs)
    }
    targets = None if tables[0].targets is None else np.concatenate([one.targets for one in tables])
    weighted = any(one.weights is not None for one in tables)
    weights = np.concatenate([np.ones(len(one)) if one.weights is None else one.weights for one in tables])
    ids = [identity for one in tables for identity in (one.ids or [str(i) for i in range(len(one))])]
    for select in (None, wanted, range(1, len(rows))):
        numbers = np.arange(len(rows)) if select is None else np.array(list(select), int)
        got = list(rows.batches(size, select))
        assert all(len(one.index) <= size for one in got)
        if select is not None:
            assert [len(one.index) for one in got] == [
                min(size, len(numbers) - at) for at in range(0, len(numbers), size)
            ]
        if not len(numbers):
            continue
        assert torch.cat([one.index for one in got]).tolist() == numbers.tolist()
        for name, values in inputs.items():
            found = torch.cat([one.inputs[name].double() for one in got]).numpy()
            np.testing.assert_array_equal(found, values[numbers].astype(float))
        if targets is None:
            assert all(one.targets is None for one in got)
        else:
            assert torch.cat([one.targets for one in got]).tolist() == targets[numbers].tolist()
        assert all((one.weights is not None) == weighted for one in got)
        if weighted:
            np.testing.assert_array_equal(torch.cat([one.weights for one in got]).numpy(), weights[numbers])
    which, within = rows.places(np.array(wanted))
    starts = np.cumsum([0, *lengths])
    assert (starts[which] + within).tolist() == wanted
    assert all(within < np.array(lengths)[which])
    assert rows.ids(np.array(wanted)) == [ids[row] for row in wanted]


def test_integers_that_float32_does_not_hold_stay_what_they_are(files):
    tables = [Table({"x": np.array([2**24 + 1])}), Table({"x": np.array([0.5], np.float32)})]
    [batch] = joined(files, tables).batches(2, [1, 0])
    assert batch.inputs["x"].tolist() == [0.5, 2**24 + 1]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Table({"x": np.zeros((2, 4))}, np.zeros(2)), Reason.INPUT_MISMATCH),
        (Table({"x": np.zeros((2, 3)), "z": np.zeros(2)}, np.zeros(2)), Reason.INPUT_MISMATCH),
        (Table({"x": np.zeros((2, 3))}), Reason.TARGET_MISMATCH),
        (Table({"x": np.zeros((2, 3))}, np.zeros((2, 2))), Reason.TARGET_MISMATCH),
    ],
)
def test_rows_of_another_kind_are_refused(other, reason, files):
    with pytest.raises(InvalidArgument, match=r"rows of datasets/1 have .*, those of datasets/0 ") as error:
        joined(files, [Table({"x": np.zeros((2, 3))}, np.zeros(2)), other])
    assert error.value.reason is reason


def found_of(rows: list[int], width: int = 4) -> Found:
    """What the engine says of rows i: the class i mod 3, the loss i, the input i."""
    numbers = np.array(rows)
    inputs = {"x": torch.tensor(numbers)[:, None].expand(-1, width).to(torch.int64)}
    facts = RowFacts(numbers, numbers % 3, numbers % 2, numbers.astype(float))
    nothing = np.zeros((0, 0))
    return Found(
        facts, nothing, nothing, nothing, nothing, facts, Batch(inputs, None, None, torch.tensor(numbers)), 0, {}
    )


def answer(helpful: list[list[int]], harmful: list[list[int]]) -> AnswerArrays:
    good, bad = np.array(helpful, np.int64), np.array(harmful, np.int64)
    zeros = np.zeros(len(good))
    return AnswerArrays(zeros, zeros, zeros, good, np.ones(good.shape), bad, -np.ones(bad.shape))


class Hundred:
    """Two data sets of fifty rows each."""

    def places(self, rows):
        return rows // 50, rows % 50

    def ids(self, rows):
        return [f"row {row}" for row in rows]

    def dtypes(self):
        return {"x": np.dtype(np.uint16)}


def test_each_row_is_listed_once_for_all_calls():
    answers = {0: answer([[7, 60]], [[3, -1]]), 2: answer([[60], [80]], [[-1], [7]])}
    calls = [ExplainCall(), ExplainCall(), ExplainCall(with_instances=False)]
    listed, failures = list_rows([found_of([3, 7, 60, 99]), found_of([7, 60, 80])], answers, calls, Hundred())
    assert failures == {}
    assert listed.row.tolist() == [3, 7, 60, 80]
    assert (listed.dataset.tolist(), listed.dataset_row.tolist()) == ([0, 0, 1, 1], [3, 7, 10, 30])
    assert listed.prediction.tolist() == [0, 1, 0, 2]
    assert listed.shown.tolist() == [0, 1, 2]
    assert listed.inputs["x"].dtype == np.uint16
    assert listed.inputs["x"][:, 0].tolist() == [3, 7, 60]
    decoded = decode_answers(encode_answers(answers, listed), calls)
    assert [e.id for e in decoded[2].explanations[1].helpful] == ["row 80"]
    assert [(one.dataset, one.rows) for one in decoded[0].instances] == [(0, (3, 7)), (1, (60,))]
    assert decoded[2].instances == ()


def test_instances_are_bounded(files):
    found = [found_of(list(range(40)), width=100)]  # 200 bytes a row as uint16
    first, second = answer([[*range(10)]], [[-1] * 10]), answer([[*range(5, 15)]], [[-1] * 10])
    many, none = answer([[*range(20)]], [[*range(20, 40)]]), answer([[*range(20)]], [[*range(20, 40)]])
    answers = {0: first, 1: second, 2: many, 3: none}
    calls = [ExplainCall(), ExplainCall(), ExplainCall(top_k=20), ExplainCall(top_k=20, with_instances=False)]
    listed, failures = list_rows(found, answers, calls, Hundred(), limit=200 * 12)
    assert {place: (one.code, one.reason) for place, one in failures.items()} == {
        1: ("UNAVAILABLE", "TOO_MANY_REQUESTS"),
        2: ("RESOURCE_EXHAUSTED", "INVALID_FIELD"),
    }
    assert "40 rows that the answer lists take 8,000 bytes, more than the 2,400" in failures[2].message
    assert listed.shown.tolist() == list(range(10))
    kept = {place: one for place, one in answers.items() if place not in failures}
    decoded = decode_answers(encode_answers(kept, listed), calls)
    assert [len(decoded[place].instances) for place in (0, 3)] == [1, 0]


def test_a_batch_of_which_nothing_is_left():
    listed, failures = list_rows([], {}, [ExplainCall()], SimpleNamespace())
    assert failures == {}
    assert decode_answers(encode_answers({}, listed), [ExplainCall()]) == {}
    assert replace(listed, ids=("a",)).row.size == 0
