"""Files that are wrong, too much, or not for us: each a typed error that says what to do, never anything else."""

import io
import zipfile

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.helper import make_function, make_node, make_opsetid

from undue_service.domain.errors import Error, InvalidArgument, Reason

W = np.eye(4, dtype=np.float32)
X, Y = {"x": ["n", 4]}, {"y": ["n", 4]}
GEMM = [make_node("Gemm", ["x", "w"], ["y"])]


def refused(open_bytes, content):
    with pytest.raises(Error) as caught:
        open_bytes(content)
    return caught.value


def zipped():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a", "b")
    return content.getvalue()


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"not a model at all", zipped()])
def test_what_is_not_onnx_is_malformed(content, open_bytes):
    assert refused(open_bytes, content).reason is Reason.MODEL_MALFORMED


@pytest.mark.parametrize("kept", [k / 20 for k in range(20)])
def test_truncated_files_are_refused(kept, open_bytes, onnx_bytes):
    content = onnx_bytes(GEMM, X, Y, {"w": W})
    assert refused(open_bytes, content[: int(len(content) * kept)]).reason is Reason.MODEL_MALFORMED


@pytest.mark.parametrize(
    ("nodes", "weights", "named"),
    [
        (GEMM, {}, "w"),
        ([make_node("Gemm", ["x", "z"], ["y"]), make_node("Relu", ["y"], ["z"])], {}, "z"),
        ([make_node("Gemm", ["x", "w"], ["other"])], {"w": W}, "y"),
        (GEMM, {"w": np.ones((5, 3), np.float32)}, "Gemm"),
        ([make_node("Gemm", ["x", "w"], ["y"]), make_node("Relu", ["x"], ["y"])], {"w": W}, "y"),
        ([make_node("Reshape", ["x", "s"], ["y"])], {"s": np.array([0, 0, 0])}, "Reshape"),
    ],
)
def test_graphs_that_do_not_hold_together_are_malformed(nodes, weights, named, open_bytes, onnx_bytes):
    error = refused(open_bytes, onnx_bytes(nodes, X, Y, weights))
    assert error.reason is Reason.MODEL_MALFORMED
    assert named in error.message


def test_all_unsupported_operators_are_named_at_once(open_bytes, onnx_bytes):
    nodes = [
        make_node("LSTM", ["x", "w", "w"], ["a"], hidden_size=4),
        make_node("Einsum", ["a", "w"], ["b"], equation="ij,jk->ik"),
        make_node("Einsum", ["b", "w"], ["c"], equation="ij,jk->ik"),
        make_node("FusedGemm", ["c", "w"], ["d"], domain="com.microsoft"),
        make_node("Conv", ["d", "w"], ["e"], domain="mine"),
        make_node("Relu", ["e"], ["y"]),
    ]
    opsets = [make_opsetid("com.microsoft", 1), make_opsetid("mine", 1)]
    error = refused(open_bytes, onnx_bytes(nodes, X, Y, {"w": W}, opsets=opsets))
    assert error.reason is Reason.UNSUPPORTED_OPERATORS
    assert error.metadata == {"operators": "com.microsoft::FusedGemm,mine::Conv"}
    assert "Gemm, GlobalAveragePool" in error.message
    assert "Relu" not in error.metadata["operators"].split(",")


@pytest.mark.parametrize(
    ("nodes", "inputs", "weights"),
    [
        (GEMM, {"x": [3, 4]}, {"w": W}),
        ([make_node("Reshape", ["x", "s"], ["y"])], X, {"s": np.array([3, 4])}),
        ([make_node("Reshape", ["x", "s"], ["h"]), make_node("Relu", ["h"], ["y"])], X, {"s": np.array([1, -1])}),
        ([make_node("Add", ["x", "b"], ["y"])], X, {"b": np.ones((3, 4), np.float32)}),
    ],
)
def test_a_fixed_number_of_rows_shows_the_export_line(nodes, inputs, weights, open_bytes, onnx_bytes):
    error = refused(open_bytes, onnx_bytes(nodes, inputs, {"y": ["m", 4]}, weights))
    assert error.reason is Reason.STATIC_BATCH
    assert 'torch.onnx.export(model, (x,), "model.onnx", dynamo=True, ' in error.message
    assert "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)" in error.message


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "says"),
    [
        ([make_node("Relu", ["x"], ["y"])], {"x": ["n", "t"]}, {"y": ["n", "t"]}, "axis 1 (t)"),
        ([make_node("Relu", ["x"], ["y"])], {"x": [5, "n"]}, {"y": [5, "n"]}, "Rows lie along the first axis"),
        ([make_node("Relu", ["x"], ["y"])], {"x": []}, {"y": []}, "no axis for the rows"),
        ([make_node("Flatten", ["x"], ["y"], axis=0)], X, {"y": [1, "m"]}, "folds all rows"),
        ([make_node("Softmax", ["x"], ["y"], axis=0)], X, Y, "across the rows"),
        ([make_node("Reshape", ["x", "s"], ["y"])], X, {"y": ["m"]}, "one row for each"),
        ([make_node("Constant", [], ["y"], value_floats=[1.0])], X, {"y": [1]}, "y"),
    ],
)
def test_shapes_that_are_not_rows_are_refused_by_name(nodes, inputs, outputs, says, open_bytes, onnx_bytes):
    error = refused(open_bytes, onnx_bytes(nodes, inputs, outputs, {"s": np.array([-1])}))
    assert error.reason in (Reason.MODEL_UNSUPPORTED, Reason.STATIC_BATCH)
    assert says in error.message


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint8, np.complex64])
def test_weights_of_other_types_are_refused_by_name(dtype, open_bytes, onnx_bytes):
    error = refused(open_bytes, onnx_bytes(GEMM, X, Y, {"w": W.astype(dtype)}, dtype=dtype))
    assert error.reason in (Reason.MODEL_UNSUPPORTED, Reason.MODEL_MALFORMED)
    if dtype is np.float16:
        assert "FLOAT16" in error.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, open_bytes, onnx_bytes):
    error = refused(open_bytes, onnx_bytes(GEMM, X, Y, {"w": np.full_like(W, value)}))
    assert error.reason is Reason.MODEL_MALFORMED
    assert "'w' holds NaN or infinity" in error.message


def test_weights_in_another_file_are_never_opened(open_bytes, onnx_bytes, tmp_path):
    model = onnx.load_model_from_string(onnx_bytes(GEMM, X, Y, {"w": W}))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "/etc/passwd")
    model.graph.initializer[0].ClearField("raw_data")
    error = refused(open_bytes, model.SerializeToString())
    assert error.reason is Reason.MODEL_UNSUPPORTED
    assert "external_data=False" in error.message


def test_names_that_could_become_code_are_unsafe(open_bytes, onnx_bytes, tmp_path):
    """torch.fx writes a parameter's name into the source of `ExportedProgram.module()` without escaping it."""
    marker = tmp_path / "executed"
    name = f'training"), getattr(__import__("os"), "mkdir")("{marker}"), getattr(self, "training'
    graph = torch.fx.Graph()
    graph.output(graph.get_attr(name))
    root = torch.nn.Module()
    root.register_parameter(name, torch.nn.Parameter(torch.ones(1)))
    torch.fx.GraphModule(root, graph)()
    assert marker.exists(), "torch escapes names now, so the rest of this test would prove nothing"

    error = refused(open_bytes, onnx_bytes([make_node("Gemm", ["x", name], ["y"])], X, Y, {name: W}))
    assert error.reason is Reason.MODEL_UNSAFE


@pytest.mark.parametrize("opset", [8, onnx.defs.onnx_opset_version() + 1])
def test_other_opsets_are_refused(opset, open_bytes, onnx_bytes):
    error = refused(open_bytes, onnx_bytes(GEMM, X, Y, {"w": W}, opset=opset))
    assert error.reason is Reason.MODEL_UNSUPPORTED
    assert f"opset {opset}" in error.message


def nested(calls):
    """f0 calls f1 `calls` times, f1 calls f2 as often, …"""
    functions = []
    for level in range(12):
        name = f"f{level + 1}" if level < 11 else "Relu"
        domain = "mine" if level < 11 else ""
        body = [make_node(name, [f"v{i}"], [f"v{i + 1}"], domain=domain) for i in range(calls)]
        opsets = [make_opsetid("", 20), make_opsetid("mine", 1)]
        functions.append(make_function("mine", f"f{level}", ["v0"], [f"v{calls}"], body, opsets))
    return functions


def test_functions_that_multiply_or_recurse_are_refused(open_bytes, onnx_bytes):
    call = [make_node("f0", ["x"], ["y"], domain="mine")]
    mine = {"opsets": [make_opsetid("mine", 1)]}
    bomb = refused(open_bytes, onnx_bytes(call, X, Y, {}, functions=nested(10), **mine))
    assert bomb.reason is Reason.UPLOAD_TOO_LARGE
    body = [make_node("f0", ["a"], ["b"], domain="mine")]
    loop = make_function("mine", "f0", ["a"], ["b"], body, [make_opsetid("mine", 1)])
    error = refused(open_bytes, onnx_bytes(call, X, Y, {}, functions=[loop], **mine))
    assert error.reason is Reason.MODEL_MALFORMED
    assert "calls itself" in error.message
    assert open_bytes(onnx_bytes(call, X, Y, {}, functions=nested(1), **mine)).outputs == ("y",)


def test_an_unknown_format_is_refused(open_bytes):
    with pytest.raises(InvalidArgument, match="there are onnx, pt2, and safetensors with an architecture"):
        open_bytes(b"", "pickle")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=4))
def test_flipped_bits_open_or_are_a_typed_error(flips, outcome, onnx_bytes):
    nodes = [
        make_node("Gemm", ["x", "w", "b"], ["g"]),
        make_node("Reshape", ["g", "s"], ["h"]),
        make_node("Softmax", ["h"], ["y"]),
    ]
    weights = {"w": W, "b": W[0], "s": np.array([0, -1])}
    content = bytearray(onnx_bytes(nodes, X, Y, weights))
    for place, bit in flips:
        content[place % len(content)] ^= 1 << bit
    assert outcome(bytes(content), "onnx") != "INTERNAL"
