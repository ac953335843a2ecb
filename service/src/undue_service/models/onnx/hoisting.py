"""Tensors that a graph among a node's attributes carries, moved to the main graph: what is stored lies in one place."""

import onnx

from .initializers import subgraphs


def hoist_tensors(graph: onnx.GraphProto) -> None:
    """Move the initialisers and Constant nodes of all subgraphs to the main graph, in place.

    One whose name another branch has already taken is renamed where it is read.
    """
    taken = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    taken |= {name for node in graph.node for name in node.output}
    waiting = [inner for node in graph.node for inner in subgraphs(node)]
    moved: list[onnx.NodeProto] = []
    while waiting:
        inner = waiting.pop()
        constants = [node for node in inner.node if node.op_type == "Constant" and node.domain in ("", "ai.onnx")]
        renamed = {}
        for name in [tensor.name for tensor in inner.initializer] + [node.output[0] for node in constants]:
            renamed[name] = _free(name, taken)
            taken.add(renamed[name])
        for tensor in inner.initializer:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = renamed[tensor.name]
        for node in constants:
            moved.append(onnx.NodeProto())
            moved[-1].CopyFrom(node)
            moved[-1].output[0] = renamed[node.output[0]]
        kept = [node for node in inner.node if node not in constants]
        del inner.initializer[:]
        del inner.node[:]
        inner.node.extend(kept)
        _rename(inner, {old: new for old, new in renamed.items() if old != new})
        waiting.extend(deeper for node in inner.node for deeper in subgraphs(node))
    if moved:
        nodes = [*moved, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    return name


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename what a graph reads; ONNX lets no inner graph define an outer name again."""
    if not names:
        return
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]
        for inner in subgraphs(node):
            _rename(inner, names)
    for value in graph.output:
        value.name = names.get(value.name, value.name)
