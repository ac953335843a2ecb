"""Operators in graphs of fixed sizes against onnxruntime: each input as data of the graph, and stored in it."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import make_node

from undue_service.domain.errors import Error, Reason

NEWEST = onnx.defs.onnx_opset_version()
opsets = st.integers(9, NEWEST)
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIGNED = [np.int8, np.int16, np.int32, np.int64]
UNSIGNED = [np.uint8, np.uint16, np.uint32, np.uint64]
SHAPES = [((4, 3), (4, 3)), ((2, 3, 4), (4,)), ((3, 1), (1, 4)), ((), (5,)), ((2, 1, 3), (4, 1))]


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def whole(seed, shape, dtype):
    """Integers of a type, from all of its range, and small ones."""
    rng, limits = np.random.default_rng(seed), np.iinfo(dtype)
    wide = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    near = rng.integers(max(-9, limits.min), 9, shape).astype(dtype)
    return np.where(rng.random(shape) < 0.5, wide, near).astype(dtype)


# Elementwise


@many
@given(
    operator=st.sampled_from(["Add", "Sub", "Mul", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"]),
    dtype=st.sampled_from(SIGNED + UNSIGNED),
    shapes=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**31),
)
def test_integers_with_and_without_a_sign(operator, dtype, shapes, seed, agrees):
    inputs = {"a": whole(seed, shapes[0], dtype), "b": whole(seed + 1, shapes[1], dtype)}
    agrees(make_node(operator, ["a", "b"], ["y"]), inputs, store="b")


@many
@given(
    operator=st.sampled_from(["Div", "Mod", "Max", "Min"]),
    dtype=st.sampled_from(SIGNED + UNSIGNED),
    shapes=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**31),
)
def test_quotients_remainders_and_extremes_of_integers(operator, dtype, shapes, seed, agrees):
    a, b = whole(seed, shapes[0], dtype), whole(seed + 1, shapes[1], dtype)
    if operator in ("Div", "Mod"):
        b = np.where((b == 0) | (a == np.iinfo(dtype).min), dtype(3), b)  # the least number over −1 overflows
    towards_zero = np.vectorize(lambda x, y: abs(int(x)) // abs(int(y)) * (1 if (x < 0) == (y < 0) else -1), [object])
    compute = {"Div": towards_zero, "Mod": np.mod, "Max": np.maximum, "Min": np.minimum}[operator]
    expected = np.asarray(compute(a, b)).astype(dtype)
    agrees(make_node(operator, ["a", "b"], ["y"]), {"a": a, "b": b}, expected=[expected], store="b")


def test_quotients_of_large_unsigned_numbers(agrees):
    big = np.array([0, 1, 2**63 - 1, 2**63, 2**63 + 5, 2**64 - 1], np.uint64)
    a, b = big[:, None], big[None, 1:]
    for operator, expected in (("Div", a // b), ("Mod", a % b)):
        agrees(make_node(operator, ["a", "b"], ["y"]), {"a": a, "b": b}, expected=[expected])


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_mod(fmod, dtype, agrees):
    a, b = (7 * normal(0, 5, 6)).astype(dtype), np.array([3, -3, 2, -7, 5, -1]).astype(dtype)
    agrees(make_node("Mod", ["a", "b"], ["y"], fmod=fmod), {"a": a, "b": b}, store="b")


@pytest.mark.parametrize("opset", [10, 13])
def test_mod_before_floats_had_no_fmod(opset, agrees):
    a, b = 7 * normal(0, 5, 4), np.array([3, -3, 2, -7.5], np.float32)
    agrees(make_node("Mod", ["a", "b"], ["y"], fmod=1), {"a": a, "b": b}, opset)


@many
@given(
    dtype=st.sampled_from(SIGNED + UNSIGNED),
    direction=st.sampled_from(["LEFT", "RIGHT"]),
    shapes=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**31),
)
def test_bit_shift(dtype, direction, shapes, seed, agrees):
    """Python's own shifts of unbounded integers, cut to the width."""
    width = np.iinfo(dtype).bits
    a = whole(seed, shapes[0], dtype)
    b = np.random.default_rng(seed).integers(-3 if np.iinfo(dtype).min else 0, width + 3, shapes[1]).astype(dtype)

    def shifted(x, by):
        if not 0 <= by < width:
            return -1 if direction == "RIGHT" and x < 0 else 0
        moved = x << by if direction == "LEFT" else x >> by
        cut = moved % 2**width
        return cut - 2**width if np.iinfo(dtype).min and cut >= 2 ** (width - 1) else cut

    pairs = [np.broadcast_to(v, np.broadcast_shapes(a.shape, b.shape)) for v in (a, b)]
    expected = [shifted(int(x), int(y)) for x, y in zip(pairs[0].flat, pairs[1].flat, strict=True)]
    result = np.array(expected, dtype).reshape(pairs[0].shape)
    agrees(make_node("BitShift", ["a", "b"], ["y"], direction=direction), {"a": a, "b": b}, expected=[result])


@many
@given(
    operator=st.sampled_from(["BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot"]),
    dtype=st.sampled_from(SIGNED + UNSIGNED),
    shapes=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**31),
)
def test_bitwise(operator, dtype, shapes, seed, agrees):
    inputs = {"a": whole(seed, shapes[0], dtype), "b": whole(seed + 1, shapes[1], dtype)}
    agrees(make_node(operator, ["a"] if operator == "BitwiseNot" else ["a", "b"], ["y"]), inputs, store="b")


@pytest.mark.parametrize(
    ("dtype", "to", "wanted"),
    [
        (np.float32, TensorProto.INT32, np.int32),
        (np.float64, TensorProto.UINT64, np.uint64),
        (np.int64, TensorProto.DOUBLE, np.float64),
        (np.uint16, TensorProto.INT16, np.int16),
        (np.bool_, TensorProto.UINT8, np.uint8),
    ],
)
def test_bit_cast(dtype, to, wanted, agrees):
    x = (3 * normal(0, 2, 3)).astype(dtype)
    agrees(make_node("BitCast", ["x"], ["y"], to=to), {"x": x}, expected=[x.view(wanted)])


@pytest.mark.parametrize("operator", ["And", "Or", "Xor", "Not"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_logic(operator, shapes, agrees):
    a, b = (normal(seed, *shape) > 0 for seed, shape in enumerate(shapes))
    names = ["a"] if operator == "Not" else ["a", "b"]
    agrees(make_node(operator, names, ["y"]), {"a": a, "b": b}, store=names)


@pytest.mark.parametrize("signs", [{}, {"detect_negative": 0}, {"detect_positive": 0}])
@pytest.mark.parametrize("operator", ["IsNaN", "IsInf"])
def test_what_is_not_finite(operator, signs, agrees):
    x = np.array([1, np.nan, np.inf, -np.inf, 0], np.float32)
    agrees(make_node(operator, ["x"], ["y"], **(signs if operator == "IsInf" else {})), {"x": x})


@pytest.mark.parametrize("operator", ["Ceil", "Floor", "Round", "Sign"])
def test_rounding(operator, agrees):
    x = np.array([-2.5, -1.5, -0.5, -0.2, 0.0, 0.2, 0.5, 1.5, 2.5, 3.7], np.float32)
    agrees(make_node(operator, ["x"], ["y"]), {"x": x}, opset=13)


@pytest.mark.parametrize("dtype", [*SIGNED, np.float32])
@pytest.mark.parametrize("operator", ["Sign", "Neg", "Abs"])
def test_signs_of_many_types(operator, dtype, agrees):
    agrees(make_node(operator, ["x"], ["y"]), {"x": np.array([-3, 0, 5], dtype)}, store="x")


@pytest.mark.parametrize("operator", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_inputs(operator, count, agrees):
    inputs = {"a": normal(0, 2, 3, 4), "b": normal(1, 3, 1), "c": normal(2, 4)}
    agrees(make_node(operator, list(inputs)[:count], ["y"]), inputs, store="bc"[: count - 1])


@pytest.mark.parametrize("base", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("exponent", [np.float32, np.float64, np.int32, np.int64])
def test_power_of_mixed_types(base, exponent, agrees):
    inputs = {"x": np.array([[1, 2, 3], [4, 5, 6]], base), "e": np.array([2, 3, 1], exponent)}
    agrees(make_node("Pow", ["x", "e"], ["y"]), inputs, store="e")


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.uint64, np.float64])
@pytest.mark.parametrize(("low", "high"), [(2, 5), (None, 5), (2, None), (6, 3)])
def test_clip_of_many_types(low, high, dtype, agrees):
    inputs = {"x": np.arange(9).astype(dtype)}
    inputs |= {name: np.array(v, dtype) for name, v in (("low", low), ("high", high)) if v is not None}
    node = make_node("Clip", ["x", *(name if name in inputs else "" for name in ("low", "high"))], ["y"])
    expected = np.minimum(np.maximum(inputs["x"], inputs.get("low", 0)), inputs.get("high", 100)).astype(dtype)
    agrees(node, inputs, expected=[expected], store=[name for name in inputs if name != "x"])


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.int64, np.uint8, np.float32, np.float64])
def test_where_of_many_types(dtype, agrees):
    inputs = {"c": normal(0, 3, 1) > 0, "a": normal(1, 4).astype(dtype), "b": normal(2, 2, 1, 1).astype(dtype)}
    agrees(make_node("Where", ["c", "a", "b"], ["y"]), inputs, expected=[np.where(*inputs.values())], store="cab")


# Reductions


REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@many
@given(
    kind=st.sampled_from(REDUCTIONS),
    axes=st.sampled_from([None, [], [0], [1], [-1], [0, 2], [2, 1], [-3, -1], [0, 1, 2]]),
    keep=st.sampled_from([None, 0, 1]),
    noop=st.sampled_from([None, 0, 1]),
    dtype=st.sampled_from([np.float32, np.float64]),
    opset=opsets,
)
def test_reductions(kind, axes, keep, noop, dtype, opset, agrees):
    x = np.abs(normal(0, 2, 3, 4, dtype=dtype)) + dtype(0.1)
    if kind not in ("LogSum", "Prod"):
        x = x - dtype(1)
    attributes = {} if keep is None else {"keepdims": keep}
    if opset < (13 if kind == "Sum" else 18):
        if opset < 11:
            axes = axes and sorted(axis % 3 for axis in axes)
        if axes:
            attributes["axes"] = axes
        agrees(make_node(f"Reduce{kind}", ["x"], ["y"], **attributes), {"x": x}, opset)
        return
    if noop is not None:
        attributes["noop_with_empty_axes"] = noop
    if axes is None:
        agrees(make_node(f"Reduce{kind}", ["x"], ["y"], **attributes), {"x": x}, opset)
    else:
        node = make_node(f"Reduce{kind}", ["x", "axes"], ["y"], **attributes)
        agrees(node, {"x": x, "axes": np.array(axes, np.int64)}, opset, store=["axes"])


@pytest.mark.parametrize("kind", ["L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_reductions_of_integers(kind, dtype, agrees):
    x = np.random.default_rng(0).integers(-6, 6, (3, 4)).astype(dtype)
    if kind in ("L2", "Mean"):
        x = np.array([[3, 4, 0, 12], [3, 0, 0, 1], [8, 6, 0, 0]], dtype)
    inputs = {"x": x, "axes": np.array([1])}
    agrees(make_node(f"Reduce{kind}", ["x", "axes"], ["y"]), inputs, 18, store=["axes"])


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions_over_nothing(kind, keep, agrees):
    nothing = {"Prod": 1, "Max": -np.inf, "Min": np.inf, "LogSum": -np.inf, "LogSumExp": -np.inf, "Mean": np.nan}
    inputs = {"x": np.zeros((2, 0, 3), np.float32), "axes": np.array([1])}
    expected = np.full((2, 1, 3) if keep else (2, 3), nothing.get(kind, 0), np.float32)
    agrees(make_node(f"Reduce{kind}", ["x", "axes"], ["y"], keepdims=keep), inputs, 20, expected=[expected])


@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_largest_truth_value(kind, agrees):
    inputs = {"x": np.array([[True, False], [False, False], [True, True]]), "axes": np.array([1])}
    agrees(make_node(f"Reduce{kind}", ["x", "axes"], ["y"]), inputs, 20)


@many
@given(
    operator=st.sampled_from(["ArgMax", "ArgMin"]),
    axis=st.sampled_from([None, 0, 1, 2, -1]),
    keep=st.sampled_from([None, 0, 1]),
    last=st.booleans(),
    opset=opsets,
)
def test_arguments(operator, axis, keep, last, opset, agrees):
    x = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(np.float32)
    attributes = {"axis": axis, "keepdims": keep, "select_last_index": int(last) if opset >= 12 else None}
    given_attributes = {name: value for name, value in attributes.items() if value is not None}
    if opset < 11 and axis == -1:
        given_attributes["axis"] = 2
    agrees(make_node(operator, ["x"], ["y"], **given_attributes), {"x": x}, opset)


@pytest.mark.parametrize("operator", ["CumSum", "CumProd"])
@pytest.mark.parametrize("dtype", [np.float64, np.int32])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("flags", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_cumulative(operator, dtype, axis, flags, agrees):
    inputs = {"x": (3 * normal(0, 3, 4)).astype(dtype), "axis": np.array(axis, np.int32)}
    agrees(make_node(operator, ["x", "axis"], ["y"], **flags), inputs, store=["axis"])


@many
@given(
    k=st.integers(0, 5),
    axis=st.sampled_from([None, 0, 1, -1]),
    largest=st.booleans(),
    dtype=st.sampled_from([np.float32, np.int64]),
    opset=st.sampled_from([10, 11, 20, NEWEST]),
)
def test_top_k_and_ties(k, axis, largest, dtype, opset, agrees):
    x = np.random.default_rng(k).integers(0, 4, (5, 6)).astype(np.float32 if opset < 11 else dtype)
    attributes = {} if axis is None else {"axis": axis}
    attributes |= {} if opset < 11 else {"largest": int(largest)}
    agrees(make_node("TopK", ["x", "k"], ["y", "i"], **attributes), {"x": x, "k": np.array([k])}, opset, store="k")


def test_top_k_had_its_count_as_an_attribute(agrees):
    x = normal(0, 3, 5)
    values = -np.sort(-x, 1)[:, :2]
    agrees(make_node("TopK", ["x"], ["y", "i"], k=2), {"x": x}, 9, expected=[values, np.argsort(-x, 1)[:, :2]])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize("opset", [11, NEWEST])
def test_unique(axis, in_order, opset, agrees):
    x = np.array([[2, 1, 1], [0, 1, 1], [2, 1, 1], [0, 5, 5]], np.float32)
    attributes = {"sorted": in_order} | ({} if axis is None else {"axis": axis})
    agrees(make_node("Unique", ["x"], ["y", "first", "which", "counts"], **attributes), {"x": x}, opset)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 2, 3)])
def test_non_zero(dtype, shape, agrees):
    x = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    agrees(make_node("NonZero", ["x"], ["y"]), {"x": x}, store="x")


@pytest.mark.parametrize("p", [1, 2, None])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_lp_normalization(p, axis, agrees):
    attributes = ({} if p is None else {"p": p}) | ({} if axis is None else {"axis": axis})
    x = normal(0, 3, 4)
    x[1], x[:, 2] = 0, 0
    agrees(make_node("LpNormalization", ["x"], ["y"], **attributes), {"x": x}, 22)


@pytest.mark.parametrize("opset", [9, 11, 13, NEWEST])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_hardmax(axis, opset, agrees):
    x = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(np.float32)
    agrees(make_node("Hardmax", ["x"], ["y"], **({} if axis is None else {"axis": axis})), {"x": x}, opset)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (1, 1)])
def test_determinant(shape, agrees):
    agrees(make_node("Det", ["x"], ["y"]), {"x": normal(0, *shape)})


# Refusals


def test_a_logarithm_of_integers_is_refused(runs):
    node = make_node("ReduceLogSum", ["x"], ["y"])
    with pytest.raises(Error, match="convert them to float32") as caught:
        runs(node, {"x": np.array([1, 2])}, opset=18)
    assert caught.value.reason == Reason.MODEL_UNSUPPORTED


@pytest.mark.parametrize(
    ("node", "inputs", "says"),
    [
        (make_node("TopK", ["x", "k"], ["y", "i"]), {"x": normal(0, 3), "k": np.array([4])}, "chooses 4 of 3"),
        (make_node("LpNormalization", ["x"], ["y"], p=3), {"x": normal(0, 3)}, "order 3"),
        (make_node("BitCast", ["x"], ["y"], to=TensorProto.DOUBLE), {"x": normal(0, 3)}, "4 bytes"),
        (make_node("BitCast", ["x"], ["y"], to=TensorProto.FLOAT8E5M2), {"x": normal(0, 3)}, "FLOAT8E5M2"),
        (make_node("SwiGLU", ["x", "k"], ["y"]), {"x": normal(0, 3), "k": normal(0, 1)}, "must be the same"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(node, inputs, says, runs):
    with pytest.raises(Error, match=says) as caught:
        runs(node, inputs)
    assert caught.value.reason in (Reason.MODEL_UNSUPPORTED, Reason.MODEL_MALFORMED)
