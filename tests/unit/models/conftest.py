"""Builders of model files, sound and hostile."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from undue_service.domain.errors import Error, Reason
from undue_service.models import OpenedModel, open_model

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
