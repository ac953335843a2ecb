"""Parameters carry the names of the file, whatever those are."""

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from undue_service.models import parity, predict

RNG = np.random.default_rng(0)
W1, W2 = (RNG.normal(size=(4, 4)).astype(np.float32) for _ in range(2))
X = RNG.normal(size=(3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "names",
    [
        ("fc1.weight", "fc2.weight"),
        ("fc1", "fc1.weight"),
        ("onnx::MatMul_6", "dense/kernel:0"),
        ("forward", "training"),
        ("p1", "p0"),
        ("class", "élan vital"),
        ("a..b", ".c"),
    ],
)
def test_any_name_survives(names, open_bytes, onnx_bytes):
    nodes = [make_node("MatMul", ["x", names[0]], ["h"]), make_node("MatMul", ["h", names[1]], ["y"])]
    weights = dict(zip(names, (W1, W2), strict=True))
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, weights))
    stored = dict(opened.exported.named_parameters())
    assert list(stored) == list(names)
    for name, value in weights.items():
        np.testing.assert_array_equal(stored[name].detach(), value)
    np.testing.assert_allclose(predict(opened, {"x": X})["y"], X @ W1 @ W2, rtol=1e-4)


def test_nested_names_make_nested_modules(open_bytes, onnx_bytes):
    nodes = [make_node("MatMul", ["x", "body.fc1.weight"], ["y"])]
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"body.fc1.weight": W1}))
    assert "body.fc1.weight" in opened.exported.module().state_dict()


@pytest.mark.parametrize("name", ["x", "input", "onnx::Gemm_0", "a b", "p_p0", "self", "lambda", "mat.mul"])
def test_inputs_keep_their_names(name, open_bytes, onnx_bytes):
    nodes = [make_node("MatMul", [name, "w"], ["p_w"])]
    opened = open_bytes(onnx_bytes(nodes, {name: ["n", 4]}, {"p_w": ["n", 4]}, {"w": W1}))
    assert [column.name for column in opened.inputs] == [name]
    np.testing.assert_allclose(predict(opened, {name: X})["p_w"], X @ W1, rtol=1e-5)
    placeholder = opened.exported.graph_signature.user_inputs[0]
    assert (placeholder == name) == (name in ("x", "input"))


def test_tied_and_unused_weights(open_bytes, onnx_bytes):
    nodes = [
        make_node("Identity", ["w"], ["alias"]),
        make_node("MatMul", ["x", "w"], ["h"]),
        make_node("MatMul", ["h", "alias"], ["y"]),
    ]
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"w": W1, "unused": W2}))
    assert [name for name, _ in opened.exported.named_parameters()] == ["w"]
    np.testing.assert_allclose(predict(opened, {"x": X})["y"], X @ W1 @ W1, rtol=1e-4)


def test_initializers_listed_as_inputs_are_weights(open_bytes, onnx_bytes):
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    model = onnx.load_model_from_string(
        onnx_bytes(nodes, {"x": ["n", 4], "w": [4, 4]}, {"y": ["n", 4]}, {"w": W1}, opset=9)
    )
    model.ir_version = 3
    opened = open_bytes(model.SerializeToString())
    assert [column.name for column in opened.inputs] == ["x"]
    assert parity(opened, {"x": X}) <= 1e-6


def test_several_inputs_share_their_rows(open_bytes, onnx_bytes):
    nodes = [make_node("MatMul", ["a", "w"], ["h"]), make_node("Add", ["h", "b"], ["y"])]
    opened = open_bytes(onnx_bytes(nodes, {"a": ["n", 4], "b": ["m", 4]}, {"y": ["n", 4]}, {"w": W1}))
    np.testing.assert_allclose(predict(opened, {"b": X, "a": 2 * X})["y"], 2 * X @ W1 + X, rtol=1e-4)
