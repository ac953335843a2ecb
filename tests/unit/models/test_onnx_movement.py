"""Operators that move elements, embeddings among them, against onnxruntime and NumPy, on data and on shapes."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.helper import make_node, make_tensor

from undue_service.domain.errors import Reason
from undue_service.models import parity, predict

NEWEST = onnx.defs.onnx_opset_version()
OPSETS = [9, 11, 13, 18, NEWEST]
many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def check(open_bytes, onnx_bytes):
    """Hold nodes from x to y against what NumPy says and against onnxruntime, and return the opened model."""

    def same(nodes, x, expected, weights=None, opset=20):
        nodes = nodes if isinstance(nodes, list) else [nodes]
        shapes = {"x": ["n", *x.shape[1:]]}, {"y": ["n", *expected.shape[1:]]}
        opened = open_bytes(onnx_bytes(nodes, *shapes, weights or {}, opset=opset))
        np.testing.assert_allclose(predict(opened, {"x": x})["y"], expected, rtol=1e-5, atol=1e-6)
        assert parity(opened, {"x": x}) <= 1e-5
        return opened

    return same


def with_axes(operator, axes, opset, rank):
    """A node whose axes are an attribute before opset 13 and an input from then on, and its weights."""
    if opset < 11:  # before it, axes are in order and counted from the front
        axes = sorted(axis % rank for axis in axes)
    if opset < 13:
        return make_node(operator, ["x"], ["y"], axes=axes), {}
    return make_node(operator, ["x", "axes"], ["y"]), {"axes": np.array(axes)}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("permutation", [[0, 2, 1, 3], [0, 3, 1, 2]])
def test_transpose(permutation, opset, check):
    x = normal(0, 4, 3, 5, 2)
    check(make_node("Transpose", ["x"], ["y"], perm=permutation), x, x.transpose(permutation), opset=opset)


def test_rows_may_leave_the_front_and_come_back(check):
    x, w = normal(0, 4, 3, 5), normal(1, 5, 2)
    nodes = [
        make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        make_node("MatMul", ["t", "w"], ["m"]),
        make_node("Softmax", ["m"], ["s"], axis=0),
        make_node("Transpose", ["s"], ["y"], perm=[1, 0, 2]),
    ]
    product = np.exp(x @ w)
    check(nodes, x, product / product.sum(1, keepdims=True), {"w": w})


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("axes", "shape"), [([1], (4, 3, 1)), ([-1, 1], (4, 3)), ([3], (4, 1, 3))])
def test_squeeze(axes, shape, opset, check):
    x = normal(0, 4, 1, 3, 1)
    node, weights = with_axes("Squeeze", axes, opset, 4)
    check(node, x, x.reshape(shape), weights, opset)


def test_squeeze_of_every_axis_of_size_one_keeps_the_rows(check):
    x = normal(0, 4, 1, 3, 1)
    check(make_node("Squeeze", ["x"], ["y"]), x, x.reshape(4, 3))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("axes", "shape"), [([1], (4, 1, 3)), ([-1], (4, 3, 1)), ([3, 1], (4, 1, 3, 1))])
def test_unsqueeze(axes, shape, opset, check):
    x = normal(0, 4, 3)
    node, weights = with_axes("Unsqueeze", axes, opset, len(shape))
    check(node, x, x.reshape(shape), weights, opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("axis", [1, -1, 2])
def test_concat(axis, opset, check):
    x = normal(0, 4, 3, 5)
    nodes = [make_node("Relu", ["x"], ["r"]), make_node("Concat", ["x", "r", "x"], ["y"], axis=axis)]
    check(nodes, x, np.concatenate([x, np.maximum(x, 0), x], axis), opset=opset)


def test_a_learned_token_goes_before_every_row(check):
    """As vision transformers do it: a parameter expanded to the number of rows, and joined."""
    x, token = normal(0, 4, 3, 5), normal(1, 1, 1, 5)
    nodes = [
        make_node("Shape", ["x"], ["all"]),
        make_node("Gather", ["all", "zero"], ["n"]),
        make_node("Concat", ["n", "rest"], ["target"], axis=0),
        make_node("Expand", ["token", "target"], ["tokens"]),
        make_node("Concat", ["tokens", "x"], ["y"], axis=1),
    ]
    weights = {"token": token, "zero": np.array([0]), "rest": np.array([1, 5])}
    opened = check(nodes, x, np.concatenate([token.repeat(4, 0), x], 1), weights)
    assert [name for name, _ in opened.exported.named_parameters()] == ["token"]


@many
@given(
    start=st.integers(-9, 9),
    end=st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63)])),
    step=st.sampled_from([1, 2, 3, -1, -2]),
    axis=st.sampled_from([1, 2, -1]),
    opset=st.sampled_from(OPSETS),
)
def test_slice(start, end, step, axis, opset, check):
    x = normal(0, 4, 6, 5)
    step = 1 if opset < 10 else step
    expected = x[(slice(None),) * (axis % 3) + (slice(start, end, step),)]
    if opset < 10:
        node, weights = make_node("Slice", ["x"], ["y"], starts=[start], ends=[end], axes=[axis]), {}
    else:
        weights = {"s": np.array([start]), "e": np.array([end]), "a": np.array([axis]), "t": np.array([step])}
        node = make_node("Slice", ["x", *weights], ["y"])
    if expected.size:
        check(node, x, expected, weights, opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("pads", [[0, 1, 2, 0, 0, 3], [0, -1, 1, 0, 0, -2]])
@pytest.mark.parametrize("value", [None, 0.0, 1.5, -np.inf])
def test_pad(value, pads, opset, check):
    x = normal(0, 4, 3, 5)
    pairs = list(zip(pads[:3], pads[3:], strict=True))
    kept = x[tuple(slice(max(0, -a), x.shape[i] - max(0, -b)) for i, (a, b) in enumerate(pairs))]
    expected = np.pad(kept, [(max(0, a), max(0, b)) for a, b in pairs], constant_values=value or 0.0)
    if opset < 11:
        attributes = {} if value is None else {"value": value}
        check(make_node("Pad", ["x"], ["y"], pads=pads, **attributes), x, expected, opset=opset)
        return
    weights = {"p": np.array(pads)} | ({} if value is None else {"v": np.array(value, np.float32)})
    opened = check(make_node("Pad", ["x", *weights], ["y"]), x, expected, weights, opset)
    assert list(opened.exported.named_parameters()) == []


def test_pad_of_chosen_axes(check):
    x = normal(0, 4, 3, 5)
    weights = {"p": np.array([1, 2]), "axes": np.array([-1])}
    node = make_node("Pad", ["x", "p", "", "axes"], ["y"])
    check(node, x, np.pad(x, [(0, 0), (0, 0), (1, 2)]), weights, 18)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("indices", [np.array(1), np.array(-1), np.array([2, 0, -1]), np.array([[0, 1], [2, 2]])])
def test_gather_of_data_at_fixed_places(indices, opset, check):
    x = normal(0, 4, 3, 5)
    check(make_node("Gather", ["x", "i"], ["y"], axis=1), x, np.take(x, indices, 1), {"i": indices}, opset)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize(("table", "axis"), [((7, 4), 0), ((7, 2, 3), 0), ((7,), 0), ((4, 7), 1)])
def test_embedding(table, axis, dtype, opset, open_bytes, onnx_bytes):
    w, ids = normal(0, *table), np.random.default_rng(1).integers(0, 7, (5, 3)).astype(dtype)
    expected = np.take(w, ids, axis)
    nodes = [make_node("Gather", ["w", "x"], ["g"], axis=axis)]
    if axis == 1:
        nodes.append(make_node("Transpose", ["g"], ["y"], perm=[1, 0, 2]))
        expected = expected.transpose(1, 0, 2)
    else:
        nodes.append(make_node("Relu", ["g"], ["y"]))
        expected = np.maximum(expected, 0)
    model = onnx.load_model_from_string(
        onnx_bytes(nodes, {"x": ["n", 3]}, {"y": ["n", *expected.shape[1:]]}, {"w": w}, opset=opset)
    )
    model.graph.input[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    opened = open_bytes(model.SerializeToString())
    assert opened.inputs[0].dtype == np.dtype(dtype).name
    np.testing.assert_array_equal(predict(opened, {"x": ids})["y"], expected)
    assert parity(opened, {"x": ids}) == 0
    assert [name for name, _ in opened.exported.named_parameters()] == ["w"]
    embeds = torch.ops.aten.embedding.default in [node.target for node in opened.exported.graph.nodes]
    assert embeds == (axis == 0)


def test_ids_of_fixed_positions_are_no_parameter(check):
    x, table, positions = normal(0, 4, 3, 5), normal(1, 7, 5), np.array([[4, 0, 2]])
    nodes = [make_node("Gather", ["table", "positions"], ["p"]), make_node("Add", ["x", "p"], ["y"])]
    opened = check(nodes, x, x + table[positions], {"table": table, "positions": positions})
    assert [name for name, _ in opened.exported.named_parameters()] == ["table"]


def test_arithmetic_on_shapes(check):
    """As torch.onnx.export(dynamo=False) writes `x.reshape(len(x), x.shape[1] * x.shape[2] // 2, -1)`."""
    x = normal(0, 4, 6, 5)
    nodes = [make_node("Shape", ["x"], ["all"])]
    nodes += [make_node("Gather", ["all", f"i{k}"], [f"s{k}"]) for k in range(3)]
    nodes += [
        make_node("Mul", ["s1", "s2"], ["product"]),
        make_node("Div", ["product", "two"], ["half"]),
        make_node("Cast", ["half"], ["cast"], to=onnx.TensorProto.INT64),
        make_node("Sub", ["zero", "one"], ["rest"]),
        *(make_node("Unsqueeze", [name, "first"], [f"{name}_list"]) for name in ("s0", "cast", "rest")),
        make_node("Concat", ["s0_list", "cast_list", "rest_list"], ["target"], axis=0),
        make_node("Slice", ["target", "first", "end"], ["same"]),
        make_node("Reshape", ["x", "same"], ["y"]),
    ]
    weights = {f"i{k}": np.array(k) for k in range(3)}
    weights |= {
        "two": np.array(2),
        "zero": np.array(0),
        "one": np.array(1),
        "first": np.array([0]),
        "end": np.array([9]),
    }
    check(nodes, x, x.reshape(4, 15, 2), weights)


def test_a_matrix_of_shape_arithmetic(check):
    """As torch.onnx.export(dynamo=False) writes the amounts of a Pad, which torch counts from the last axis."""
    x = normal(0, 4, 3, 5)
    nodes = [
        make_node("ConstantOfShape", ["two"], ["zeros"], value=make_tensor("z", onnx.TensorProto.INT64, [1], [0])),
        make_node("Concat", ["amounts", "zeros"], ["all"], axis=0),
        make_node("Reshape", ["all", "pairs"], ["matrix"]),
        make_node("Slice", ["matrix", "last", "first", "axis", "back"], ["reversed"]),
        make_node("Transpose", ["reversed"], ["turned"], perm=[1, 0]),
        make_node("Reshape", ["turned", "flat"], ["pads"]),
        make_node("Cast", ["pads"], ["cast"], to=onnx.TensorProto.INT64),
        make_node("Pad", ["x", "cast"], ["y"]),
    ]
    weights = {"two": [2], "amounts": [1, 2, 0, 3], "pairs": [-1, 2], "flat": [-1]}
    weights |= {"last": [-1], "first": [-(2**63) + 1], "axis": [0], "back": [-1]}
    check(nodes, x, np.pad(x, [(0, 0), (0, 3), (1, 2)]), {name: np.array(value) for name, value in weights.items()})


def test_expand_to_a_shape_with_minus_one_as_the_older_exporter_writes_it(check):
    x, w = normal(0, 4, 3), normal(1, 1, 3)
    nodes = [
        make_node("Shape", ["x"], ["s"]),
        make_node("Gather", ["s", "zero"], ["n"], axis=0),
        make_node("Concat", ["n", "minus"], ["target"], axis=0),
        make_node("Equal", ["target", "minuses"], ["is_minus"]),
        make_node("Where", ["is_minus", "ones", "target"], ["sizes"]),
        make_node("Expand", ["w", "sizes"], ["wide"]),
        make_node("Add", ["x", "wide"], ["y"]),
    ]
    weights = {"zero": [0], "minus": [-1], "minuses": [-1, -1], "ones": [1, 1]}
    check(nodes, x, x + w, {name: np.array(value) for name, value in weights.items()} | {"w": w})


def test_zeros_of_a_computed_shape(check):
    x = normal(0, 4, 3)
    nodes = [
        make_node("Shape", ["x"], ["s"]),
        make_node("ConstantOfShape", ["s"], ["halves"], value=make_tensor("v", onnx.TensorProto.FLOAT, [1], [0.5])),
        make_node("Add", ["x", "halves"], ["y"]),
    ]
    opened = check(nodes, x, x + 0.5)
    assert list(opened.exported.named_parameters()) == []


TIMES_ITS_SHAPE = [
    make_node("Shape", ["x"], ["s"]),
    make_node("Cast", ["s"], ["f"], to=onnx.TensorProto.FLOAT),
    make_node("ReduceMean", ["f"], ["m"]),
    make_node("Mul", ["m", "x"], ["y"]),
]


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([make_node("Concat", ["x", "x"], ["y"], axis=0)], "joins along the rows"),
        ([make_node("Gather", ["x", "two"], ["y"], axis=0)], "picks single rows"),
        ([make_node("Gather", ["x", "ten"], ["y"], axis=1)], "beyond the 4 slices"),
        ([make_node("Slice", ["x", "zero", "two"], ["y"])], "picks single rows"),
        ([make_node("Pad", ["x", "pads"], ["y"])], "adds rows"),
        ([make_node("Pad", ["x", "pads"], ["y"], mode="reflect")], "adds rows"),
        ([make_node("Pad", ["x", "cut"], ["y"], mode="reflect")], "cuts elements off"),
        ([make_node("Unsqueeze", ["x", "zero"], ["u"]), make_node("Squeeze", ["u", "two"], ["y"])], "must be 1"),
        (TIMES_ITS_SHAPE, "number of rows"),
    ],
)  # fmt: skip
def test_what_mixes_rows_or_does_not_fit_is_refused(nodes, says, onnx_bytes, refusal):
    weights = {"two": np.array([2]), "ten": np.array([10]), "zero": np.array([0]), "pads": np.array([1, 0, 0, 0])}
    weights["cut"] = np.array([0, 1, 0, -1])
    content = onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["m", "k"]}, weights)
    assert says in refusal(content, Reason.MODEL_UNSUPPORTED, Reason.MODEL_MALFORMED)
