"""Gives an ExportedProgram the names that its file used."""

import keyword
from collections.abc import Mapping

import torch
from torch.export.graph_signature import InputKind, TensorArgument

_TENSORS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def name_tensors(exported: torch.export.ExportedProgram, names: Mapping[str, str]) -> None:
    """Rename parameters and buffers in place.

    The new names may be any strings. `exported.module()` nests modules by their dots and so cannot hold both `a` and
    `a.b`; the graph module, whose tensors are arguments, can.
    """
    for spec in exported.graph_signature.input_specs:
        if spec.kind in _TENSORS and spec.target is not None:
            spec.target = names.get(spec.target, spec.target)
    exported._state_dict = {names.get(name, name): tensor for name, tensor in exported.state_dict.items()}


def name_inputs(exported: torch.export.ExportedProgram, names: tuple[str, ...]) -> None:
    """Rename the placeholders of the user inputs in place, where a name is a free Python identifier."""
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    taken = {node.name for node in exported.graph.nodes}
    specs = [spec for spec in exported.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    for spec, name in zip(specs, names, strict=True):
        if not name.isidentifier() or keyword.iskeyword(name) or name in taken:
            continue
        node = placeholders[spec.arg.name]
        node._rename(name)
        node.target = node.name
        taken.add(node.name)
        spec.arg = TensorArgument(name=node.name)
    exported.graph_module.recompile()
