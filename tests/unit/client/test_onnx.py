"""Models whose weights lie in a file beside them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import undue
from undue._onnx import whole_model


def a_model(weights):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph)


@pytest.fixture
def weights(rng):
    return rng.standard_normal((64, 64)).astype(np.float32)


def test_parts_are_joined(tmp_path, weights):
    path = tmp_path / "m.onnx"
    onnx.save(a_model(weights), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "out").mkdir()
    joined = whole_model(path, tmp_path / "out")
    (tmp_path / "m.data").unlink()
    [tensor] = onnx.load(joined).graph.initializer
    assert np.array_equal(numpy_helper.to_array(tensor), weights)
    assert onnx.load(path, load_external_data=False).graph.initializer[0].external_data, (
        "the caller's file is left alone"
    )


def test_a_whole_model_is_sent_as_it_is(tmp_path, weights):
    path = tmp_path / "m.onnx"
    onnx.save(a_model(weights), path)
    assert whole_model(path, tmp_path) is path


@pytest.mark.parametrize("location", ["gone.data", "../secret", "/etc/hostname"])
def test_weights_that_are_missing_or_lie_elsewhere_are_refused(tmp_path, weights, location):
    (tmp_path / "secret").write_bytes(bytes(weights.nbytes))
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "m.onnx"
    onnx.save(a_model(weights), path, save_as_external_data=True, location="m.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(undue.InvalidArgument) as caught:
        whole_model(path, tmp_path)
    assert caught.value.reason == "MODEL_MALFORMED"


def test_what_is_no_model_is_for_the_service_to_judge(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x00 no model, no parts")
    assert whole_model(path, tmp_path) is path
    assert whole_model(tmp_path / "missing.onnx", tmp_path) == tmp_path / "missing.onnx"
