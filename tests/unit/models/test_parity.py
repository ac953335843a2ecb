"""The comparison with onnxruntime itself."""

from dataclasses import replace

import numpy as np
import pytest
from onnx.helper import make_node

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.models import parity, predict
from undue_service.models.parity import _Apart, _difference

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(params=[np.float32, np.float64])
def opened(request, open_bytes, onnx_bytes):
    nodes = [make_node("Gemm", ["x", "w"], ["y"]), make_node("Relu", ["y"], ["z"])]
    weights = {"w": np.eye(4, dtype=request.param) * 10}
    return open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4], "z": ["n", 4]}, weights, dtype=request.param))


def disturbed(opened, output, place, by):
    def reference(inputs):
        values = {name: value.copy() for name, value in predict(opened, inputs).items()}
        values[output][place] += by
        return values

    return replace(opened, reference=reference)


def test_the_measure_is_absolute_below_one_and_relative_to_the_row_above(opened):
    assert parity(opened, {"x": X}) == 0
    tolerated = 2e-5 if opened.inputs[0].dtype == "float32" else 2e-10
    small, large = (0, 3), (0, 0)
    y = predict(opened, {"x": X})["y"]
    assert abs(y[large]) == 10
    assert abs(y[small]) < 2
    assert parity(disturbed(opened, "z", (0, 0), tolerated), {"x": X}) == pytest.approx(tolerated, rel=1e-3)
    for place in (small, large):
        assert parity(disturbed(opened, "y", place, -tolerated), {"x": X}) == pytest.approx(tolerated / 10, rel=0.1)


def test_an_infinite_element_excuses_no_other():
    ours = np.array([[np.inf, 1.0, 2.0]])
    assert _difference("y", ours, ours.copy()) == 0
    with pytest.raises(_Apart):
        _difference("y", ours + np.array([0, 1e-3, 0]), ours)


@pytest.mark.parametrize("by", [1e-3, np.nan, np.inf])
def test_disagreement_names_the_output_and_both_values(opened, by):
    with pytest.raises(FailedPrecondition) as caught:
        parity(disturbed(opened, "z", (0, 1), by), {"x": X})
    assert caught.value.reason is Reason.PARITY_FAILED
    assert caught.value.metadata == {"output": "z"}
    assert f"is {np.dtype(opened.inputs[0].dtype).type(by)} in row 0 by onnxruntime and 0.0 by the program" in str(
        caught.value
    )


def test_other_shapes_disagree(opened):
    wrong = replace(opened, reference=lambda inputs: {"y": np.zeros(3), "z": np.zeros(3)})
    with pytest.raises(FailedPrecondition, match=r"has the shape \(3,\) by onnxruntime"):
        parity(wrong, {"x": X})


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "given were none"),
        ({"x": X, "more": X}, "given were more, x"),
        ({"x": X[:, :3]}, "has the shape"),
        ({"x": X.astype(complex)}, "not complex128"),
        ({"x": np.float32(1)}, "number of rows"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(opened, inputs, says):
    with pytest.raises(InvalidArgument) as caught:
        parity(opened, inputs)
    assert caught.value.reason is Reason.INPUT_MISMATCH
    assert says in caught.value.message


def test_integers_are_converted_and_no_rows_are_no_difference(opened):
    assert parity(opened, {"x": np.arange(8).reshape(2, 4)}) <= 1e-6
    assert parity(opened, {"x": X[:0]}) == 0


def test_what_onnxruntime_cannot_run_is_a_typed_error(opened, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"gone")
    with pytest.raises(InvalidArgument) as caught:
        parity(opened, {"x": X})
    assert caught.value.reason is Reason.MODEL_UNSUPPORTED
