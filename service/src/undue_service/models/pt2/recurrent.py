"""Recurrent layers written out, step by step, so that each is linear maps that the engine can differentiate and tap."""

import torch
from torch._decomp import decomposition_table
from torch.fx import Node

from undue_service.models.limits import MAX_NODES, too_large
from undue_service.models.refusals import malformed, quoted, unsupported

_aten = torch.ops.aten
_RECURRENT = frozenset({_aten.gru.input, _aten.lstm.input, _aten.rnn_relu.input, _aten.rnn_tanh.input})
_NODES_OF_A_STEP = 20
"""That it becomes, at most."""


def unroll(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return the program with GRU, LSTM and RNN layers as one linear map and its gates for each step.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED where a layer drops units or runs over the rows.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    layers = [node for node in exported.graph.nodes if node.target in _RECURRENT]
    if not layers:
        return exported
    steps = sum(_steps(layer) for layer in layers)
    if steps * _NODES_OF_A_STEP > MAX_NODES:
        raise too_large("the number of steps of recurrent layers", steps, MAX_NODES // _NODES_OF_A_STEP)
    try:
        return exported.run_decompositions({op: decomposition_table[op] for op in _RECURRENT})
    except Exception as error:
        raise malformed(f"the recurrent layers do not fit their inputs: {quoted(error)}") from error


def _steps(layer: Node) -> int:
    """Return over how many steps, layers and directions it runs."""
    formals = layer.target._schema.arguments
    given = {formal.name: value for formal, value in zip(formals, layer.args, strict=False)} | dict(layer.kwargs)
    if given["train"] and given["dropout"]:
        raise unsupported(f"{layer.name} drops units at random; call model.eval() before exporting")
    sequence = given["input"].meta["val"].shape[1 if given["batch_first"] else 0]
    if not isinstance(sequence, int):
        raise unsupported(
            f"{layer.name} runs over the axis of the rows; build it with batch_first=True, or move the axes before it"
        )
    return sequence * int(given["num_layers"]) * (2 if given["bidirectional"] else 1)
