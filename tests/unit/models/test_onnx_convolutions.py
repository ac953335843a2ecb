"""Transposed and deformable convolution, pools with an order or indices: against onnxruntime over fresh attributes."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx.helper import make_node

from undue_service.domain.errors import Error, Reason

NEWEST = onnx.defs.onnx_opset_version()
many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
opsets = st.integers(9, NEWEST)
seeds = st.integers(0, 2**31)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@st.composite
def spread(draw):
    """Attributes of a transposed convolution over 1 to 3 axes, its kernel and the sizes of its input."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))

    def each(low, high, count=rank):
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel, sizes, strides, dilations = each(1, 3), each(1, 4), each(1, 3), each(1, 2)
    attributes = {"strides": strides, "dilations": dilations}
    how = draw(st.sampled_from(["pads", "output_padding", "output_shape", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    full = [(s - 1) * t + d * (k - 1) + 1 for s, t, d, k in zip(sizes, strides, dilations, kernel, strict=True)]
    if how in ("pads", "output_padding"):
        attributes["pads"] = [draw(st.integers(0, (size - 1) // 2)) for size in full * 2]
    if how == "output_padding":
        attributes["output_padding"] = [draw(st.integers(0, t - 1)) for t in strides]
    elif how == "output_shape":
        attributes["output_shape"] = [draw(st.integers(1, size + t - 1)) for size, t in zip(full, strides, strict=True)]
    elif how != "pads":
        attributes["auto_pad"] = how
        assume(how == "VALID" or all(size >= s * t for size, s, t in zip(full, sizes, strides, strict=True)))
    return attributes, kernel, sizes


@many
@given(spread=spread(), groups=st.integers(1, 2), bias=st.booleans(), opset=opsets, seed=seeds)
def test_transposed_convolution(spread, groups, bias, opset, seed, agrees):
    attributes, kernel, sizes = spread
    inputs = {"x": normal(seed, 2, 2 * groups, *sizes), "w": normal(seed + 1, 2 * groups, 3, *kernel)}
    if bias:
        inputs["b"] = normal(seed + 2, 3 * groups)
    agrees(make_node("ConvTranspose", [*inputs], ["y"], group=groups, **attributes), inputs, opset)


def test_transposed_convolution_is_the_adjoint_of_convolution(runs):
    x, w, y = normal(0, 1, 2, 5, 6), normal(1, 3, 2, 3, 2), normal(2, 1, 3, 3, 5)
    attributes = {"strides": [2, 1], "pads": [1, 0, 1, 0]}
    (forward,) = runs(make_node("Conv", ["x", "w"], ["y"], **attributes), {"x": x, "w": w})
    (back,) = runs(make_node("ConvTranspose", ["y", "w"], ["x"], **attributes), {"y": y, "w": w})
    assert back.shape == x.shape
    np.testing.assert_allclose((forward * y).sum(), (back * x).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"pads": [0, 1]}, "pads"),
        ({"output_padding": [1]}, "output_padding"),
        ({"kernel_shape": [2, 2]}, "declares the kernel"),
        ({"group": 3}, "groups"),
        ({"auto_pad": "ROUND"}, "auto_pad"),
    ],
)
def test_transposed_convolution_with_attributes_that_do_not_fit_is_refused(attributes, says, runs):
    node = make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    with pytest.raises(Error) as caught:
        runs(node, {"x": normal(0, 1, 2, 3, 3), "w": normal(1, 2, 2, 3, 3)})
    assert caught.value.reason is Reason.MODEL_MALFORMED
    assert says in caught.value.message


@many
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    groups=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]),
    extra=st.tuples(st.booleans(), st.booleans()),
    seed=seeds,
)
def test_deformable_convolution(kernel, strides, dilations, pads, groups, extra, seed, agrees):
    group, offset_group = groups
    sizes = (6, 5)
    outputs = [
        (size + pads[i] + pads[i + 2] - d * (k - 1) - 1) // s + 1
        for i, (size, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True))
    ]
    taps = offset_group * kernel[0] * kernel[1]
    inputs = {
        "x": normal(seed, 2, 4, *sizes),
        "w": normal(seed + 1, 2, 4 // group, *kernel),
        "o": 2 * normal(seed + 2, 2, 2 * taps, *outputs),
        "b": normal(seed + 3, 2),
        "m": normal(seed + 4, 2, taps, *outputs),
    }
    names = ["x", "w", "o", "b" if extra[0] else "", "m" if extra[1] else ""]
    node = make_node(
        "DeformConv", names, ["y"], strides=strides, dilations=dilations, pads=pads, group=group,
        offset_group=offset_group,
    )  # fmt: skip
    agrees(node, inputs, 22)


def test_deformable_convolution_without_offsets_is_convolution(runs):
    inputs = {"x": normal(0, 2, 2, 5, 4), "w": normal(1, 3, 2, 3, 2), "o": np.zeros((2, 12, 3, 3), np.float32)}
    (deformed,) = runs(make_node("DeformConv", ["x", "w", "o"], ["y"]), inputs)
    (plain,) = runs(make_node("Conv", ["x", "w"], ["y"]), inputs)
    np.testing.assert_allclose(deformed, plain, rtol=1e-5, atol=1e-6)


@st.composite
def pools(draw):
    rank = draw(st.sampled_from([1, 2, 3]))

    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel, sizes = each(2, 3), each(5, 7)
    attributes = {"kernel_shape": kernel, "strides": each(1, 2)}
    attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    return attributes, sizes


@many
@given(pool=pools(), p=st.integers(1, 4), opset=opsets, seed=seeds)
def test_pools_of_an_order(pool, p, opset, seed, agrees):
    attributes, sizes = pool
    agrees(make_node("LpPool", ["x"], ["y"], p=p, **attributes), {"x": normal(seed, 2, 2, *sizes)}, opset)


@many
@given(pool=pools(), dilations=st.integers(1, 2), ceil=st.booleans(), seed=seeds)
def test_pools_of_an_order_with_dilation(pool, dilations, ceil, seed, runs):
    """Against the formula by unfolding: onnxruntime's own windows end early here."""
    attributes, sizes = pool
    x = np.abs(normal(seed, 2, 2, *sizes)) + 0.1
    rank = len(sizes)
    attributes = {**attributes, "dilations": [dilations] * rank, "ceil_mode": int(ceil)}
    (y,) = runs(make_node("LpPool", ["x"], ["y"], p=3, **attributes), {"x": x})
    count = int(np.prod(attributes["kernel_shape"]))
    (mean,) = runs(make_node("AveragePool", ["x"], ["y"], count_include_pad=1, **attributes), {"x": x**3})
    if not ceil:  # there AveragePool does not count what lies beyond the padding
        np.testing.assert_allclose(y, (mean * count) ** (1 / 3), rtol=1e-4)
    assert y.shape == mean.shape


@pytest.mark.parametrize("opset", [9, 18, 21])
@pytest.mark.parametrize("sizes", [(5,), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_pools_of_an_order(p, sizes, opset, agrees):
    agrees(make_node("GlobalLpPool", ["x"], ["y"], p=p), {"x": normal(p, 2, 3, *sizes)}, opset)


def test_pool_of_nothing_has_a_gradient_of_zero(open_bytes, onnx_bytes):
    node = make_node("LpPool", ["x"], ["y"], kernel_shape=[2])
    opened = open_bytes(onnx_bytes([node], {"x": ["n", 1, 3]}, {"y": ["n", 1, 2]}, {}))
    x = torch.tensor([[[0.0, 0.0, 3.0]]], requires_grad=True)
    opened.exported.module()(x)[0].sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[0.0, 0.0, 1.0]]]))


@many
@given(pool=pools(), order=st.integers(0, 1), dilation=st.integers(1, 2), ceil=st.booleans(), opset=opsets, seed=seeds)
def test_indices_of_max_pool(pool, order, dilation, ceil, opset, seed, agrees):
    attributes, sizes = pool
    if opset >= 10:
        attributes = {**attributes, "dilations": [dilation] * len(sizes), "ceil_mode": int(ceil)}
    node = make_node("MaxPool", ["x"], ["y", "i"], storage_order=order, **attributes)
    agrees(node, {"x": normal(seed, 2, 2, *sizes)}, opset)


@many
@given(kernel=st.integers(1, 3), rank=st.integers(1, 3), opset=opsets, seed=seeds, wanted=st.booleans())
def test_unpooling_what_was_pooled(kernel, rank, opset, seed, wanted, agrees, runs):
    attributes = {"kernel_shape": [kernel] * rank, "strides": [kernel] * rank}
    x = normal(seed, 2, 2, *[kernel * 2] * rank)
    pooled, indices = runs(make_node("MaxPool", ["x"], ["y", "i"], **attributes), {"x": x}, opset=opset)
    inputs = {"x": pooled, "i": indices}
    if wanted:
        inputs["s"] = np.array(x.shape)
    agrees(make_node("MaxUnpool", [*inputs], ["y"], **attributes), inputs, opset)


def test_indices_that_count_over_all_rows_are_refused_where_rows_are_open(onnx_bytes, refusal):
    nodes = [
        make_node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2], strides=[2]),
        make_node("MaxUnpool", ["p", "i"], ["y"], kernel_shape=[2], strides=[2]),
    ]
    content = onnx_bytes(nodes, {"x": ["n", 2, 4]}, {"y": ["n", 2, 4]}, {})
    assert "over all rows" in refusal(content, Reason.MODEL_UNSUPPORTED)
