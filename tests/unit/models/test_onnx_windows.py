"""Convolution and pooling against onnxruntime, over fresh random attributes, sizes and opsets."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx.helper import make_node

from undue_service.domain.errors import Reason
from undue_service.models import parity

NEWEST = onnx.defs.onnx_opset_version()
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
AUTO_PADS = ["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]


@st.composite
def windows(draw, dilated=True):
    """Attributes of a sliding window over 1 to 3 axes, and the sizes it slides over."""
    rank = draw(st.sampled_from([1, 2, 2, 3]))

    def each(low, high):
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel, sizes = each(1, 3), each(3, 7)
    auto_pad = draw(st.sampled_from(AUTO_PADS))
    attributes = {"kernel_shape": kernel, "strides": each(1, 3), "auto_pad": auto_pad}
    if dilated and not auto_pad.startswith("SAME") and draw(st.booleans()):  # onnxruntime refuses both together
        attributes["dilations"] = each(1, 2)
    if auto_pad == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, attributes.get("dilations", [1] * rank), strict=True)]
    assume(all(extent <= size for extent, size in zip(extents, sizes, strict=True)))
    assume(not auto_pad.startswith("SAME") or all(s <= k for s, k in zip(attributes["strides"], kernel, strict=True)))
    return attributes, sizes


def rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)


def same_as_onnxruntime(open_bytes, onnx_bytes, node, x, weights, opset):
    content = onnx_bytes(
        [node],
        {"x": ["n", *x.shape[1:]]},
        {"y": ["n", *("?" + str(i) for i in range(x.ndim - 1))]},
        weights,
        opset=opset,
    )
    opened = open_bytes(content)
    assert parity(opened, {"x": x}) <= 1e-5
    return opened


@many
@given(
    window=windows(),
    groups=st.integers(1, 2),
    bias=st.booleans(),
    opset=st.integers(9, NEWEST),
    seed=st.integers(0, 2**31),
)
def test_conv(window, groups, bias, opset, seed, open_bytes, onnx_bytes):
    attributes, sizes = window
    weights = {"w": rows(seed, 2, *attributes["kernel_shape"]).repeat(2, 0)[: 2 * groups]}
    if bias:
        weights["b"] = rows(seed + 1, 2).reshape(-1)[: 2 * groups]
    node = make_node("Conv", ["x", *weights], ["y"], group=groups, **attributes)
    x = rows(seed + 2, 2 * groups, *sizes)
    opened = same_as_onnxruntime(open_bytes, onnx_bytes, node, x, weights, opset)
    assert [name for name, _ in opened.exported.named_parameters()] == list(weights)


@many
@given(window=windows(), ceil=st.booleans(), opset=st.integers(10, NEWEST), seed=st.integers(0, 2**31))
def test_max_pool(window, ceil, opset, seed, open_bytes, onnx_bytes):
    attributes, sizes = window
    node = make_node("MaxPool", ["x"], ["y"], ceil_mode=int(ceil), **attributes)
    same_as_onnxruntime(open_bytes, onnx_bytes, node, rows(seed, 2, *sizes), {}, opset)


@many
@given(
    window=windows(dilated=False),
    ceil=st.booleans(),
    include=st.booleans(),
    opset=st.integers(10, NEWEST),
    seed=st.integers(0, 2**31),
)
def test_average_pool(window, ceil, include, opset, seed, open_bytes, onnx_bytes):
    attributes, sizes = window
    node = make_node("AveragePool", ["x"], ["y"], ceil_mode=int(ceil), count_include_pad=int(include), **attributes)
    same_as_onnxruntime(open_bytes, onnx_bytes, node, rows(seed, 2, *sizes), {}, opset)


@many
@given(window=windows(), include=st.booleans(), opset=st.integers(19, NEWEST), seed=st.integers(0, 2**31))
def test_dilated_average_pool(window, include, opset, seed, open_bytes, onnx_bytes):
    attributes, sizes = window
    node = make_node("AveragePool", ["x"], ["y"], count_include_pad=int(include), **attributes)
    same_as_onnxruntime(open_bytes, onnx_bytes, node, rows(seed, 2, *sizes), {}, opset)


@pytest.mark.parametrize("opset", [9, 13, 20, NEWEST])
@pytest.mark.parametrize("sizes", [(5,), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(operator, sizes, opset, open_bytes, onnx_bytes):
    node = make_node(operator, ["x"], ["y"])
    same_as_onnxruntime(open_bytes, onnx_bytes, node, rows(0, 2, *sizes), {}, opset)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_strides_beyond_the_kernel_under_auto_pad(auto_pad, open_bytes, onnx_bytes, refusal):
    attributes = {"kernel_shape": [1, 1], "strides": [2, 3], "auto_pad": auto_pad}
    x, w = rows(0, 2, 6, 6), rows(1, 2, 1, 1)
    same_as_onnxruntime(open_bytes, onnx_bytes, make_node("Conv", ["x", "w"], ["y"], **attributes), x, {"w": w}, 20)
    node = make_node("MaxPool", ["x"], ["y"], **attributes)
    content = onnx_bytes([node], {"x": ["n", 2, 6, 6]}, {"y": ["n", 2, 3, 2]}, {})
    assert "write pads instead" in refusal(content, Reason.MODEL_UNSUPPORTED)


def test_max_pool_takes_the_first_of_equal_elements(open_bytes, onnx_bytes):
    """As torch's own pooling does, whose gradient the scores of the original module have."""
    node = make_node("GlobalMaxPool", ["x"], ["y"])
    opened = open_bytes(onnx_bytes([node], {"x": ["n", 1, 2, 2]}, {"y": ["n", 1, 1, 1]}, {}))
    x = torch.ones(2, 1, 2, 2, requires_grad=True)
    opened.exported.module()(x)[0].sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1.0, 0], [0, 0]]).expand(2, 1, 2, 2))


@pytest.mark.parametrize(
    ("operator", "attributes", "shape", "says"),
    [
        ("MaxPool", {"kernel_shape": [2] * 4}, [1, 3, 3, 3, 3], "kernel of 4"),
        ("MaxPool", {"kernel_shape": [4, 4], "auto_pad": "VALID"}, [1, 3, 3], "which is smaller"),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [3, 0, 0, 0]}, [1, 3, 3], "padding"),
        ("GlobalAveragePool", {}, [3], "rank 2"),
    ],
)
def test_windows_that_do_not_fit_are_refused(operator, attributes, shape, says, onnx_bytes, refusal):
    node = make_node(operator, ["x"], ["y"], **attributes)
    content = onnx_bytes([node], {"x": ["n", *shape]}, {"y": ["n", *("?" + str(i) for i in range(len(shape)))]}, {})
    assert says in refusal(content, Reason.MODEL_UNSUPPORTED, Reason.MODEL_MALFORMED)
