"""Operators that ONNX defines by others: each runs as its definition where the table lacks it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx

from undue_service.models.refusals import malformed, quoted, unsupported

from .element_types import onnx_code
from .initializers import subgraphs
from .values import Listed, Maybe, Node, Shape, Text, Value, dense

_DEFAULT = ("", "ai.onnx")


@dataclass(frozen=True)
class Function:
    """The definition of an operator, its attributes filled in."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    nodes: Sequence[onnx.NodeProto]
    opsets: Mapping[str, int]


def versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Return the version of each operator set; that of the default domain is named ""."""
    return {"" if entry.domain in _DEFAULT else entry.domain: entry.version for entry in imports}


def versions_of(definition: onnx.FunctionProto) -> dict[str, int]:
    """Return the version of each operator set that a definition is written in: the newest where it does not say."""
    return {"": onnx.defs.onnx_opset_version(), **versions(definition.opset_import)}


def version_of(node: onnx.NodeProto, opsets: Mapping[str, int]) -> int:
    """Return the version of the operator set that a node's operator belongs to.

    Raises:
        InvalidArgument: MODEL_MALFORMED, the model imports no operators of that domain.
    """
    found = opsets.get("" if node.domain in _DEFAULT else node.domain)
    if found is None:
        raise malformed(f"the model uses {node.op_type} of {quoted(node.domain)} without an opset_import for it")
    return found


def has_definition(domain: str, name: str, opset: int) -> bool:
    """Return whether ONNX defines an operator by others."""
    schema = _schema(domain, name, opset)
    return schema is not None and bool(
        schema.function_opset_versions or schema.context_dependent_function_opset_versions
    )


def defined_by(domain: str, name: str, opset: int) -> onnx.FunctionProto | None:
    """Return the definition of an operator; None where it depends on the types of the inputs."""
    schema = _schema(domain, name, opset)
    if schema is None:
        return None
    usable = [version for version in schema.function_opset_versions if version <= max(opset, schema.since_version)]
    return _parsed(schema.get_function_with_opset_version(max(usable))) if usable else None


def schema_function(node: Node) -> Function:
    """Return the definition of a node whose operator is not in the table.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED, there is none for its opset and the types of its inputs.
    """
    schema = _schema(node.proto.domain, node.proto.op_type, node.opset)
    body = None if schema is None else _body(schema, node)
    if schema is None or body is None:
        raise unsupported(f"{node} is not supported, and ONNX does not define it by other operators for these inputs")
    given = {attribute.name: attribute for attribute in node.proto.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.name:
            given[name] = attribute.default_value
    nodes = [_filled(inner, given) for inner in body.node]
    return Function(tuple(body.input), tuple(body.output), nodes, versions_of(body))


def _schema(domain: str, name: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(name, opset, "" if domain in _DEFAULT else domain)
    except onnx.defs.SchemaError:
        return None


def _body(schema: onnx.defs.OpSchema, node: Node) -> onnx.FunctionProto | None:
    newest = max(node.opset, schema.since_version)
    plain = [version for version in schema.function_opset_versions if version <= newest]
    if plain:
        return _parsed(schema.get_function_with_opset_version(max(plain)))
    dependent = [version for version in schema.context_dependent_function_opset_versions if version <= newest]
    if not dependent or any(isinstance(value, Text | Listed | Maybe) for value in node.inputs):
        return None
    types = [_type(value).SerializeToString() for value in node.inputs]
    try:
        content = schema.get_context_dependent_function_with_opset_version(
            max(dependent), node.proto.SerializeToString(), types
        )
    except (RuntimeError, ValueError) as error:
        raise malformed(f"{node} does not fit its definition: {quoted(error)}") from error
    return _parsed(content) if content else None


@cache
def _parsed(content: bytes) -> onnx.FunctionProto:
    return onnx.FunctionProto.FromString(content)


def _type(value: Value | None) -> onnx.TypeProto:
    if value is None:
        return onnx.TypeProto()
    if isinstance(value, Shape):
        dtype, sizes = value.dtype, value.array.shape
    else:
        tensor = dense(value)
        dtype, sizes = tensor.dtype, tuple(tensor.shape)
    known = [size if isinstance(size, int) else None for size in sizes]
    return onnx.helper.make_tensor_type_proto(onnx_code(dtype), known)


def _filled(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """Return a node of a definition with the attributes that it takes from the node that is defined."""
    filled = onnx.NodeProto()
    filled.CopyFrom(node)
    del filled.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            filled.attribute.add().CopyFrom(attribute)
        elif attribute.ref_attr_name in given:
            filled.attribute.add().CopyFrom(given[attribute.ref_attr_name])
            filled.attribute[-1].name = attribute.name
    for graph in subgraphs(filled):
        nodes = [_filled(inner, given) for inner in graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    return filled
