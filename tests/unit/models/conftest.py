"""Builders of model files, sound and hostile."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from undue_service.domain.errors import Error, Reason
from undue_service.models import OpenedModel, open_model
from undue_service.models.onnx.graphs import from_arrays, read_graph, to_arrays

NEWEST = onnx.defs.onnx_opset_version()

DYNAMIC = {0: torch.export.Dim.DYNAMIC}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def open_bytes(tmp_path: Path) -> Callable[[bytes, str], OpenedModel]:
    def build(content: bytes, kind: str = "onnx") -> OpenedModel:
        path = tmp_path / f"model.{kind}"
        path.write_bytes(content)
        return open_model(path, kind, tmp_path)

    return build


@pytest.fixture
def outcome(open_bytes: Callable[[bytes, str], OpenedModel]) -> Callable[[bytes, str], str]:
    """Open a file and return "opened", or the reason of the typed error; any other exception passes through."""

    def attempt(content: bytes, kind: str) -> str:
        try:
            open_bytes(content, kind)
        except Error as refusal:
            return refusal.reason.value
        return "opened"

    return attempt


@pytest.fixture
def refusal(open_bytes: Callable[[bytes, str], OpenedModel]) -> Callable[..., str]:
    """Open an ONNX file that must be refused for one of the given reasons, and return the message."""

    def attempt(content: bytes, *reasons: Reason) -> str:
        with pytest.raises(Error) as caught:
            open_bytes(content)
        assert caught.value.reason in reasons
        return caught.value.message

    return attempt


@pytest.fixture
def onnx_bytes() -> Callable[..., bytes]:
    """Build an ONNX file from nodes, `{name: shape}` for inputs and outputs, and `{name: array}` for weights."""

    def value(name: str, shape: Any, dtype: Any) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    def build(
        nodes: list[onnx.NodeProto],
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        weights: Mapping[str, np.ndarray],
        *,
        opset: int = 20,
        dtype: Any = np.float32,
        **model: Any,
    ) -> bytes:
        graph = helper.make_graph(
            nodes,
            "graph",
            [value(name, shape, dtype) for name, shape in inputs.items()],
            [value(name, shape, dtype) for name, shape in outputs.items()],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
        )
        opsets = [helper.make_opsetid("", opset), *model.pop("opsets", [])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, **model).SerializeToString()

    return build


@pytest.fixture
def save_pt2(tmp_path: Path) -> Callable[..., bytes]:
    """Export a module with a dynamic batch and return the bytes of its archive."""

    def build(module: torch.nn.Module, *args: torch.Tensor, shapes: Any = DYNAMIC) -> bytes:
        dynamic = tuple(shapes for _ in args) if isinstance(shapes, dict) else shapes
        program = torch.export.export(module.eval(), args, dynamic_shapes=dynamic)
        content = io.BytesIO()
        torch.export.save(program, content)
        return content.getvalue()

    return build


Edit = bytes | None | Callable[[Any], Any]


@pytest.fixture
def tamper() -> Callable[..., bytes]:
    """Rewrite an archive with correct checksums: a record's new bytes, None to drop it, or a function on its JSON."""

    def build(archive: bytes, edits: Mapping[str, Edit], compression: int = zipfile.ZIP_STORED) -> bytes:
        old, new = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
        root = old.namelist()[0].split("/")[0] + "/"
        records = {name.removeprefix(root): old.read(name) for name in old.namelist()}
        for name, edit in edits.items():
            if callable(edit):
                data = json.loads(records[name])
                records[name] = json.dumps(edit(data) or data).encode()
            elif edit is None:
                del records[name]
            else:
                records[name] = edit
        with zipfile.ZipFile(new, "w", compression) as written:
            for name, content in records.items():
                written.writestr(root + name, content)
        return new.getvalue()

    return build


def _one_node(node: onnx.NodeProto, inputs: Mapping[str, np.ndarray], stored: Any, opset: int) -> onnx.ModelProto:
    names = [name for name in dict.fromkeys(node.input) if name]
    kinds = {name: helper.np_dtype_to_tensor_dtype(inputs[name].dtype) for name in names}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, kinds[name], inputs[name].shape) for name in names if name not in stored],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        [numpy_helper.from_array(inputs[name], name) for name in names if name in stored],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.fixture(scope="session")
def runs() -> Callable[..., list[Any]]:
    """Run one node on arrays by the importer, with some of its inputs stored in the graph, and return its outputs."""

    def run(node: onnx.NodeProto, inputs: Mapping[str, np.ndarray], stored: Any = (), opset: int = NEWEST) -> list[Any]:
        built = _one_node(node, inputs, stored, opset)
        given = from_arrays(built.graph, [inputs[value.name] for value in built.graph.input])
        with torch.no_grad():
            return to_arrays(read_graph(built).run(*given))

    return run


@pytest.fixture(scope="session")
def agrees(runs: Callable[..., list[Any]]) -> Callable[..., None]:
    """Hold one node against onnxruntime, or what is expected, with its inputs as data, and with some of them stored."""

    def hold(
        node: onnx.NodeProto,
        inputs: Mapping[str, np.ndarray],
        opset: int = NEWEST,
        store: Any = (),
        expected: list[np.ndarray] | None = None,
        atol: float = 1e-6,
    ) -> None:
        if expected is None:
            content = _one_node(node, inputs, (), opset).SerializeToString()
            session = onnxruntime.InferenceSession(content, _quiet(), providers=["CPUExecutionProvider"])
            expected = session.run(None, {name: np.asarray(inputs[name]) for name in node.input if name})
        for stored in {(), tuple(store)}:
            for want, got in zip(expected, runs(node, inputs, stored, opset), strict=True):
                assert (got.dtype, got.shape) == (want.dtype, want.shape)
                if want.dtype.kind == "f":
                    np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol)
                else:
                    np.testing.assert_array_equal(got, want)

    return hold


def _quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options
