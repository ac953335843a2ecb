"""The calls of a `.pt2` graph, one by one: a known operator, plain arguments, values that exist."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch._export.serde import schema

from undue_service.models.limits import MAX_NODES, too_large
from undue_service.models.naming import is_placeholder_name
from undue_service.models.refusals import malformed, quoted, unsafe, unsupported, unsupported_operators

from .operators import ARITHMETIC, NAMES, TARGET, resolve, shares, writes
from .strict import make
from .tensors import DTYPES, device

_TEXT = re.compile(r"[A-Za-z0-9 ,.>_-]{0,128}")
"""Modes and equations: rounding_mode="floor", "bij,bjk->bik"."""
_PLAIN = (
    "as_none", "as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_memory_format", "as_layout",
)  # fmt: skip
_ASSERTION = "torch.ops.aten._assert_scalar.default"
_FORBIDDEN = ("as_custom_obj", "as_operator", "as_graph")


@dataclass
class _Values:
    """The names that the graph has computed so far."""

    declared: frozenset[str]
    """Every name that has a type."""
    computed: set[str]
    writable: set[str]
    """Values with memory of their own."""

    def use(self, name: str) -> None:
        if name not in self.computed:
            raise malformed(f"the graph reads {quoted(name)} before anything computes it")

    def define(self, name: str) -> None:
        if name in self.computed or name not in self.declared:
            raise malformed(f"the graph computes {quoted(name)} twice, or does not declare its type")
        self.computed.add(name)


def check_nodes(graph: schema.Graph) -> list[schema.Node]:
    """Return the calls of a graph without their metadata, on the CPU.

    Raises:
        InvalidArgument: MODEL_UNSAFE for a call to anything but ATen and integer arithmetic, UNSUPPORTED_OPERATORS,
            MODEL_UNSUPPORTED for writing in place to what is not the program's own, MODEL_MALFORMED.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    if len(graph.nodes) > MAX_NODES:
        raise too_large("the number of calls in the program", len(graph.nodes), MAX_NODES)
    _check_targets(graph)
    declared = frozenset((*graph.tensor_values, *graph.sym_int_values, *graph.sym_bool_values))
    values = _Values(declared, {argument.as_tensor.name for argument in graph.inputs}, set())
    return [_check_node(node, values) for node in graph.nodes]


def _check_targets(graph: schema.Graph) -> None:
    foreign = sorted({n.target for n in graph.nodes if n.target not in ARITHMETIC and not TARGET.fullmatch(n.target)})
    if foreign:
        raise unsafe(
            f"the program calls {quoted(', '.join(foreign))}; only ATen operators and size arithmetic are read"
        )
    unknown = {n.target for n in graph.nodes if n.target not in ARITHMETIC and resolve(n.target) is None}
    if unknown:
        names = (target.removeprefix("torch.ops.") for target in unknown)
        raise unsupported_operators(names, f"{len(NAMES)} other ATen operators are supported, but not these")


def _check_node(node: schema.Node, values: _Values) -> schema.Node:
    if node.name is not None and not is_placeholder_name(node.name):
        raise unsafe(f"a node of the program has the name {quoted(node.name)}")
    if node.is_hop_single_tensor_return is not None:
        raise unsafe(f"{node.target} is marked as a higher-order operator")
    if len({argument.name for argument in node.inputs}) != len(node.inputs) and node.target not in ARITHMETIC:
        raise malformed(f"{node.target} has an argument twice")
    inputs = [replace(argument, arg=_check_argument(argument.arg, node, values)) for argument in node.inputs]
    op = resolve(node.target)
    if op is not None:
        formal = {argument.name for argument in op._schema.arguments}
        if not {argument.name for argument in inputs} <= formal:
            raise malformed(f"{node.target} has no such arguments as it is given")
        if writes(op):
            _check_in_place(node, values)
    names = [name for output in node.outputs for name in _output_names(output, node)]
    for name in names:
        values.define(name)
    if op is not None and not shares(op):
        values.writable.update(names)
    return replace(node, inputs=inputs, metadata={})


def _check_in_place(node: schema.Node, values: _Values) -> None:
    first = node.inputs[0].arg if node.inputs else None
    if first is None or first.type != "as_tensor" or first.as_tensor.name not in values.writable:
        text = "writes in place to a parameter, an input or a view; export a model that does not"
        raise unsupported(f"the program {text} ({node.target})")


def _check_argument(argument: schema.Argument, node: schema.Node, values: _Values) -> schema.Argument:
    kind = argument.type
    if kind in _FORBIDDEN:
        raise unsafe(f"{node.target} takes a {kind.removeprefix('as_')}; only tensors and numbers are read")
    if kind in _PLAIN:
        return argument
    if kind in _NAMES:
        for name in _NAMES[kind](argument.value):
            values.use(name)
        return argument
    if kind == "as_device":
        return make(schema.Argument, as_device=device(argument.as_device))
    if kind == "as_scalar_type":
        if argument.as_scalar_type not in DTYPES:
            name = schema.ScalarType(argument.as_scalar_type).name
            raise unsupported(
                f"{node.target} converts to {name}; supported are float32, float64, int64, int32 and bool"
            )
        return argument
    if kind == "as_string" and node.target == _ASSERTION:
        return make(schema.Argument, as_string="the program's condition on its sizes does not hold")
    if kind == "as_string" and _TEXT.fullmatch(argument.as_string):
        return argument
    raise unsupported(f"{node.target} takes an argument of the kind {kind.removeprefix('as_')}, which is not read here")


def _output_names(output: schema.Argument, node: schema.Node) -> list[str]:
    if output.type in ("as_tensor", "as_tensors", "as_sym_int", "as_sym_bool"):
        return list(_NAMES[output.type](output.value))
    if output.type == "as_none":
        return []
    raise unsupported(f"{node.target} returns a {output.type.removeprefix('as_')}, which is not read here")


def _symbol_names(values: list[schema.SymIntArgument] | list[schema.SymBoolArgument]) -> list[str]:
    return [value.as_name for value in values if value.type == "as_name"]


_NAMES: Mapping[str, Callable[[Any], list[str]]] = {
    "as_tensor": lambda value: [value.name],
    "as_tensors": lambda values: [value.name for value in values],
    "as_optional_tensor": lambda value: [value.as_tensor.name] if value.type == "as_tensor" else [],
    "as_optional_tensors": lambda values: [v.as_tensor.name for v in values if v.type == "as_tensor"],
    "as_sym_int": lambda value: _symbol_names([value]),
    "as_sym_ints": _symbol_names,
    "as_sym_bool": lambda value: _symbol_names([value]),
}
"""The values that an argument or an output of each kind names."""
