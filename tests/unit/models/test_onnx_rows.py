"""Operators in models whose number of rows stays open: against onnxruntime, and refused where rows would mix."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from undue_service.domain.errors import Reason
from undue_service.models import parity, predict

NEWEST = onnx.defs.onnx_opset_version()


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def check(open_bytes, onnx_bytes):
    """Hold nodes from x to y against onnxruntime for two numbers of rows, and return the opened model."""

    def same(nodes, shape, weights=None, opset=NEWEST, rank=None, scale=2.0, shift=0.0):
        nodes = nodes if isinstance(nodes, list) else [nodes]
        sizes = ["n", *(f"?{i}" for i in range((rank or len(shape) + 1) - 1))]
        opened = open_bytes(onnx_bytes(nodes, {"x": ["n", *shape]}, {"y": sizes}, weights or {}, opset=opset))
        for rows in (1, 5):
            assert parity(opened, {"x": scale * normal(rows, rows, *shape) + shift}) <= 1e-5
        return opened

    return same


SINCE = {
    "Asinh": 9, "Atan": 9, "Celu": 12, "Ceil": 9, "Cos": 9, "Cosh": 9, "Floor": 9, "Hardmax": 9, "Mish": 18,
    "Round": 11, "Selu": 9, "Shrink": 9, "Sign": 9, "Sin": 9, "Sinh": 9, "Softsign": 9, "Tan": 9, "ThresholdedRelu": 10,
}  # fmt: skip


@pytest.mark.parametrize("operator", sorted(SINCE))
def test_each_element(operator, check):
    for opset in {SINCE[operator], NEWEST}:
        check(make_node(operator, ["x"], ["y"]), (3, 4), opset=opset)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Celu", {"alpha": 0.3}),
        ("Selu", {"alpha": 1.3, "gamma": 0.8}),
        ("Shrink", {"lambd": 0.9, "bias": 0.4}),
        ("ThresholdedRelu", {"alpha": -0.3}),
        ("CumSum", {"exclusive": 1}),
        ("LpNormalization", {"p": 1}),
    ],
)
def test_attributes_of_each_element(operator, attributes, check):
    axis = {"axis": np.array(1)} if operator == "CumSum" else {}
    check(make_node(operator, ["x", *axis], ["y"], **attributes), (3, 4), axis)


@pytest.mark.parametrize(("operator", "shift"), [("Acos", 0), ("Asin", 0), ("Atanh", 0), ("Acosh", 2)])
def test_functions_of_an_interval(operator, shift, check):
    check(make_node(operator, ["x"], ["y"]), (3, 4), scale=0.2, shift=shift)


@pytest.mark.parametrize("axis", [1, -1, 2])
@pytest.mark.parametrize("kind", ["L1", "L2", "LogSumExp", "Prod", "SumSquare"])
def test_reductions(kind, axis, check):
    check(make_node(f"Reduce{kind}", ["x", "axes"], ["y"]), (3, 4), {"axes": np.array([axis])})


def cast(name, to, kind):
    return make_node("Cast", [name], [to], to=kind)


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
def test_arguments(operator, check):
    check([make_node(operator, ["x"], ["i"], axis=1), cast("i", "y", TensorProto.FLOAT)], (3, 4))


def test_the_largest_in_order_and_where(check):
    nodes = [
        make_node("TopK", ["x", "k"], ["v", "i"], axis=1),
        cast("i", "f", TensorProto.FLOAT),
        make_node("Concat", ["v", "f"], ["y"], axis=1),
    ]
    check(nodes, (6,), {"k": np.array([3])})


def test_parts(check):
    nodes = [make_node("Split", ["x"], ["a", "b", "c"], num_outputs=3, axis=1)]
    nodes += [make_node("Concat", ["c", "a", "b"], ["y"], axis=1)]
    check(nodes, (8, 2))


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_padding_from_inside(mode, check):
    check(make_node("Pad", ["x", "p"], ["y"], mode=mode), (4, 5), {"p": np.array([0, 1, 2, 0, 3, 0])})


def test_blocks(check):
    nodes = [make_node("SpaceToDepth", ["x"], ["s"], blocksize=2), make_node("Sin", ["s"], ["t"])]
    check([*nodes, make_node("DepthToSpace", ["t"], ["y"], blocksize=2)], (2, 4, 6))
    weights = {"image": np.array([4, 3]), "block": np.array([2, 2])}
    check(make_node("Col2Im", ["x", "image", "block"], ["y"]), (8, 6), weights, rank=4)


def test_crop_and_tile_of_axes_within_a_row(check):
    nodes = [make_node("CenterCropPad", ["x", "s"], ["c"], axes=[1, 2]), make_node("Tile", ["c", "r"], ["y"])]
    check(nodes, (5, 4), {"s": np.array([2, 6]), "r": np.array([1, 3, 1])})


def test_a_causal_mask_of_positions(check):
    """As exporters write it: positions counted, compared, and put where a score is hidden."""
    nodes = [
        make_node("Range", ["zero", "size", "one"], ["r"]),
        make_node("Unsqueeze", ["r", "zero_"], ["row"]),
        make_node("Unsqueeze", ["r", "one_"], ["column"]),
        make_node("LessOrEqual", ["row", "column"], ["seen"]),
        make_node("Not", ["seen"], ["hidden"]),
        make_node("Where", ["hidden", "low", "x"], ["y"]),
    ]
    weights = {"zero": 0, "size": 4, "one": 1, "zero_": [0], "one_": [1]}
    arrays = {name: np.array(value) for name, value in weights.items()} | {"low": np.array(-9, np.float32)}
    check(nodes, (4, 4), arrays)


def test_a_mask_of_more_integers_than_are_computed_one_by_one(check):
    """Positions of 400 tokens, expanded, compared, and looked up in a list of integers by a matrix."""
    nodes = [
        make_node("Range", ["zero", "size", "one"], ["r"]),
        make_node("Expand", ["r", "square"], ["columns"]),
        make_node("Unsqueeze", ["r", "one_"], ["rows"]),
        make_node("Sub", ["columns", "rows"], ["away"]),
        make_node("Clip", ["away", "zero", "three"], ["near"]),
        make_node("Gather", ["table", "near"], ["found"]),
        cast("found", "f", TensorProto.FLOAT),
        make_node("MatMul", ["x", "f"], ["m"]),
        make_node("Mul", ["m", "small"], ["y"]),
    ]
    weights = {"zero": 0, "size": 400, "one": 1, "three": 3, "one_": [1], "square": [400, 400], "table": [0, 1, 0, 2]}
    arrays = {name: np.array(value) for name, value in weights.items()} | {"small": np.array(0.01, np.float32)}
    check(nodes, (400,), arrays)


def test_a_mask_of_the_upper_triangle(check):
    nodes = [make_node("Trilu", ["ones", "k"], ["mask"]), make_node("Mul", ["x", "mask"], ["y"])]
    check(nodes, (4, 4), {"ones": np.ones((4, 4), np.float32), "k": np.array(1)})


@pytest.mark.parametrize(
    ("operator", "indices"),
    [("GatherElements", np.array([[[0, 2, 1], [1, -1, 0]]])), ("GatherND", np.array([[0, 1], [1, 2]]))],
)
def test_elements_at_fixed_places_of_data_that_are_no_rows(operator, indices, check):
    """Indices that the graph holds: the same for every row, and so spread over them by the graph."""
    if operator == "GatherElements":
        nodes = [
            make_node("Shape", ["x"], ["s"], end=1),
            make_node("Concat", ["s", "rest"], ["all"], axis=0),
            make_node("Expand", ["i", "all"], ["wide"]),
            make_node("GatherElements", ["x", "wide"], ["y"], axis=1),
        ]
        check(nodes, (3, 3), {"i": indices, "rest": np.array([2, 3])})
    else:
        nodes = [
            make_node("Transpose", ["x"], ["t"], perm=[1, 2, 0]),
            make_node("GatherND", ["t", "i"], ["g"]),
            make_node("Transpose", ["g"], ["y"], perm=[1, 0]),
        ]
        check(nodes, (3, 3), {"i": indices}, rank=2)


def test_updates_at_fixed_places(check):
    nodes = [
        make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        make_node("ScatterND", ["t", "i", "t2"], ["s"], reduction="add"),
        make_node("Transpose", ["s"], ["y"], perm=[1, 0]),
    ]
    nodes.insert(1, make_node("Slice", ["t", "zero", "two"], ["t2"]))
    check(nodes, (4,), {"i": np.array([[3], [1]]), "zero": np.array([0]), "two": np.array([2])}, opset=18)


def test_swish_and_its_gate(open_bytes, onnx_bytes):
    """onnxruntime has no kernel of opset 24's Swish yet: NumPy says what it is."""
    nodes = [make_node("Swish", ["x"], ["s"], alpha=0.7), make_node("SwiGLU", ["x", "s"], ["y"], alpha=1.3)]
    opened, x = open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {}, opset=28)), normal(0, 5, 4)
    swish = x / (1 + np.exp(-0.7 * x))
    np.testing.assert_allclose(predict(opened, {"x": x})["y"], x / (1 + np.exp(-1.3 * x)) * swish, rtol=1e-5)


def test_one_hot_codes_of_ids(check):
    nodes = [cast("x", "ids", TensorProto.INT64), make_node("OneHot", ["ids", "depth", "values"], ["y"])]
    weights = {"depth": np.array(5), "values": np.array([0, 1], np.float32)}
    opened = check(nodes, (3,), weights, rank=3)
    assert list(opened.exported.named_parameters()) == []


COMPRESSED = make_node("Compress", ["x", "truth"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([make_node("CumSum", ["x", "zero"], ["y"])], "accumulates over the rows"),
        ([make_node("ArgMax", ["x"], ["i"]), cast("i", "y", TensorProto.FLOAT)], "compares the rows"),
        ([make_node("TopK", ["x", "one"], ["y", "i"], axis=0)], "chooses among the rows"),
        ([make_node("Hardmax", ["x"], ["y"], axis=0)], "chooses among the rows"),
        ([make_node("LpNormalization", ["x"], ["y"], axis=0)], "across the rows"),
        ([make_node("Split", ["x"], ["y", "z"], num_outputs=2)], "splits the rows"),
        ([make_node("Tile", ["x", "twos"], ["y"])], "repeats the rows"),
        ([make_node("Trilu", ["x"], ["y"])], "tells the rows apart"),
        ([make_node("EyeLike", ["x"], ["y"])], "tells the rows apart"),
        ([make_node("CenterCropPad", ["x", "twos"], ["y"])], "leaves out rows"),
        ([make_node("Flatten", ["x"], ["y"], axis=0)], "folds all rows"),
        ([make_node("GatherElements", ["x", "places"], ["y"])], "picks single rows"),
        ([make_node("GatherND", ["x", "places"], ["y"])], "picks single rows"),
        ([make_node("ScatterND", ["x", "places", "u"], ["y"])], "writes into single rows"),
        ([make_node("Compress", ["x", "truth"], ["y"], axis=0)], "chooses among the rows"),
        ([COMPRESSED], "chooses among the rows"),
        ([make_node("NonZero", ["x"], ["i"]), cast("i", "y", TensorProto.FLOAT)], "chooses among the rows"),
        ([make_node("Unique", ["x"], ["y"], axis=1)], "chooses among the rows"),
        ([make_node("Range", ["zero", "size", "one"], ["r"]), cast("r", "y", TensorProto.FLOAT)], "number of rows"),
    ],
)  # fmt: skip
def test_what_mixes_rows_is_refused(nodes, says, onnx_bytes, refusal):
    weights = {"zero": 0, "one": 1, "twos": [2, 2], "places": [[1, 0]], "truth": [True, False]}
    arrays = {name: np.array(value) for name, value in weights.items()} | {"u": np.ones(1, np.float32)}
    if nodes[0].op_type == "TopK":
        arrays["one"] = np.array([1])
    if nodes[0].op_type == "Range":
        nodes = [make_node("Shape", ["x"], ["s"]), make_node("Gather", ["s", "zero"], ["size"]), *nodes]
    is_list = nodes[0].op_type in ("GatherND", "Shape") or nodes[0] == COMPRESSED
    content = onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["?a"] if is_list else ["?a", "?b"]}, arrays)
    assert says in refusal(content, Reason.MODEL_UNSUPPORTED)
