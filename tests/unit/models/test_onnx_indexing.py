"""Reading and writing at computed places, cutting and joining, in fixed sizes, against onnxruntime and NumPy."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import make_node

from undue_service.domain.errors import Error, Reason

NEWEST = onnx.defs.onnx_opset_version()
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def places(seed, size, *shape, dtype=np.int64):
    return np.random.default_rng(seed).integers(-size, size, shape).astype(dtype)


@many
@given(
    axis=st.sampled_from([None, 0, 1, 2, -1]),
    dtype=st.sampled_from([np.int64, np.int32]),
    kind=st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
    opset=st.sampled_from([11, 13, NEWEST]),
    seed=st.integers(0, 2**31),
)
def test_gather_elements(axis, dtype, kind, opset, seed, agrees):
    x, at = normal(seed, 4, 3, 5).astype(kind), axis or 0
    shape = [4, 3, 5]
    shape[at] = 2
    inputs = {"x": x, "i": places(seed, x.shape[at], *shape, dtype=dtype)}
    agrees(make_node("GatherElements", ["x", "i"], ["y"], **({} if axis is None else {"axis": axis})), inputs, opset)


@many
@given(
    case=st.sampled_from([(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)]),
    count=st.sampled_from([(), (3,), (2, 4)]),
    seed=st.integers(0, 2**31),
)
def test_gather_nd(case, count, seed, agrees):
    batches, depth = case
    x = normal(seed, 2, 3, 4)
    parts = [places(seed + d, x.shape[batches + d], *x.shape[:batches], *count) for d in range(depth)]
    inputs = {"x": x, "i": np.stack(parts, -1)}
    agrees(make_node("GatherND", ["x", "i"], ["y"], batch_dims=batches), inputs)


@pytest.mark.parametrize("opset", [11, 12, NEWEST])
def test_gather_nd_of_integers(opset, agrees):
    inputs = {"x": np.arange(12, dtype=np.int32).reshape(3, 4), "i": np.array([[0, -1], [2, 1]])}
    agrees(make_node("GatherND", ["x", "i"], ["y"]), inputs, opset, store="i")


@many
@given(
    reduction=st.sampled_from([None, "none", "add", "mul", "max", "min"]),
    axis=st.sampled_from([None, 0, 1, -1]),
    dtype=st.sampled_from([np.float32, np.float64, np.int64]),
    seed=st.integers(0, 2**31),
)
def test_scatter_elements(reduction, axis, dtype, seed, agrees):
    rng, x = np.random.default_rng(seed), (3 * normal(seed, 4, 5)).astype(dtype)
    at = axis or 0
    order = np.argsort(rng.random((4, 5)), at)  # no place twice, unless they are reduced
    i = order[:2] if at == 0 else order[:, :2]
    if reduction not in (None, "none"):
        i = rng.integers(-x.shape[at], x.shape[at], i.shape)
    attributes = {} if axis is None else {"axis": axis}
    attributes |= {} if reduction is None else {"reduction": reduction}
    inputs = {"x": x, "i": i, "u": (3 * normal(seed + 1, *i.shape)).astype(dtype)}
    agrees(make_node("ScatterElements", ["x", "i", "u"], ["y"], **attributes), inputs, 18)


@pytest.mark.parametrize(("operator", "opset"), [("Scatter", 9), ("Scatter", 10), ("ScatterElements", 11)])
def test_scatter_of_old_opsets(operator, opset, agrees):
    inputs = {"x": normal(0, 3, 4), "i": np.array([[1, 3], [0, 2]]), "u": normal(1, 2, 2)}
    agrees(make_node(operator, ["x", "i", "u"], ["y"], axis=1), inputs, opset)


@many
@given(
    reduction=st.sampled_from(["none", "add", "mul", "max", "min"]),
    depth=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)
def test_scatter_nd(reduction, depth, seed, agrees):
    rng, x = np.random.default_rng(seed), normal(seed, 3, 4, 2)
    every = np.stack(np.unravel_index(rng.permutation(int(np.prod(x.shape[:depth]))), x.shape[:depth]), -1)
    i = every[:3] if reduction == "none" else every[rng.integers(0, len(every), 5)]
    i = np.where(rng.random(i.shape) < 0.3, i - np.array(x.shape[:depth]), i)
    inputs = {"x": x, "i": i, "u": normal(seed + 1, len(i), *x.shape[depth:])}
    agrees(make_node("ScatterND", ["x", "i", "u"], ["y"], reduction=reduction), inputs, 18)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_tensor_scatter(mode, axis, agrees):
    cache, update = normal(0, 2, 5, 4, 5), normal(1, 2, 5, 2, 5)
    if axis == 1:
        cache, update = cache.swapaxes(1, 2).copy(), update.swapaxes(1, 2).copy()
    elif axis == -1:
        cache, update = cache.swapaxes(2, 3).copy(), update.swapaxes(2, 3).copy()
    attributes = {"mode": mode} | ({} if axis is None else {"axis": axis})
    inputs = {"c": cache, "u": update, "i": np.array([1, 2 if mode == "linear" else 3])}
    agrees(make_node("TensorScatter", ["c", "u", "i"], ["y"], **attributes), inputs)
    agrees(make_node("TensorScatter", ["c", "u"], ["y"], **attributes), inputs)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("opset", [9, 11, NEWEST])
def test_compress(axis, opset, agrees):
    inputs = {"x": normal(0, 4, 3), "c": np.array([True, False, True])}
    attributes = {} if axis is None else {"axis": axis % 2 if opset < 11 else axis}
    agrees(make_node("Compress", ["x", "c"], ["y"], **attributes), inputs, opset, store="c")


@pytest.mark.parametrize("axis", [None, 0, 1, -1, -2])
@pytest.mark.parametrize("kind", [np.int64, np.float32, np.int32])
@pytest.mark.parametrize("opset", [11, NEWEST])
def test_one_hot(axis, kind, opset, agrees):
    inputs = {
        "i": np.array([[0, 2, -1], [3, 7, -4]]).astype(kind),
        "depth": np.array([4], np.int64),
        "values": np.array([-1, 2], kind),
    }
    attributes = {} if axis is None else {"axis": axis}
    place = -1 if axis is None else axis
    counted = np.arange(4).reshape([4 if p == place % 3 else 1 for p in range(3)])
    hot = np.expand_dims(inputs["i"] % 4, place) == counted
    hot &= np.expand_dims(inputs["i"] < 4, place)
    node = make_node("OneHot", ["i", "depth", "values"], ["y"], **attributes)
    agrees(node, inputs, opset, ["depth", "values"], [np.where(hot, 2, -1).astype(kind)])


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
@pytest.mark.parametrize("opset", [10, NEWEST])
def test_reverse_sequence(axes, opset, agrees):
    time, batch = axes
    inputs = {"x": normal(0, 4, 4, 2), "lengths": np.array([1, 4, 2, 3])}
    node = make_node("ReverseSequence", ["x", "lengths"], ["y"], time_axis=time, batch_axis=batch)
    agrees(node, inputs, opset, store=["lengths"])


# Cutting, joining, repeating


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("opset", [9, 11, 13, 18, NEWEST])
def test_split_into_equal_and_given_parts(axis, opset, agrees):
    x, attributes = normal(0, 6, 6), {} if axis is None else {"axis": axis % 2 if opset < 11 else axis}
    count = {"num_outputs": 3} if opset >= 18 else {}
    agrees(make_node("Split", ["x"], ["a", "b", "c"], **attributes, **count), {"x": x}, opset)
    if opset < 13:
        agrees(make_node("Split", ["x"], ["a", "b"], split=[2, 4], **attributes), {"x": x}, opset)
    else:
        inputs = {"x": x, "s": np.array([1, 0, 5])}
        agrees(make_node("Split", ["x", "s"], ["a", "b", "c"], **attributes), inputs, opset, store="s")


@pytest.mark.parametrize("opset", [18, NEWEST])
def test_split_into_a_smaller_last_part(opset, agrees):
    agrees(make_node("Split", ["x"], ["a", "b", "c"], num_outputs=3, axis=1), {"x": normal(0, 2, 7)}, opset)


@pytest.mark.parametrize("opset", [9, 13, NEWEST])
@pytest.mark.parametrize("repeats", [(1, 1, 1), (2, 1, 3), (1, 0, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_tile(repeats, dtype, opset, agrees):
    inputs = {"x": normal(0, 2, 3, 1).astype(dtype), "r": np.array(repeats)}
    agrees(make_node("Tile", ["x", "r"], ["y"]), inputs, opset, store="r")


@pytest.mark.parametrize("mode", [None, "DCR", "CRD"])
@pytest.mark.parametrize("opset", [11, 13, NEWEST])
def test_depth_to_space_and_back(mode, opset, agrees):
    x, attributes = normal(0, 2, 18, 2, 4), {} if mode is None else {"mode": mode}
    agrees(make_node("DepthToSpace", ["x"], ["y"], blocksize=3, **attributes), {"x": x}, opset)
    y, newest = normal(0, 2, 2, 6, 9), attributes if opset == NEWEST else {}
    agrees(make_node("SpaceToDepth", ["x"], ["y"], blocksize=3, **newest), {"x": y}, opset)


def test_depth_to_space_of_the_oldest_opset(agrees):
    agrees(make_node("DepthToSpace", ["x"], ["y"], blocksize=2), {"x": normal(0, 2, 8, 2, 3)}, 9)


@pytest.mark.parametrize(
    ("blocks", "image", "block", "attributes"),
    [
        ((2, 6, 12), (4, 6), (2, 3), {}),
        ((1, 4, 8), (5, 5), (2, 2), {"strides": [2, 1]}),
        ((1, 4, 16), (4, 4), (2, 2), {"pads": [1, 0, 0, 1]}),
        ((1, 4, 9), (5, 5), (2, 2), {"dilations": [2, 2]}),
        ((1, 8, 8), (3, 3, 3), (2, 2, 2), {}),
        ((2, 6, 5), (7,), (3,), {}),
    ],
)
def test_column_to_image(blocks, image, block, attributes, agrees):
    inputs = {"x": normal(0, *blocks), "image": np.array(image), "block": np.array(block)}
    node = make_node("Col2Im", ["x", "image", "block"], ["y"], **attributes)
    agrees(node, inputs, store=["image", "block"])


@many
@given(
    mode=st.sampled_from(["reflect", "edge", "wrap", "constant"]),
    amounts=st.lists(st.integers(0, 7), min_size=4, max_size=4),
    dtype=st.sampled_from([np.float32, np.int32, np.int64]),
    opset=st.sampled_from([11, 13, 18, 19, NEWEST]),
)
def test_pad_modes(mode, amounts, dtype, opset, agrees):
    """As NumPy does it, and onnxruntime where the amounts are below the axis."""
    mode = "edge" if mode == "wrap" and opset < 19 else mode
    inputs = {"x": np.arange(12).reshape(3, 4).astype(dtype), "p": np.array(amounts)}
    pairs = list(zip(amounts[:2], amounts[2:], strict=True))
    expected = [np.pad(inputs["x"], pairs, mode=mode)]
    node = make_node("Pad", ["x", "p"], ["y"], mode=mode)
    agrees(node, inputs, opset, store="p", expected=expected)
    if max(amounts) < 3:
        agrees(node, inputs, opset, store="p")


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pad_modes_of_old_opsets(mode, agrees):
    agrees(make_node("Pad", ["x"], ["y"], mode=mode, pads=[0, 1, 2, 2]), {"x": normal(0, 3, 4)}, 9)


@pytest.mark.parametrize("sizes", [(2, 5), (7, 8), (3, 8), (4, 5), (9, 4)])
@pytest.mark.parametrize("axes", [None, [0, 1], [-1, 0]])
def test_center_crop_pad(sizes, axes, agrees):
    inputs = {"x": normal(0, 4, 5), "s": np.array(sizes)}
    agrees(make_node("CenterCropPad", ["x", "s"], ["y"], **({} if axes is None else {"axes": axes})), inputs, store="s")


@pytest.mark.parametrize("upper", [None, 0, 1])
@pytest.mark.parametrize("k", [None, 0, 1, -2, 9, -9])
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3)])
def test_triangles(upper, k, shape, agrees):
    inputs = {"x": np.arange(1, np.prod(shape) + 1).reshape(shape).astype(np.float32)}
    inputs |= {} if k is None else {"k": np.array(k)}
    attributes = {} if upper is None else {"upper": upper}
    agrees(make_node("Trilu", ["x", "k"] if "k" in inputs else ["x"], ["y"], **attributes), inputs, store="k")


@pytest.mark.parametrize("k", [None, 1, -1, 5])
@pytest.mark.parametrize("dtype", [None, TensorProto.FLOAT, TensorProto.INT64])
def test_eye_like(k, dtype, agrees):
    given_attributes = {"k": k, "dtype": dtype}
    attributes = {name: value for name, value in given_attributes.items() if value is not None}
    agrees(make_node("EyeLike", ["x"], ["y"], **attributes), {"x": np.ones((3, 4), np.int32)}, 9)


@pytest.mark.parametrize(
    ("start", "limit", "step"), [(3, 9, 3), (10, 4, -2), (0, 5, 1), (5, 5, 1), (5, 0, 1), (1, 2, 0.3), (0.5, -2, -0.7)]
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
def test_range(start, limit, step, dtype, agrees):
    step = step if np.issubdtype(dtype, np.floating) else int(np.sign(step)) * max(1, int(abs(step)))
    inputs = {"a": np.array(start, dtype), "b": np.array(limit, dtype), "c": np.array(step, dtype)}
    agrees(make_node("Range", ["a", "b", "c"], ["y"]), inputs, store="abc")


def test_the_number_of_elements(agrees):
    agrees(make_node("Size", ["x"], ["y"]), {"x": normal(0, 3, 4, 2)})
    agrees(make_node("Size", ["x"], ["y"]), {"x": np.array([4, 5])}, store="x")


@pytest.mark.parametrize("indices", [np.array(-1), np.array([0, -3]), np.array([[-2, 1], [0, 2]])])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_counts_negative_places_from_the_end(indices, axis, agrees):
    agrees(make_node("Gather", ["x", "i"], ["y"], axis=axis), {"x": normal(0, 3, 4), "i": indices}, store="i")


def test_slices_whose_bounds_are_data(agrees):
    inputs = {"x": normal(0, 5, 6), "s": np.array([4, 1]), "e": np.array([0, 9]), "a": np.array([0, 1])}
    inputs["t"] = np.array([-2, 2])
    agrees(make_node("Slice", list(inputs), ["y"]), inputs, store="seat")


@pytest.mark.parametrize("axis", [0, 1, 4, -1])
def test_flatten_may_fold_everything(axis, agrees):
    agrees(make_node("Flatten", ["x"], ["y"], axis=axis), {"x": normal(0, 2, 3, 4, 2)})


# Refusals


BILLION = np.array([2**20, 2**20])


@pytest.mark.parametrize(
    ("node", "inputs", "says"),
    [
        (make_node("Range", ["a", "b", "c"], ["y"]), {"a": 0, "b": 2**60, "c": 1}, "limit"),
        (make_node("Range", ["a", "b", "c"], ["y"]), {"a": 0.0, "b": 1e30, "c": 1.0}, "limit"),
        (make_node("Range", ["a", "b", "c"], ["y"]), {"a": 0, "b": 5, "c": 0}, "steps of 0"),
        (make_node("Tile", ["x", "a"], ["y"]), {"x": normal(0, 2, 2), "a": BILLION}, "limit"),
        (make_node("OneHot", ["i", "a", "x"], ["y"]), {"i": [[0, 1]], "a": 2**40, "x": [0.0, 1.0]}, "limit"),
        (make_node("Pad", ["x", "a"], ["y"], mode="wrap"), {"x": normal(0, 2, 2), "a": [0, 0, 0, 2**40]}, "limit"),
        (make_node("Pad", ["x", "a"], ["y"], mode="edge"), {"x": normal(0, 2), "a": [2**40, 0]}, "limit"),
        (make_node("CenterCropPad", ["x", "a"], ["y"]), {"x": normal(0, 2, 2), "a": BILLION}, "limit"),
        (make_node("Col2Im", ["x", "a", "b"], ["y"]), {"x": normal(0, 1, 4, 9), "a": BILLION, "b": [2, 2]}, "limit"),
        (make_node("GatherElements", ["x", "i"], ["y"]), {"x": normal(0, 3), "i": [5]}, "beyond an axis of 3"),
        (make_node("GatherND", ["x", "i"], ["y"]), {"x": normal(0, 3), "i": [[-4]]}, "beyond an axis of 3"),
        (make_node("GatherND", ["x", "i"], ["y"]), {"x": normal(0, 3), "i": [[1, 1]]}, "indices of shape"),
        (make_node("ScatterND", ["x", "i", "u"], ["y"]), {"x": normal(0, 3), "i": [[1]], "u": [1.0, 2.0]}, "writes"),
        (
            make_node("TensorScatter", ["c", "u", "i"], ["y"]),
            {"c": normal(0, 1, 3, 1), "u": normal(0, 1, 2, 1), "i": [2]},
            "beyond the 3 places",
        ),
        (make_node("Split", ["x", "s"], ["a", "b"]), {"x": normal(0, 4), "s": [1, 2]}, "cuts 4"),
        (make_node("DepthToSpace", ["x"], ["y"], blocksize=3), {"x": normal(0, 1, 8, 2, 2)}, "8 channels"),
        (make_node("Pad", ["x", "a"], ["y"], mode="reflect"), {"x": normal(0, 4), "a": [2, -1]}, "cuts elements off"),
    ],
)  # fmt: skip
def test_what_does_not_fit_or_is_too_large_is_refused(node, inputs, says, runs):
    arrays = {
        name: np.asarray(v, np.float32) if np.asarray(v).dtype.kind == "f" else np.asarray(v)
        for name, v in inputs.items()
    }
    integers = [name for name, array in arrays.items() if array.dtype.kind == "i"]
    for stored in ((), integers):
        with pytest.raises(Error, match=says) as caught:
            runs(node, arrays, stored)
        assert caught.value.reason in (Reason.MODEL_UNSUPPORTED, Reason.MODEL_MALFORMED, Reason.UPLOAD_TOO_LARGE)
