"""Bytes to a checked ONNX model: one file, no external data, functions inlined, every operator known."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from undue_service.models.foreign import refuse_foreign
from undue_service.models.limits import MAX_FILE_BYTES, MAX_NODES, too_large
from undue_service.models.refusals import ONNX_EXPORT, malformed, quoted, unsupported

from .expanding import versions
from .hoisting import hoist_tensors
from .lifting import lift_attributes
from .predictions import Predictions, keep_predictions
from .probabilities import simplify_scores
from .support import require_supported

OLDEST_OPSET = 9
DEFAULT_DOMAINS = ("", "ai.onnx")


def read_onnx(path: Path) -> tuple[onnx.ModelProto, Predictions]:
    """Return the model in a file, valid by the ONNX checker, without functions, at an opset that is known.

    What cannot be a prediction is left out, and `ai.onnx.ml` is written as `operators` read it.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSUPPORTED, UNSUPPORTED_OPERATORS.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    model = _parse(_read(path))
    _refuse_external_data(model)
    require_opset(model)
    inlined = inline_functions(model)
    predictions = keep_predictions(inlined.graph)
    require_supported(inlined.graph, versions(inlined.opset_import))
    _check(path)
    gather_tensors(inlined.graph)
    return inlined, replace(predictions, columns=simplify_scores(inlined))


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without functions of its own.

    Raises:
        InvalidArgument: MODEL_MALFORMED.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    _check_size_inlined(model)
    return _inline(model)


def gather_tensors(graph: onnx.GraphProto) -> None:
    """Make initialisers of the main graph, in place, of all that is stored elsewhere.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSUPPORTED.
    """
    hoist_tensors(graph)
    lift_attributes(graph)


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise too_large("the ONNX file in bytes", size, MAX_FILE_BYTES)
    content = path.read_bytes()
    if not content:
        raise malformed("the ONNX file is empty")
    refuse_foreign(path, "an ONNX file")
    return content


def _parse(content: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise malformed("this is not an ONNX file, or it is truncated: it does not parse as onnx.ModelProto") from error
    if not model.HasField("graph") or not model.opset_import:
        raise malformed("this is not an ONNX file, or it is truncated: there is no graph or no opset_import")
    _check_text(model)
    return model


def _check_text(model: onnx.ModelProto) -> None:
    """Refuse names that are not UTF-8: protobuf hands them over as bytes, where everything else expects text."""
    messages: list[Message] = [model]
    while messages:
        for field, value in messages.pop().ListFields():
            values: Any = [value] if isinstance(value, str | bytes | Message) else value
            if field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in values):
                raise malformed(f"a {field.full_name} in the ONNX file is not UTF-8 text")
            if field.type == field.TYPE_MESSAGE:
                messages.extend(values)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that the model holds, subgraphs and functions included."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
        else:
            for attribute in nodes.pop().attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                graphs.extend([attribute.g] if attribute.HasField("g") else [])
                graphs.extend(attribute.graphs)


def _refuse_external_data(model: onnx.ModelProto) -> None:
    names = sorted({tensor.name for tensor in _tensors(model) if uses_external_data(tensor)})
    if names:
        raise unsupported(
            f"the weights {quoted(', '.join(names))} lie in another file, and a model is one file. Save it whole with "
            f'onnx.save(onnx.load("model.onnx"), "whole.onnx"), or export it again with\n    {ONNX_EXPORT}'
        )


def require_opset(model: onnx.ModelProto) -> None:
    """Refuse a model of operators of the default domain that are older or newer than those that are read.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSUPPORTED.
    """
    newest = onnx.defs.onnx_opset_version()
    found = {entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS}
    if not found and not any(node.domain in DEFAULT_DOMAINS for node in model.graph.node):
        return
    if len(found) != 1:
        raise malformed(f"the model imports {len(found)} versions of the default operator set, not one")
    version = found.pop()
    if not OLDEST_OPSET <= version <= newest:
        raise unsupported(
            f"the model uses opset {version}; supported are {OLDEST_OPSET} to {newest}. Export it again with "
            f"opset_version={min(newest, 20)}, or convert it with onnx.version_converter.convert_version"
        )


def _check_size_inlined(model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, or that would multiply beyond the limit when they are inlined."""
    functions = {(f.domain, f.name, f.overload): f.node for f in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    open_calls: set[tuple[str, str, str]] = set()

    def size(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > 64:
            raise malformed("the model's functions and subgraphs nest deeper than 64")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            total += called(key, depth) if key in functions else 1
            for attribute in node.attribute:
                graphs = ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
                total += sum(size(graph.node, depth + 1) for graph in graphs)
        return total

    def called(key: tuple[str, str, str], depth: int) -> int:
        if key in open_calls:
            raise malformed(f"the function {quoted(key[1])} calls itself")
        if key not in sizes:
            open_calls.add(key)
            sizes[key] = size(functions[key], depth + 1)
            open_calls.remove(key)
        return sizes[key]

    total = size(model.graph.node, 0)
    if total > MAX_NODES:
        raise too_large("the number of ONNX nodes", total, MAX_NODES)


def _inline(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, DecodeError) as error:
        raise malformed(f"the model's functions cannot be inlined: {quoted(error)}") from error


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(path, full_check=True)  # by its path: the checker holds the weights once more as it is
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise malformed(f"the ONNX checker refuses the model: {quoted(reason)}") from error
