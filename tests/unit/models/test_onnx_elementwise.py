"""Elementwise operators, reductions and normalisation against onnxruntime, over attributes, broadcasting and opsets."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.helper import make_node

from undue_service.domain.errors import Reason
from undue_service.models import parity, predict

NEWEST = onnx.defs.onnx_opset_version()
opsets = st.integers(9, NEWEST)
many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def check(open_bytes, onnx_bytes):
    """Hold nodes from x to y against onnxruntime, and return the opened model."""

    def same(nodes, x, weights=None, opset=20, rank=None):
        shape = ["n", *(f"?{i}" for i in range((rank or x.ndim) - 1))]
        nodes = nodes if isinstance(nodes, list) else [nodes]
        content = onnx_bytes(nodes, {"x": ["n", *x.shape[1:]]}, {"y": shape}, weights or {}, opset=opset, dtype=x.dtype)
        opened = open_bytes(content)
        assert parity(opened, {"x": x}) <= (1e-5 if x.dtype == np.float32 else 1e-9)
        return opened

    return same


UNARY = {
    "Abs": {}, "Erf": {}, "Exp": {}, "Neg": {}, "Reciprocal": {}, "Relu": {}, "Sigmoid": {}, "Softplus": {}, "Tanh": {},
    "LeakyRelu": {"alpha": [0.01, 0.3, -0.2]}, "Elu": {"alpha": [1.0, 0.4]},
    "HardSigmoid": {"alpha": [0.2, 1 / 6], "beta": [0.5, 0.1]},
}  # fmt: skip


@many
@given(operator=st.sampled_from(sorted(UNARY)), with_attributes=st.booleans(), opset=opsets, seed=st.integers(0, 2**31))
def test_unary(operator, with_attributes, opset, seed, check):
    choices = UNARY[operator] if with_attributes else {}
    attributes = {name: values[seed % len(values)] for name, values in choices.items()}
    check(make_node(operator, ["x"], ["y"], **attributes), 3 * normal(seed, 4, 3, 5), opset=opset)


@pytest.mark.parametrize("opset", [9, 13, NEWEST])
@pytest.mark.parametrize("operator", ["Sqrt", "Log"])
def test_of_positive_numbers(operator, opset, check):
    check(make_node(operator, ["x"], ["y"]), np.abs(normal(0, 4, 3)) + 0.1, opset=opset)


@pytest.mark.parametrize("opset", [14, 20, NEWEST])
def test_hard_swish(opset, check):
    check(make_node("HardSwish", ["x"], ["y"]), 4 * normal(0, 6, 5), opset=opset)


@pytest.mark.parametrize("approximate", [None, "none", "tanh"])
def test_gelu(approximate, check):
    attributes = {} if approximate is None else {"approximate": approximate}
    check(make_node("Gelu", ["x"], ["y"], **attributes), 2 * normal(0, 6, 5))


@many
@given(
    operator=st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]),
    other=st.sampled_from([(), (1,), (5,), (3, 1), (1, 3, 5)]),
    first=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    opset=opsets,
    seed=st.integers(0, 2**31),
)
def test_binary(operator, other, first, dtype, opset, seed, check):
    w = (np.sign(normal(seed, *other)) * (0.5 + np.abs(normal(seed + 1, *other)))).astype(dtype)
    x = (3 + np.abs(normal(seed + 2, 4, 3, 5))).astype(dtype)
    opened = check(make_node(operator, ["x", "w"] if first else ["w", "x"], ["y"]), x, {"w": w}, opset)
    assert [name for name, _ in opened.exported.named_parameters()] == ["w"]


@pytest.mark.parametrize("opset", [12, 15, NEWEST])
@pytest.mark.parametrize(
    "exponent", [np.array(2.0, np.float32), np.array(3, np.int64), np.array([2.0, 3.0], np.float32)]
)
def test_power(exponent, opset, check):
    check(make_node("Pow", ["x", "e"], ["y"]), normal(0, 5, 2), {"e": exponent}, opset)


@many
@given(low=st.sampled_from([None, -0.5, 0.0]), high=st.sampled_from([None, 0.7, 6.0]), opset=opsets)
def test_clip(low, high, opset, check):
    x, bounds = 2 * normal(0, 6, 5), {"min": low, "max": high}
    given_bounds = {name: value for name, value in bounds.items() if value is not None}
    if opset < 11:
        check(make_node("Clip", ["x"], ["y"], **given_bounds), x, opset=opset)
        return
    weights = {name: np.array(value, np.float32) for name, value in given_bounds.items()}
    inputs = ["x", *(name if name in weights else "" for name in bounds)]
    opened = check(make_node("Clip", inputs, ["y"]), x, weights, opset)
    assert list(opened.exported.named_parameters()) == []


@pytest.mark.parametrize("opset", [9, 16, NEWEST])
@pytest.mark.parametrize("slope", [(1,), (5,), (3, 1)])
def test_prelu(slope, opset, check):
    check(make_node("PRelu", ["x", "s"], ["y"]), normal(0, 4, 3, 5), {"s": normal(1, *slope)}, opset)


@many
@given(
    operator=st.sampled_from(["Softmax", "LogSoftmax"]),
    axis=st.sampled_from([None, 1, 2, -1, -2]),
    opset=opsets,
    seed=st.integers(0, 2**31),
)
def test_softmax(operator, axis, opset, seed, check):
    attributes = {} if axis is None else {"axis": axis}
    check(make_node(operator, ["x"], ["y"], **attributes), normal(seed, 4, 3, 5), opset=opset)


@many
@given(
    operator=st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]),
    axes=st.sampled_from([[1], [-1], [1, 2], [-2, -1], [2, 1]]),
    keep=st.booleans(),
    opset=opsets,
    seed=st.integers(0, 2**31),
)
def test_reductions(operator, axes, keep, opset, seed, check):
    x, since = normal(seed, 4, 3, 5, 2), 13 if operator == "ReduceSum" else 18
    rank = 4 if keep else 4 - len(axes)
    if opset < since:
        check(make_node(operator, ["x"], ["y"], axes=axes, keepdims=int(keep)), x, opset=opset, rank=rank)
    else:
        node = make_node(operator, ["x", "axes"], ["y"], keepdims=int(keep))
        check(node, x, {"axes": np.array(axes)}, opset, rank)


def test_a_reduction_over_nothing_is_the_value_itself(check):
    check(make_node("ReduceSum", ["x"], ["y"], noop_with_empty_axes=1), normal(0, 4, 3))


@pytest.mark.parametrize("opset", [9, 12, 13, 14, 15, NEWEST])
@pytest.mark.parametrize("sizes", [(), (4,), (4, 2)])
def test_batch_normalization(sizes, opset, check):
    weights = {name: normal(i, 3) for i, name in enumerate(("scale", "shift", "mean", "variance"))}
    weights["variance"] = np.abs(weights["variance"]) + 0.1
    opened = check(
        make_node("BatchNormalization", ["x", *weights], ["y"], epsilon=1e-3), normal(9, 5, 3, *sizes), weights, opset
    )
    assert [name for name, _ in opened.exported.named_parameters()] == ["scale", "shift"]
    assert sorted(name for name, _ in opened.exported.named_buffers()) == ["mean", "variance"]


@pytest.mark.parametrize("opset", [17, 20, NEWEST])
@pytest.mark.parametrize(("axis", "shape"), [(-1, (5,)), (1, (3, 5)), (2, (5,)), (1, (5,)), (None, (5,))])
def test_layer_normalization(axis, shape, opset, check):
    attributes = {"epsilon": 1e-3} | ({} if axis is None else {"axis": axis})
    weights = {"scale": normal(0, *shape), "shift": normal(1, *shape)}
    for inputs in (["x", "scale", "shift"], ["x", "scale"]):
        used = {name: weights[name] for name in inputs[1:]}
        check(make_node("LayerNormalization", inputs, ["y"], **attributes), normal(2, 4, 3, 5), used, opset)


@pytest.mark.parametrize("opset", [9, 10, 12, 13, NEWEST])
def test_dropout_drops_nothing(opset, check):
    x = normal(0, 4, 3)
    if opset < 12:
        check(make_node("Dropout", ["x"], ["y"], ratio=0.9), x, opset=opset)
        return
    nodes = [make_node("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.BOOL, [], [False]))]
    ratio = {"r": np.array(0.9, np.float32)}
    assert dict(check(make_node("Dropout", ["x", "r"], ["y"]), x, ratio, opset).exported.named_parameters()) == {}
    check([*nodes, make_node("Dropout", ["x", "r", "t"], ["y"])], x, ratio, opset)


SOFTMAX_OF_ROWS = [
    make_node("Transpose", ["x"], ["t"]),
    make_node("Softmax", ["t"], ["s"]),
    make_node("Transpose", ["s"], ["y"]),
]


@pytest.mark.parametrize(
    ("nodes", "opset", "says"),
    [
        ([make_node("Dropout", ["x", "r", "true"], ["y"])], 20, "training mode"),
        ([make_node("BatchNormalization", ["x", *"wwww"], ["y", "m", "v"], training_mode=1)], 20, "training mode"),
        ([make_node("BatchNormalization", ["x", *"wwww"], [*"ymvab"])], 9, "training mode"),
        ([make_node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=1)], 13, "reduces over the rows"),
        ([make_node("ReduceMean", ["x"], ["y"], keepdims=1)], 13, "reduces over the rows"),
        ([*SOFTMAX_OF_ROWS], 13, "across the rows"),
        ([make_node("LayerNormalization", ["x", "w"], ["y"], axis=0)], 20, "across the rows"),
    ],
)  # fmt: skip
def test_what_is_not_inference_row_by_row_is_refused(nodes, opset, says, onnx_bytes, refusal):
    weights = {"w": np.ones(4, np.float32), "r": np.array(0.5, np.float32), "true": np.array(True)}
    content = onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["m", "k"]}, weights, opset=opset)
    assert says in refusal(content, Reason.MODEL_UNSUPPORTED)


def test_cast_between_floats_and_integers(check, open_bytes, onnx_bytes):
    nodes = [
        make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        make_node("Cast", ["whole"], ["back"], to=TensorProto.DOUBLE),
        make_node("CastLike", ["back", "x"], ["y"]),
    ]
    x = 5 * normal(0, 4, 3)
    opened = check(nodes, x)
    np.testing.assert_array_equal(predict(opened, {"x": x})["y"], np.trunc(x))
