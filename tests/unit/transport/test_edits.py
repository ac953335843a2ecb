"""Edits of training rows: what a request says of them, and what is refused."""

from base64 import b64decode

import numpy as np
import pytest

from undue.v1 import edits_pb2, jobs_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.transport import edits, job_responses, requests
from undue_service.transport.validation import check


def tensor(array):
    names = {"float64": tensors_pb2.DATA_TYPE_FLOAT64, "int64": tensors_pb2.DATA_TYPE_INT64}
    return tensors_pb2.Tensor(dtype=names[array.dtype.name], shape=array.shape, data=array.tobytes())


def request(*counterfactuals, without=()):
    spec = jobs_pb2.RetrainSpec(model="m", train="a", test="b", without=without, counterfactuals=counterfactuals)
    return jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(retrain=spec))


NEW = np.arange(6.0).reshape(2, 3)
WHOLE = edits_pb2.Edit(
    without=[1],
    replaced=[2, 3],
    inputs={"x": tensor(NEW)},
    relabelled=[3],
    targets=tensor(np.array([7])),
    reweighted=[5, 6],
    weights=[0.5, 0.0],
)


def test_an_edit_is_read_and_said_again_without_its_numbers():
    check(request(WHOLE))
    spec, _ = requests.job_spec(request(WHOLE))
    [edit] = spec.counterfactuals
    assert (edit.without, edit.replaced, edit.relabelled, edit.reweighted) == ((1,), (2, 3), (3,), (5, 6))
    assert edit.weights == (0.5, 0.0)
    assert (edit.inputs["x"].dtype, edit.inputs["x"].shape) == ("float64", (2, 3))
    assert b64decode(edit.inputs["x"].content) == NEW.tobytes()
    assert b64decode(edit.targets.content) == np.array([7]).tobytes()
    message = jobs_pb2.Job()
    job_responses._put_spec(message, spec)
    [said] = message.retrain.counterfactuals
    assert (list(said.replaced), list(said.weights)) == ([2, 3], [0.5, 0.0])
    assert not said.inputs
    assert not said.HasField("targets")


def changed(**changes):
    edit = edits_pb2.Edit()
    edit.CopyFrom(WHOLE)
    for name, value in changes.items():
        edit.ClearField(name)
        if name == "inputs":
            for key, one in value.items():
                edit.inputs[key].CopyFrom(one)
        elif name == "targets":
            edit.targets.CopyFrom(value) if value is not None else None
        else:
            getattr(edit, name).extend(value)
    return edit


@pytest.mark.parametrize(
    ("edit", "field", "says"),
    [
        (edits_pb2.Edit(), "", "no training row"),
        (changed(weights=[1.0]), ".weights", "1 numbers for 2 rows"),
        (changed(inputs={}), ".inputs", "needed"),
        (changed(targets=None), ".targets", "needed"),
        (changed(targets=tensor(np.array([7, 8]))), ".targets.shape", "2 rows where 1"),
        (changed(inputs={"x": tensor(NEW[:1])}), ".inputs[x].shape", "1 rows where 2"),
        (changed(inputs={"x": tensors_pb2.Tensor(dtype=12, shape=[2, 3], data=b"1")}), ".inputs[x].data", "1 bytes"),
        (
            changed(inputs={"x": tensors_pb2.Tensor(dtype=12, shape=[2], upload="uploads/u")}),
            ".inputs[x].upload",
            "data",
        ),
        (changed(inputs={"x": tensors_pb2.Tensor(dtype=13, shape=[2], data=b"a\0b\0")}), ".inputs[x].dtype", "numbers"),
    ],
)
def test_what_is_no_edit_is_refused_by_name(edit, field, says):
    with pytest.raises(InvalidArgument, match=says) as error:
        requests.job_spec(request(changed(), edit))
    assert error.value.violations[0].field == f"job.retrain.counterfactuals[1]{field}"


@pytest.mark.parametrize(
    "edit", [{"without": [-1]}, {"replaced": [1, 1]}, {"reweighted": [1], "weights": [float("nan")]}]
)
def test_rules_of_the_message(edit):
    with pytest.raises(InvalidArgument):
        check(request(edits_pb2.Edit(**edit)))


def test_a_job_without_any_counterfactual_is_refused():
    with pytest.raises(InvalidArgument, match="counterfactuals") as error:
        requests.job_spec(request())
    assert error.value.violations[0].field == "job.retrain.without"


def test_too_many_rows_and_too_many_bytes_are_refused():
    many = edits_pb2.Edit(without=range(edits.MAX_EDITED_ROWS + 1))
    with pytest.raises(InvalidArgument, match="several jobs"):
        requests.job_spec(request(many))
    large = np.zeros((2, edits.MAX_EDIT_BYTES // 16 + 1))
    with pytest.raises(InvalidArgument, match="bytes of new values"):
        requests.job_spec(request(changed(inputs={"x": tensor(large)})))
