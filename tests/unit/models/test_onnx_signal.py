"""Fourier transforms, windows and mel filters against NumPy and onnxruntime; quantised integers against onnxruntime."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.helper import make_node

from undue_service.domain.errors import Error, Reason
from undue_service.models import parity

NEWEST = onnx.defs.onnx_opset_version()
many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**31)


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def pairs(z):
    return np.stack([z.real, z.imag], -1)


@many
@given(
    axis=st.sampled_from([1, 2, -2, -3]),
    length=st.sampled_from([None, 3, 4, 5, 9]),
    is_complex=st.booleans(),
    inverse=st.booleans(),
    onesided=st.booleans(),
    opset=st.sampled_from([17, 19, 20, NEWEST]),
    seed=seeds,
)
def test_dft(axis, length, is_complex, inverse, onesided, opset, seed, runs):
    onesided = onesided and is_complex == inverse
    x = normal(seed, 2, 5, 4, 2 if is_complex else 1, dtype=np.float64)
    z = x[..., 0] + 1j * x[..., 1] if is_complex else x[..., 0]
    place = axis % 4
    if inverse and onesided:
        expected = np.fft.irfft(z, length, place)[..., None]
    elif inverse:
        expected = pairs(np.fft.ifft(z, length, place))
    else:
        expected = pairs(np.fft.rfft(z, length, place) if onesided else np.fft.fft(z, length, place))
    inputs = {"x": x} | ({} if length is None else {"n": np.array(length)})
    attributes = {"inverse": int(inverse), "onesided": int(onesided)}
    names = ["x", "" if length is None else "n"]
    if opset < 20:
        attributes["axis"] = axis
    else:
        inputs["a"], names = np.array(axis), [*names, "a"]
    (y,) = runs(make_node("DFT", names, ["y"], **attributes), inputs, opset=opset)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


def test_the_axis_that_is_not_given_is_another_since_opset_20(runs):
    x = normal(0, 2, 5, 4, 1, dtype=np.float64)
    for opset, axis in ((17, 1), (20, 2)):
        (y,) = runs(make_node("DFT", ["x"], ["y"]), {"x": x}, opset=opset)
        np.testing.assert_allclose(y, pairs(np.fft.fft(x[..., 0], axis=axis)), atol=1e-12)


@many
@given(
    step=st.integers(1, 4), length=st.integers(2, 6), windowed=st.booleans(), onesided=st.booleans(), seed=seeds,
)  # fmt: skip
def test_stft(step, length, windowed, onesided, seed, runs):
    x = normal(seed, 2, 13, 1, dtype=np.float64)
    window = np.abs(normal(seed + 1, length, dtype=np.float64)) if windowed else np.ones(length)
    frames = np.stack([x[:, i : i + length, 0] * window for i in range(0, 13 - length + 1, step)], 1)
    expected = pairs(np.fft.rfft(frames) if onesided else np.fft.fft(frames))
    inputs = {"x": x, "s": np.array(step), "w": window, "n": np.array(length)}
    node = make_node("STFT", ["x", "s", "w" if windowed else "", "n"], ["y"], onesided=int(onesided))
    np.testing.assert_allclose(runs(node, inputs)[0], expected, rtol=1e-9, atol=1e-12)


def test_a_spectrogram_of_open_rows(open_bytes, onnx_bytes):
    nodes = [
        make_node("STFT", ["x", "step", "window", "length"], ["s"], onesided=1),
        make_node("ReduceL2", ["s", "last"], ["m"], keepdims=0),
        make_node("MatMul", ["m", "w"], ["y"]),
    ]
    weights = {
        "step": np.array(2), "window": np.hanning(8).astype(np.float32), "length": np.array(8), "last": np.array([-1]),
        "w": normal(0, 5, 3),
    }  # fmt: skip
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 20, 1]}, {"y": ["n", 7, 3]}, weights))
    for rows in (1, 3):
        assert parity(opened, {"x": normal(rows, rows, 20, 1)}) <= 1e-5
    assert [name for name, _ in opened.exported.named_parameters()] == ["w"]


@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("size", [2, 9, 16])
@pytest.mark.parametrize("operator", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("kind", [1, 11])
def test_windows(operator, size, periodic, kind, agrees):
    node = make_node(operator, ["n"], ["y"], periodic=periodic, output_datatype=kind)
    agrees(node, {"n": np.array(size, np.int64)}, 17, store="n")


@pytest.mark.parametrize("high", [4000.0, 7900.0])
@pytest.mark.parametrize("bins", [4, 13])
def test_mel_weights(bins, high, agrees):
    inputs = {
        "b": np.array(bins), "n": np.array(128), "r": np.array(16000), "l": np.float32(20.0), "h": np.float32(high),
    }  # fmt: skip
    agrees(make_node("MelWeightMatrix", [*inputs], ["y"]), inputs, 17, store=tuple(inputs))


@pytest.mark.parametrize(
    ("node", "inputs", "says"),
    [
        (make_node("DFT", ["x"], ["y"], onesided=1), {"x": normal(0, 2, 3, 2)}, "complex"),
        (make_node("DFT", ["x", "", "a"], ["y"]), {"x": normal(0, 2, 3, 2), "a": np.array(-1)}, "complex numbers"),
        (make_node("DFT", ["x"], ["y"]), {"x": normal(0, 2, 3, 3)}, "3 parts"),
        (make_node("STFT", ["x", "s"], ["y"]), {"x": normal(0, 2, 3, 1), "s": np.array(0)}, "steps of 0"),
        (make_node("HannWindow", ["n"], ["y"]), {"n": np.array(10**12)}, "limit"),
        (make_node("HannWindow", ["n"], ["y"], periodic=0), {"n": np.array(1)}, "0 / 0"),
    ],
)
def test_signals_that_do_not_fit_are_refused(node, inputs, says, runs):
    with pytest.raises(Error) as caught:
        runs(node, inputs)
    assert says in caught.value.message


# Quantised integers


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("scales", ["one", "axis", "blocks"])
def test_quantize_and_dequantize(dtype, scales, agrees):
    rng = np.random.default_rng(0)
    shape = {"one": (), "axis": (4,), "blocks": (3, 2)}[scales]
    limits = np.iinfo(dtype)
    inputs = {
        "x": normal(1, 3, 4) * 40,
        "s": rng.uniform(0.1, 0.5, shape).astype(np.float32),
        "z": rng.integers(max(limits.min, -20), 20, shape).astype(dtype),
        "q": rng.integers(limits.min, limits.max, (3, 4)).astype(dtype),
    }
    attributes = {"axis": 1} | ({"block_size": 2} if scales == "blocks" else {})
    agrees(make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **attributes), inputs, 21)
    agrees(make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes), inputs, 21)


@pytest.mark.parametrize("signed", [False, True])
def test_products_of_quantised_integers(signed, agrees):
    rng, dtype = np.random.default_rng(0), np.int8 if signed else np.uint8
    limits = np.iinfo(dtype)

    def whole(*shape):
        return np.asarray(rng.integers(limits.min, limits.max, shape, endpoint=True), dtype)

    inputs = {"a": whole(5, 7), "b": whole(7, 3), "za": whole(), "zb": whole()}
    if not signed:
        agrees(make_node("MatMulInteger", ["a", "b", "za", "zb"], ["y"]), inputs, 10)
    inputs |= {name: np.float32(rng.uniform(0.01, 0.03)) for name in ("sa", "sb", "sy")} | {"zy": whole()}
    agrees(make_node("QLinearMatMul", ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], ["y"]), inputs, 10)


def test_convolutions_of_quantised_integers(agrees):
    rng = np.random.default_rng(0)

    def whole(*shape):
        return np.asarray(rng.integers(0, 255, shape, endpoint=True), np.uint8)

    inputs = {"x": whole(2, 2, 5, 6), "w": whole(3, 2, 3, 2), "zx": whole(), "zw": np.uint8(7)}
    attributes = {"pads": [1, 0, 1, 1], "strides": [2, 1]}
    agrees(make_node("ConvInteger", ["x", "w", "zx", "zw"], ["y"], **attributes), inputs, 10)
    inputs |= {"sx": np.float32(0.02), "sy": np.float32(4.0), "zy": np.uint8(90)}
    inputs |= {"sw": np.array([0.05, 0.03, 0.01], np.float32), "b": rng.integers(-900, 900, 3).astype(np.int32)}
    inputs["zw"] = np.array([7, 7, 7], np.uint8)
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"]
    agrees(make_node("QLinearConv", names, ["y"], **attributes), inputs, 10)


def test_quantised_weights_are_constants_and_named(open_bytes, onnx_bytes):
    nodes = [make_node("DequantizeLinear", ["q", "s", "z"], ["w"]), make_node("Gemm", ["x", "w", "b"], ["y"])]
    weights = {
        "q": np.random.default_rng(0).integers(-128, 127, (4, 3)).astype(np.int8),
        "s": np.float32(0.05), "z": np.int8(3), "b": normal(0, 3),
    }  # fmt: skip
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 3]}, weights))
    assert parity(opened, {"x": normal(1, 5, 4)}) <= 1e-5
    assert [name for name, _ in opened.exported.named_parameters()] == ["b"]
    assert any("'q'" in text and "quantised" in text for text in opened.warnings)


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DynamicQuantizeLinear"])
def test_arithmetic_that_rounds_is_refused_with_the_reason(operator, onnx_bytes, refusal):
    if operator == "QuantizeLinear":
        nodes = [make_node(operator, ["x", "s", "z"], ["q"]), make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    else:
        nodes = [make_node(operator, ["x"], ["q", "s1", "z1"]), make_node("DequantizeLinear", ["q", "s1", "z1"], ["y"])]
    weights = {"s": np.float32(0.05), "z": np.int8(3)} if operator == "QuantizeLinear" else {}
    content = onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, weights)
    message = refusal(content, Reason.UNSUPPORTED_OPERATORS)
    assert operator in message
    assert "no gradient" in message
