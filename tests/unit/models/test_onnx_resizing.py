"""Resize, Upsample, GridSample, AffineGrid and RoiAlign: against onnxruntime, and torch where that has no kernel."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx.helper import make_node

from undue_service.domain.errors import Error, Reason
from undue_service.models import parity

NEWEST = onnx.defs.onnx_opset_version()
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**31)
MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numbers(*values):
    return np.array(values, np.float32)


@many
@given(
    outputs=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    transformation=st.sampled_from(MODES),
    nearest=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    exclude=st.booleans(),
    opset=st.sampled_from([11, 13, 18, 19]),
    seed=seeds,
)
def test_resize_to_sizes(outputs, mode, transformation, nearest, exclude, opset, seed, agrees):
    sizes = (4, 6)
    assume(mode == "cubic" or not exclude)
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation}
    if mode == "nearest":
        attributes["nearest_mode"] = nearest
    if mode == "cubic":
        attributes |= {"exclude_outside": int(exclude), "cubic_coeff_a": -0.6}
    inputs = {"x": normal(seed, 2, 2, *sizes), "r": numbers(), "c": numbers(), "s": np.array([2, 2, *outputs])}
    names = ["x", "r", "c", "s"] if opset < 13 else ["x", "", "", "s"]
    agrees(make_node("Resize", names, ["y"], **attributes), inputs, opset, store=("r", "c", "s"), atol=1e-5)


@many
@given(
    scales=st.tuples(*[st.sampled_from([0.5, 1.0, 1.5, 2.0, 0.6, 3.0])] * 2),
    mode=st.sampled_from(["linear", "cubic", "nearest"]),
    transformation=st.sampled_from(["half_pixel", "asymmetric"]),
    opset=st.sampled_from([11, 13, 18, NEWEST]),
    seed=seeds,
)
def test_resize_by_scales(scales, mode, transformation, opset, seed, agrees):
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation, "nearest_mode": "floor"}
    inputs = {"x": normal(seed, 1, 2, 5, 4), "r": numbers(), "c": numbers(1, 1, *scales)}
    agrees(make_node("Resize", ["x", "r", "c"], ["y"], **attributes), inputs, opset, store=("r", "c"), atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 9), ("Resize", 10)])
@pytest.mark.parametrize("scales", [(2, 3), (1.5, 2)])
def test_resizing_of_old_opsets(mode, operator, opset, scales, agrees):
    inputs = {"x": normal(0, 2, 2, 3, 4), "c": numbers(1, 1, *scales)}
    agrees(make_node(operator, ["x", "c"], ["y"], mode=mode), inputs, opset, store="c")


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("outputs", [(3, 4), (5, 3), (8, 7)])
def test_antialiasing_is_that_of_torch(mode, outputs, runs):
    """Away from the ends: there torch leaves out what lies beyond them, and ONNX repeats the outermost element."""
    x = normal(0, 1, 2, 8, 9)
    node = make_node("Resize", ["x", "", "", "s"], ["y"], mode=mode, antialias=1, cubic_coeff_a=-0.5, exclude_outside=1)
    kind = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), outputs, mode=kind, antialias=True)
    for stored in ((), ("s",)):
        (y,) = runs(node, {"x": x, "s": np.array([1, 2, *outputs])}, stored)
        np.testing.assert_allclose(y, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_aspect_ratios_and_axes(policy, agrees):
    inputs = {"x": normal(0, 2, 3, 4, 6), "s": np.array([5, 7])}
    node = make_node(
        "Resize", ["x", "", "", "s"], ["y"], mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy
    )  # fmt: skip
    agrees(node, inputs, 18, store="s")


def test_crop_and_resize(agrees):
    inputs = {"x": normal(0, 1, 1, 5, 6), "r": numbers(0, 0, 0.2, -0.3, 1, 1, 0.8, 1.1), "s": np.array([1, 1, 4, 7])}
    node = make_node(
        "Resize", ["x", "r", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=7.0,
    )  # fmt: skip
    agrees(node, inputs, 13, store=("r", "s"))


@pytest.mark.parametrize("stored", ["scales", "sizes", "shape"])
def test_resize_of_rows_that_stay_open(stored, open_bytes, onnx_bytes):
    weights, nodes = {}, []
    if stored == "scales":
        weights["c"] = numbers(1, 1, 2, 1.5)
        nodes = [make_node("Resize", ["x", "", "c"], ["y"], mode="linear")]
    else:
        weights["hw"] = np.array([8, 6])
        nodes = [
            make_node("Shape", ["x"], ["s"], end=2),
            make_node("Concat", ["s", "hw"], ["size"], axis=0),
            make_node("Resize", ["x", "", "", "size"], ["y"], mode="cubic"),
        ]
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 2, 4, 4]}, {"y": ["n", 2, "h", "w"]}, weights, opset=19))
    for rows in (1, 3):
        assert parity(opened, {"x": normal(rows, rows, 2, 4, 4)}) <= 1e-5
    assert not list(opened.exported.named_parameters())


@pytest.mark.parametrize(
    ("attributes", "inputs", "reason", "says"),
    [
        ({"mode": "fourier"}, {"c": numbers(1, 1, 2, 2)}, Reason.MODEL_MALFORMED, "fourier"),
        ({"coordinate_transformation_mode": "no"}, {"c": numbers(1, 1, 2, 2)}, Reason.MODEL_MALFORMED, "'no'"),
        ({"nearest_mode": "no"}, {"c": numbers(1, 1, 2, 2)}, Reason.MODEL_MALFORMED, "nearest_mode"),
        ({}, {"c": numbers(1, 1, 2)}, Reason.MODEL_MALFORMED, "scales"),
        ({}, {"c": numbers(1, 1, -2, 2)}, Reason.MODEL_MALFORMED, "scales"),
        ({}, {"c": numbers(1, 1, 1e9, 1e9)}, Reason.UPLOAD_TOO_LARGE, "limit"),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, {"r": numbers(*[0] * 4, *[1] * 4),
          "c": numbers(1, 1, 2, 2)}, Reason.MODEL_UNSUPPORTED, "give sizes"),
    ],
)  # fmt: skip
def test_resizing_that_does_not_fit_is_refused(attributes, inputs, reason, says, runs):
    inputs = {"x": normal(0, 1, 1, 4, 4)} | inputs
    node = make_node("Resize", ["x", "r" if "r" in inputs else "", "c"], ["y"], **attributes)
    with pytest.raises(Error) as caught:
        runs(node, inputs)
    assert caught.value.reason is reason
    assert says in caught.value.message


@many
@given(
    mode=st.sampled_from(["linear", "nearest", "cubic"]),
    padding=st.sampled_from(["zeros", "border", "reflection"]),
    aligned=st.booleans(),
    opset=st.sampled_from([16, 20, 22]),
    seed=seeds,
)
def test_grid_sample(mode, padding, aligned, opset, seed, agrees):
    if opset < 20:
        mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    rng = np.random.default_rng(seed)
    inputs = {"x": normal(seed, 2, 2, 4, 5), "g": rng.uniform(-1.4, 1.4, (2, 3, 4, 2)).astype(np.float32)}
    node = make_node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=int(aligned))
    agrees(node, inputs, opset, atol=1e-5)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("aligned", [False, True])
def test_grid_sample_of_volumes_is_that_of_torch(mode, padding, aligned, runs):
    grid = np.random.default_rng(0).uniform(-1.3, 1.3, (2, 2, 3, 2, 3)).astype(np.float32)
    inputs = {"x": normal(1, 2, 2, 3, 4, 5), "g": grid}
    node = make_node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=int(aligned))
    expected = torch.nn.functional.grid_sample(
        *(torch.from_numpy(value) for value in inputs.values()),
        mode="bilinear" if mode == "linear" else mode,
        padding_mode=padding,
        align_corners=aligned,
    )
    np.testing.assert_allclose(runs(node, inputs)[0], expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 4), (1, 4)])
def test_affine_grid_is_that_of_torch(sizes, aligned, runs):
    inputs = {"t": normal(0, 2, len(sizes), len(sizes) + 1), "s": np.array([2, 3, *sizes])}
    node = make_node("AffineGrid", ["t", "s"], ["y"], align_corners=int(aligned))
    expected = torch.nn.functional.affine_grid(torch.from_numpy(inputs["t"]), [2, 3, *sizes], align_corners=aligned)
    np.testing.assert_allclose(runs(node, inputs)[0], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_spatial_transformer_of_open_rows(open_bytes, onnx_bytes):
    nodes = [
        make_node("Flatten", ["x"], ["f"]),
        make_node("Gemm", ["f", "w", "b"], ["t"]),
        make_node("Reshape", ["t", "shape"], ["theta"]),
        make_node("Shape", ["x"], ["size"]),
        make_node("AffineGrid", ["theta", "size"], ["grid"]),
        make_node("GridSample", ["x", "grid"], ["y"]),
    ]
    weights = {"w": 0.1 * normal(0, 24, 6), "b": normal(1, 6), "shape": np.array([-1, 2, 3])}
    opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 2, 3, 4]}, {"y": ["n", 2, 3, 4]}, weights))
    for rows in (1, 3):
        assert parity(opened, {"x": normal(rows, rows, 2, 3, 4)}) <= 1e-5


@many
@given(
    ratio=st.integers(0, 3),
    mode=st.sampled_from(["avg", "max"]),
    frame=st.sampled_from(["half_pixel", "output_half_pixel"]),
    scale=st.sampled_from([1.0, 0.5]),
    seed=seeds,
)
def test_roi_align(ratio, mode, frame, scale, seed, agrees):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-2, 9, (3, 2))
    rois = np.concatenate([corners, corners + rng.uniform(0.5, 9, (3, 2))], 1).astype(np.float32)
    inputs = {"x": normal(seed, 2, 2, 6, 7), "r": rois, "i": rng.integers(0, 2, 3)}
    node = make_node(
        "RoiAlign", ["x", "r", "i"], ["y"], output_height=2, output_width=3, sampling_ratio=ratio, mode=mode,
        spatial_scale=scale, coordinate_transformation_mode=frame,
    )  # fmt: skip
    agrees(node, inputs, 16)
