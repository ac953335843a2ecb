"""Each operator against NumPy and onnxruntime, over its attributes and over opsets."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.helper import make_node

from undue_service.models import parity, predict

NEWEST = onnx.defs.onnx_opset_version()
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def targets(opened):
    return [n.target for n in opened.exported.graph.nodes if n.op == "call_function"]


def agrees(opened, x, expected):
    np.testing.assert_allclose(predict(opened, {"x": x})["y"], expected, rtol=1e-5, atol=1e-6)
    assert parity(opened, {"x": x}) <= 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("opset", range(9, NEWEST + 1))
def test_every_opset(opset, dtype, open_bytes, onnx_bytes):
    nodes = [
        make_node("Flatten", ["x"], ["f"]),
        make_node("Gemm", ["f", "w1", "b1"], ["g"], transB=1),
        make_node("Relu", ["g"], ["r"]),
        make_node("MatMul", ["r", "w2"], ["m"]),
        make_node("Add", ["m", "b2"], ["a"]),
        make_node("Tanh", ["a"], ["t"]),
        make_node("Identity", ["t"], ["i"]),
        make_node("Sigmoid", ["i"], ["s"]),
        make_node("Reshape", ["s", "shape"], ["v"]),
        make_node("Softmax", ["v"], ["y"]),
    ]
    w = {"w1": normal(5, 12), "b1": normal(5), "w2": normal(5, 3), "b2": normal(3)}
    w = {name: value.astype(dtype) for name, value in w.items()} | {"shape": np.array([-1, 3])}
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 3, 4]}, {"y": ["n", 3]}, w, opset=opset, dtype=dtype))
    x = normal(7, 3, 4).astype(dtype)
    hidden = np.maximum(x.reshape(7, 12) @ w["w1"].T + w["b1"], 0) @ w["w2"] + w["b2"]
    logits = 1 / (1 + np.exp(-np.tanh(hidden)))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(predict(opened, {"x": x})["y"], expected, rtol=1e-5)
    assert parity(opened, {"x": x}) <= (1e-6 if dtype is np.float32 else 1e-13)
    assert [n for n, _ in opened.exported.named_parameters()] == ["w1", "b1", "w2", "b2"]
    assert targets(opened).count(torch.ops.aten.linear.default) == 2
    assert torch.ops.aten.add.Tensor not in targets(opened)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.0, 3.0]),
    transposed=st.booleans(),
    bias=st.sampled_from([None, (), (1,), (3,), (1, 3)]),
    opset=st.sampled_from([11, 13, 20]),
)
def test_gemm(alpha, beta, transposed, bias, opset, open_bytes, onnx_bytes):
    w = {"w": normal(3, 4) if transposed else normal(4, 3)}
    if bias is not None:
        w["c"] = normal(*bias)
    node = make_node("Gemm", ["x", *w], ["y"], alpha=alpha, beta=beta, transB=int(transposed))
    opened = open_bytes(onnx_bytes([node], {"x": ["n", 4]}, {"y": ["n", 3]}, w, opset=opset))
    x = normal(5, 4)
    expected = alpha * x @ (w["w"].T if transposed else w["w"]) + beta * w.get("c", np.float32(0))
    agrees(opened, x, expected)
    assert torch.ops.aten.linear.default in targets(opened)
    assert (torch.ops.aten.t.default in targets(opened)) != transposed


def test_gemm_of_transposed_data(open_bytes, onnx_bytes):
    nodes = [make_node("Gemm", ["x", "x"], ["s"], transA=1), make_node("MatMul", ["x", "s"], ["y"])]
    x = normal(5, 4)
    agrees(open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {})), x, x @ (x.T @ x))


@pytest.mark.parametrize(("shape", "weight"), [((4,), (4, 3)), ((5, 4), (4, 3)), ((2, 5, 4), (2, 4, 3)), ((4,), (4,))])
def test_matmul(shape, weight, open_bytes, onnx_bytes):
    w, x = normal(*weight), normal(6, *shape)
    expected = x @ w
    outputs = {"y": ["n", *expected.shape[1:]]}
    agrees(
        open_bytes(onnx_bytes([make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", *shape]}, outputs, {"w": w})),
        x,
        expected,
    )


@pytest.mark.parametrize("bias", [(), (1,), (3,), (1, 3), (5, 3), (1, 5, 1)])
@pytest.mark.parametrize("first", [True, False])
def test_add_broadcasts(bias, first, open_bytes, onnx_bytes):
    w, b, x = normal(4, 3), normal(*bias), normal(6, 5, 4)
    nodes = [make_node("MatMul", ["x", "w"], ["p"]), make_node("Add", ["p", "b"] if first else ["b", "p"], ["y"])]
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 5, 4]}, {"y": ["n", 5, 3]}, {"w": w, "b": b}))
    agrees(opened, x, x @ w + b)
    assert (torch.ops.aten.add.Tensor in targets(opened)) == (bias != (3,))


def test_product_that_is_read_twice_takes_no_bias(open_bytes, onnx_bytes):
    w, b, x = normal(4, 3), normal(3), normal(6, 4)
    nodes = [
        make_node("MatMul", ["x", "w"], ["p"]),
        make_node("Add", ["p", "b"], ["q"]),
        make_node("Add", ["p", "q"], ["y"]),
    ]
    agrees(open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 3]}, {"w": w, "b": b})), x, 2 * (x @ w) + b)


@pytest.mark.parametrize(
    ("opset", "axis"), [(9, 1), (12, 1), (12, 2), (11, -1), (13, 1), (13, 2), (20, -1), (9, None), (13, None)]
)
def test_softmax(opset, axis, open_bytes, onnx_bytes):
    attributes = {} if axis is None else {"axis": axis}
    x = normal(4, 3, 5)
    node = make_node("Softmax", ["x"], ["y"], **attributes)
    axis = axis if axis is not None else (1 if opset < 13 else -1)
    axes = tuple(range(axis % 3, 3)) if opset < 13 else axis
    expected = np.exp(x) / np.exp(x).sum(axes, keepdims=True)
    agrees(open_bytes(onnx_bytes([node], {"x": ["n", 3, 5]}, {"y": ["n", 3, 5]}, {}, opset=opset)), x, expected)


@pytest.mark.parametrize("axis", [1, 3, -3, None])
def test_flatten(axis, open_bytes, onnx_bytes):
    node = make_node("Flatten", ["x"], ["y"], **({} if axis is None else {"axis": axis}))
    x = normal(4, 3, 5, 2)
    rows = np.prod(x.shape[: 1 if axis is None else axis])
    if rows == 4:
        opened = open_bytes(onnx_bytes([node], {"x": ["n", 3, 5, 2]}, {"y": ["n", 30]}, {}, opset=11))
        agrees(opened, x, x.reshape(4, 30))
        return
    nodes = [make_node("Flatten", ["x"], ["f"], axis=axis), make_node("Reshape", ["f", "s"], ["y"])]
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 3, 5, 2]}, {"y": ["n", 30]}, {"s": np.array([-1, 30])}))
    agrees(opened, x, x.reshape(4, 30))


@pytest.mark.parametrize("target", [[-1, 12], [0, -1], [0, 0, 4], [0, 12], [-1, 2, 6], [0, 2, -1, 3]])
def test_reshape(target, open_bytes, onnx_bytes):
    x = normal(5, 3, 4)
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(target)]
    expected = x.reshape(sizes)
    node = make_node("Reshape", ["x", "s"], ["y"])
    outputs = {"y": ["n", *expected.shape[1:]]}
    agrees(open_bytes(onnx_bytes([node], {"x": ["n", 3, 4]}, outputs, {"s": np.array(target)})), x, expected)


def test_weight_reached_through_reshape_transpose_and_identity_is_the_stored_parameter(open_bytes, onnx_bytes):
    w, x = normal(12), normal(5, 3)
    nodes = [
        make_node("Reshape", ["w", "s"], ["r"]),
        make_node("Identity", ["r"], ["i"]),
        make_node("Transpose", ["i"], ["t"], perm=[1, 0]),
        make_node("MatMul", ["x", "t"], ["y"]),
    ]
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 3]}, {"y": ["n", 4]}, {"w": w, "s": np.array([4, 3])}))
    agrees(opened, x, x @ w.reshape(4, 3).T)
    assert [(n, tuple(p.shape)) for n, p in opened.exported.named_parameters()] == [("w", (12,))]


@pytest.mark.parametrize("kind", ["value", "value_floats"])
def test_constant_in_the_place_of_a_weight_is_a_parameter_and_a_scalar_is_not(kind, open_bytes, onnx_bytes):
    b, x = normal(4), normal(5, 4)
    attribute = {"value": onnx.numpy_helper.from_array(b)} if kind == "value" else {"value_floats": b.tolist()}
    nodes = [
        make_node("Constant", [], ["b"], **attribute),
        make_node("Constant", [], ["half"], value_float=0.5),
        make_node("Add", ["x", "b"], ["a"]),
        make_node("Add", ["a", "half"], ["y"]),
    ]
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {}))
    agrees(opened, x, x + b + np.float32(0.5))
    assert [n for n, _ in opened.exported.named_parameters()] == ["b"]
