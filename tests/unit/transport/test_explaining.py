"""Requests of Explain as questions, and answers as messages."""

from datetime import UTC, datetime

import numpy as np
import pytest

from undue.v1 import indexes_pb2, jobs_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.index_jobs import IndexBuild, IndexExtend, IndexSpec
from undue_service.domain.indexes import Index
from undue_service.domain.jobs import Job, JobState
from undue_service.domain.reports import ExplainReport
from undue_service.domain.results import Answer, Explanation, IndexedRows, ScoredExample
from undue_service.domain.tasks import ExplainCall
from undue_service.transport.enums import DTYPES
from undue_service.transport.explaining import questions, response

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def tensor(array, **changes):
    sent = {"dtype": DTYPES.to_proto(array.dtype.name), "shape": array.shape, "data": array.tobytes()}
    return tensors_pb2.Tensor(**(sent | changes))


def request(inputs, targets=None, **how):
    return indexes_pb2.ExplainRequest(index="indexes/i", inputs=inputs, targets=targets, **how)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int16", "int64", "uint8", "uint16", "uint32", "float16", "float32", "float64"]
)
def test_arrays_of_every_type_are_read(dtype):
    sent = np.arange(24).reshape(2, 3, 4).astype(dtype)
    read, call = questions(request({"x": tensor(sent), "a": tensor(sent[:, 0])}, tensor(np.array([1, 2]))))
    assert call == ExplainCall("loss", 10, exact=False, with_instances=True)
    np.testing.assert_array_equal(read.inputs["x"], sent, strict=True)
    np.testing.assert_array_equal(read.inputs["a"], sent[:, 0], strict=True)
    np.testing.assert_array_equal(read.targets, [1, 2])


def test_what_is_asked_for_is_read():
    row = {"": tensor(np.zeros((1, 2)))}
    how = {"measurement": jobs_pb2.MEASUREMENT_MARGIN, "top_k": 3, "exact": True, "without_instances": True}
    read, call = questions(request(row, **how))
    assert call == ExplainCall("margin", 3, exact=True, with_instances=False)
    assert read.targets is None


ROWS = tensor(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("inputs", "targets", "field", "reason", "text"),
    [
        ({"x": tensor(np.array([[1.0], [np.nan]]))}, None, "inputs[x].data", Reason.NON_FINITE_DATA, "row 1 has NaN"),
        ({"x": ROWS}, tensor(np.array([1.0, np.inf])), "targets.data", Reason.NON_FINITE_DATA, "row 1"),
        ({"x": ROWS, "y": tensor(np.zeros((3, 1)))}, None, "inputs[y]", Reason.ROWS_MISMATCH, "has 3 rows"),
        ({"x": ROWS}, tensor(np.zeros(3)), "targets", Reason.ROWS_MISMATCH, "inputs[x] has 2"),
        ({"x": tensor(np.zeros((0, 3)))}, None, "inputs[x]", Reason.INVALID_FIELD, "1 to 256"),
        ({"x": tensor(np.zeros((257, 1)))}, None, "inputs[x]", Reason.INVALID_FIELD, "257 rows"),
        ({"x": tensor(np.zeros(3), shape=(4,))}, None, "inputs[x].data", Reason.INVALID_FIELD, "has 32"),
        (
            {"x": tensor(np.zeros(3), shape=(2**62, 2**62))},
            None,
            "inputs[x].shape",
            Reason.INVALID_FIELD,
            "larger than any",
        ),
        (
            {"x": tensors_pb2.Tensor(dtype=12, shape=[1], upload="uploads/u")},
            None,
            "inputs[x].upload",
            Reason.INVALID_FIELD,
            "send the rows' bytes themselves",
        ),
        (
            {"x": tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_UTF8, shape=[1], data=b"a\0")},
            None,
            "inputs[x].dtype",
            Reason.INVALID_FIELD,
            "not strings",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_field(inputs, targets, field, reason, text):
    with pytest.raises(InvalidArgument) as caught:
        questions(request(inputs, targets))
    [violation] = caught.value.violations
    assert (violation.field, violation.reason) == (field, reason)
    assert text in caught.value.message


def test_an_answer_says_which_rows_of_which_data_sets():
    spec = IndexSpec("models/m/versions/1", "datasets/train/versions/1")
    jobs = (
        Job("t", "1", IndexBuild("indexes/i"), NOW, state=JobState.SUCCEEDED),
        Job("t", "2", IndexExtend("indexes/i", "datasets/more/versions/2"), NOW, state=JobState.SUCCEEDED),
    )
    entry = ScoredExample(7, "seven", 0.5, 3, 2, 1.25)
    explanation = Explanation(0, "", prediction=3, target=3, loss=0.25, helpful=(entry,), harmful=())
    instances = (
        IndexedRows(0, (7,), (7,), {"x": np.array([[1.0, 2.0]], np.float32)}),
        IndexedRows(1, (100, 101), (0, 1), {"x": np.array([[3, 4], [5, 6]], np.float32)}),
    )
    answer, report = Answer((explanation,), instances), ExplainReport(True, recall=0.75, method="ekfac", damping=0.01)
    message = response(answer, Index("t", "i", spec, NOW, jobs), report, exact=False)
    assert (message.recall, message.index, message.method, message.damping) == (0.75, "indexes/i", "ekfac", 0.01)
    [one] = message.explanations
    assert (one.prediction.label, one.loss, one.id) == (3, 0.25, "")
    assert [(two.row, two.id, two.score) for two in one.helpful] == [(7, "seven", 0.5)]
    first, second = message.instances
    assert (first.dataset, list(first.rows)) == ("datasets/train/versions/1", [7])
    assert (second.dataset, list(second.dataset_rows)) == ("datasets/more/versions/2", [0, 1])
    assert second.inputs["x"].data == np.array([[3, 4], [5, 6]], "<f4").tobytes()
    assert list(second.inputs["x"].shape) == [2, 2]
    assert response(answer, Index("t", "i", spec, NOW, jobs), report, exact=True).recall == 1.0


@pytest.mark.parametrize("field", ["inputs[x]", "targets"])
@pytest.mark.parametrize("shape", [[2**62, 4, 0], [0, 2**62, 4], [2**40, 2**40, 0], [2**63 - 1, 0]])
def test_an_empty_tensor_of_a_shape_that_no_array_has_is_refused(shape, field):
    odd = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=shape, data=b"")
    even = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=[1, 1], data=bytes(4))
    inputs, targets = ({"x": odd}, None) if field == "inputs[x]" else ({"x": even}, odd)
    with pytest.raises(InvalidArgument, match="larger than any array") as refused:
        questions(indexes_pb2.ExplainRequest(inputs=inputs, targets=targets))
    assert refused.value.reason is Reason.INVALID_FIELD
    assert refused.value.violations[0].field == f"{field}.shape"
