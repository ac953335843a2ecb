"""A `.pt2` program checked part by part and put together anew from the parts that passed."""

import math
import re
from dataclasses import dataclass, replace

import torch
from torch._export.serde import schema

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.reports import ColumnSchema
from undue_service.models.limits import MAX_ROW_ELEMENTS, too_large
from undue_service.models.naming import is_placeholder_name
from undue_service.models.refusals import PT2_EXPORT, malformed, quoted, static_batch, unsafe, unsupported

from .expressions import SYMBOL, parse_condition, parse_expression
from .nodes import check_nodes
from .strict import make, read
from .tensors import DTYPES, fixed, size, tensor_meta
from .treespecs import Tree, output_names, parse_inputs, parse_outputs

_DIALECTS = ("TRAINING", "ATEN")
_SAME_ROWS = re.compile(r"L\['\w+'\]\.size\(\)\[0\] == L\['\w+'\]\.size\(\)\[0\]")
_TENSOR_NAME = re.compile(r"(?!__)\w{1,256}(\.(?!__)\w{1,256}){0,63}", re.ASCII)
_MODULE_ATTRIBUTES = frozenset(dir(torch.nn.Module()))


@dataclass(frozen=True)
class CheckedProgram:
    """A program that was put together anew."""

    program: schema.ExportedProgram
    inputs: tuple[ColumnSchema, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, schema.TensorMeta]
    buffers: dict[str, schema.TensorMeta]
    constants: dict[str, schema.TensorMeta]
    """Tensor constants, and buffers that are not part of the state."""
    warnings: tuple[str, ...]


def check_version(data: object) -> None:
    """Refuse a program that another minor version of torch wrote.

    Raises:
        FailedPrecondition: TORCH_VERSION, with both versions in its metadata.
        InvalidArgument: MODEL_MALFORMED.
    """
    written = data.get("torch_version") if isinstance(data, dict) else None
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})[.a]", written) if isinstance(written, str) else None
    if match is None:
        raise malformed("the program does not say which version of torch wrote it")
    running = torch.__version__
    if [match[1], match[2]] != running.split(".")[:2]:
        raise FailedPrecondition(
            Reason.TORCH_VERSION,
            f"torch {quoted(written)} wrote the archive, this service runs torch {running}; export it again with "
            f"torch {'.'.join(running.split('.')[:2])}",
            metadata={"archive": str(written)[:64], "service": running},
        )


def check_program(data: object) -> CheckedProgram:
    """Return a program put together from what was checked; the rest (metadata, guards, call graph) is left out.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED, UNSUPPORTED_OPERATORS, STATIC_BATCH.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    program = read(schema.ExportedProgram, data, "the program")
    if program.schema_version.major != schema.SCHEMA_VERSION[0] or not set(program.verifiers) <= set(_DIALECTS):
        raise unsupported("the program is of another version of torch.export's schema, or of an unknown dialect")
    module = program.graph_module
    if module.graph.custom_obj_values or module.graph.sym_float_values or module.graph.is_single_tensor_return:
        raise unsafe("the program holds objects, real-valued sizes or subgraphs; a model is a graph and plain tensors")
    if module.treespec_namedtuple_fields:
        raise unsupported("the program takes or returns named tuples; let forward take and return plain ones")
    graph = _check_graph(module.graph)
    tensors = _Tensors.of(graph, module.signature)
    call, outputs = _check_call(module, len(tensors.inputs))
    _check_outputs(graph, module.signature, len(outputs))
    batch = _batch_symbols(graph, tensors.inputs)
    warnings = _check_guards(program.guards_code) + _check_ranges(program.range_constraints, batch)
    checked = replace(
        program,
        graph_module=schema.GraphModule(graph=graph, signature=module.signature, module_call_graph=[call]),
        opset_version={"aten": program.opset_version.get("aten", 0)},
        range_constraints={
            name: schema.RangeConstraint(min_val=value.min_val, max_val=None)
            for name, value in program.range_constraints.items()
        },
        guards_code=[],
    )
    inputs = tuple(_column(name, graph.tensor_values[name]) for name in tensors.inputs)
    return CheckedProgram(
        checked, inputs, outputs, tensors.parameters, tensors.buffers, tensors.constants, tuple(warnings)
    )


def _check_graph(graph: schema.Graph) -> schema.Graph:
    for name in (*graph.tensor_values, *graph.sym_int_values, *graph.sym_bool_values):
        if not is_placeholder_name(name):
            raise unsafe(f"a value of the program has the name {quoted(name)}, which is not a plain one")
    for argument in graph.inputs:
        if argument.type != "as_tensor" or argument.as_tensor.name not in graph.tensor_values:
            raise unsupported("the program takes something other than tensors; let forward take tensors alone")
    names = [argument.as_tensor.name for argument in graph.inputs]
    if len(set(names)) != len(names):
        raise malformed("two inputs of the graph have the same name")
    return replace(
        graph,
        nodes=check_nodes(graph),
        tensor_values={
            name: tensor_meta(meta, f"the value {quoted(name)}") for name, meta in graph.tensor_values.items()
        },
        sym_int_values={name: size(value) for name, value in graph.sym_int_values.items()},
        sym_bool_values={name: _condition(value) for name, value in graph.sym_bool_values.items()},
    )


def _condition(value: schema.SymBool) -> schema.SymBool:
    if value.type == "as_bool":
        return value
    return make(schema.SymBool, as_expr=schema.SymExpr(expr_str=parse_condition(value.as_expr.expr_str).text))


@dataclass(frozen=True)
class _Tensors:
    """What the graph's inputs stand for."""

    inputs: tuple[str, ...]
    parameters: dict[str, schema.TensorMeta]
    buffers: dict[str, schema.TensorMeta]
    constants: dict[str, schema.TensorMeta]

    @classmethod
    def of(cls, graph: schema.Graph, signature: schema.GraphSignature) -> "_Tensors":
        found = cls((), {}, {}, {})
        inputs = []
        if len(signature.input_specs) != len(graph.inputs):
            raise malformed("the signature does not have an entry for each input of the graph")
        for spec, argument in zip(signature.input_specs, graph.inputs, strict=True):
            placeholder = argument.as_tensor.name
            if spec.type == "user_input":
                arg = spec.user_input.arg
                named = arg.as_tensor.name if arg.type == "as_tensor" else None
                inputs.append(placeholder)
            elif spec.type == "parameter":
                named, target, kind = spec.parameter.arg.name, spec.parameter.parameter_name, found.parameters
            elif spec.type == "buffer":
                kind = found.buffers if spec.buffer.persistent else found.constants
                named, target = spec.buffer.arg.name, spec.buffer.buffer_name
            elif spec.type == "tensor_constant":
                kind = found.constants
                named, target = spec.tensor_constant.arg.name, spec.tensor_constant.tensor_constant_name
            else:
                raise unsafe(f"the program takes a {spec.type}; only tensors are read")
            if named != placeholder:
                raise malformed(f"the signature calls the input {quoted(placeholder)} by another name")
            if spec.type != "user_input":
                found._add(kind, target, graph.tensor_values[placeholder])
        if not inputs:
            raise unsupported("the program has no inputs")
        return replace(found, inputs=tuple(inputs))

    def _add(self, kind: dict[str, schema.TensorMeta], name: str, meta: schema.TensorMeta) -> None:
        parts = name.split(".")
        if not _TENSOR_NAME.fullmatch(name) or not _MODULE_ATTRIBUTES.isdisjoint(parts):
            raise unsafe(f"a tensor of the program has the name {quoted(name)}, which no module can give")
        if name in self.parameters or name in self.buffers or name in self.constants:
            raise malformed(f"the tensor {quoted(name)} stands for two inputs of the graph")
        kind[name] = meta


def _check_call(module: schema.GraphModule, inputs: int) -> tuple[schema.ModuleCallEntry, tuple[str, ...]]:
    root = next((entry.signature for entry in module.module_call_graph if entry.fqn == ""), None)
    if root is None:
        raise malformed("the program does not say how it is called")
    given, returned = parse_inputs(root.in_spec), parse_outputs(root.out_spec)
    if len(given.leaves) != inputs:
        raise unsupported("the program takes something other than tensors; let forward take tensors alone")
    names = root.forward_arg_names
    if names is not None and not all(is_placeholder_name(name) for name in names):
        raise unsafe(f"the program's arguments are called {quoted(', '.join(names))}")
    signature = schema.ModuleCallSignature([], [], given.text, returned.text, names or None)
    return schema.ModuleCallEntry(fqn="", signature=signature), _names(returned)


def _names(returned: Tree) -> tuple[str, ...]:
    if not returned.leaves:
        raise unsupported("the program returns nothing")
    return output_names(returned)


def _check_outputs(graph: schema.Graph, signature: schema.GraphSignature, count: int) -> None:
    changed = sorted(spec.type for spec in signature.output_specs if spec.type != "user_output")
    if changed:
        raise unsupported(f"the program changes its state ({changed[0]}); call model.eval() before the export")
    computed = {argument.as_tensor.name for argument in graph.inputs}
    computed |= {v.name for node in graph.nodes for o in node.outputs if o.type == "as_tensors" for v in o.as_tensors}
    computed |= {o.as_tensor.name for node in graph.nodes for o in node.outputs if o.type == "as_tensor"}
    specs = [spec.user_output.arg for spec in signature.output_specs]
    if len(graph.outputs) != count or len(specs) != count:
        raise malformed("the program's outputs, their signature and their nesting are not equally many")
    for output, spec in zip(graph.outputs, specs, strict=True):
        if output.type != "as_tensor" or spec.type != "as_tensor":
            raise unsupported("the program returns something other than tensors; let forward return tensors alone")
        if output.as_tensor.name != spec.as_tensor.name or output.as_tensor.name not in computed:
            raise malformed(f"nothing computes the output {quoted(output.as_tensor.name)}")


def _batch_symbols(graph: schema.Graph, inputs: tuple[str, ...]) -> set[str]:
    symbols = set()
    for name in inputs:
        shape = graph.tensor_values[name].sizes
        if not shape:
            raise unsupported(f"the input {quoted(name)} is a scalar; it needs an axis for the rows")
        if shape[0].type == "as_int":
            raise static_batch(f"the input {quoted(name)} takes exactly {shape[0].as_int} rows", PT2_EXPORT)
        symbol = parse_expression(shape[0].as_expr.expr_str).symbol
        if symbol is None:
            raise static_batch(f"the input {quoted(name)} takes only certain numbers of rows", PT2_EXPORT)
        symbols.add(symbol)
    return symbols


def _column(name: str, meta: schema.TensorMeta) -> ColumnSchema:
    for axis, value in enumerate(meta.sizes[1:], start=1):
        if value.type != "as_int":
            raise unsupported(f"axis {axis} of the input {quoted(name)} has no fixed size; only the first may vary")
    shape = fixed(meta.sizes[1:], f"the input {quoted(name)}")
    if math.prod(shape) > MAX_ROW_ELEMENTS:
        raise too_large(
            f"the number of elements in a row of the input {quoted(name)}", math.prod(shape), MAX_ROW_ELEMENTS
        )
    return ColumnSchema(name, DTYPES[meta.dtype], shape)


def _check_guards(guards: list[str]) -> list[str]:
    conditions = [guard for guard in guards if not _SAME_ROWS.fullmatch(guard)]
    if not conditions:
        return []
    return [
        f"the export states {len(conditions)} conditions on its inputs, which are not checked: {quoted(conditions[0])}"
    ]


def _check_ranges(ranges: dict[str, schema.RangeConstraint], batch: set[str]) -> list[str]:
    warnings = []
    for name, value in ranges.items():
        if not SYMBOL.fullmatch(name):
            raise unsupported(f"the program has a size {quoted(name)} that depends on the data")
        if name in batch and (value.min_val or 0) > 2:
            raise static_batch(f"the program takes at least {value.min_val} rows", PT2_EXPORT)
        if name in batch and value.max_val is not None:
            warnings.append(f"the export allows at most {value.max_val} rows; the program is run on any number of them")
    return warnings
