"""Control flow whose course is known before the data: branches are chosen, loops unrolled."""

from collections.abc import Sequence

import torch

from undue_service.models.limits import MAX_STEPS, too_large
from undue_service.models.onnx.values import Integer, Maybe, Node, Shape, Subgraph, Value, is_known
from undue_service.models.refusals import malformed, unsupported


def if_(node: Node) -> tuple[Value, ...]:
    """Y = the outputs of `then_branch` where the condition holds, else those of `else_branch`."""
    return node.graph("then_branch" if node.flag(0) else "else_branch").run(())


def loop(node: Node) -> tuple[Value, ...]:
    """Carry values through the body up to M times while the condition holds; stack what it gives beside them.

    The body maps (iteration, condition, carried…) to (condition, carried…, scanned…).
    """
    body = node.graph("body")
    carried: tuple[Value, ...] = tuple(_given(node, index) for index in range(2, len(node.inputs)))
    trips, goes_on = _trips(node), node.value(1) is None or node.flag(1)
    if goes_on and trips is not None:
        _bound(node, trips, body)
    width = len(body.proto.output) - 1 - len(carried)
    if width < 0:
        raise malformed(f"{node} carries {len(carried)} values, its body gives {len(body.proto.output)}")
    scanned: list[list[Value]] = [[] for _ in range(width)]
    iteration = 0
    while goes_on and (trips is None or iteration < trips):
        condition, *given = body.run((Shape.of([iteration], ()), Shape.of([1], (), torch.bool), *carried))
        carried = tuple(given[: len(carried)])
        for stack, value in zip(scanned, given[len(carried) :], strict=True):
            stack.append(value)
        goes_on = _holds(node, condition)
        iteration += 1
    return (*carried, *(_stacked(node, stack, 0) for stack in scanned))


def scan(node: Node) -> tuple[Value, ...]:
    """Carry states through the body, once for each slice of the scanned inputs; stack what it gives beside them.

    The body maps (states…, slices…) to (states…, slices…). Since opset 9.
    """
    body, width = node.graph("body"), int(node.attribute("num_scan_inputs", 0))
    first = len(node.inputs) - width
    outputs = len(body.proto.output) - first
    if not 1 <= width <= len(node.inputs) or outputs < 0:
        raise malformed(f"{node} scans {width} of {len(node.inputs)} inputs; its body gives {len(body.proto.output)}")
    states: tuple[Value, ...] = tuple(_given(node, index) for index in range(first))
    given = [node.tensor(index) for index in range(first, len(node.inputs))]
    axes = _per_value(node, "scan_input_axes", width)
    places = [node.axis(axis, x.dim()) for axis, x in zip(axes, given, strict=True)]
    for x, place in zip(given, places, strict=True):
        node.keep_rows_apart(x, [place], "scans over the rows")
    lengths = {int(x.shape[place]) for x, place in zip(given, places, strict=True)}
    if len(lengths) != 1:
        raise malformed(f"{node} scans inputs of the lengths {sorted(lengths)}")
    length = lengths.pop()
    _bound(node, length, body)
    backwards = _per_value(node, "scan_input_directions", width)
    scanned: list[list[Value]] = [[] for _ in range(outputs)]
    for step in range(length):
        slices = [
            x.select(place, length - 1 - step if back else step)
            for x, place, back in zip(given, places, backwards, strict=True)
        ]
        found = body.run((*states, *slices))
        states = tuple(found[:first])
        for stack, value in zip(scanned, found[first:], strict=True):
            stack.append(value)
    out_axes = _per_value(node, "scan_output_axes", outputs)
    out_backwards = _per_value(node, "scan_output_directions", outputs)
    stacks = [list(reversed(stack)) if back else stack for stack, back in zip(scanned, out_backwards, strict=True)]
    return (*states, *(_stacked(node, stack, axis) for stack, axis in zip(stacks, out_axes, strict=True)))


def _bound(node: Node, trips: int, body: Subgraph) -> None:
    """Refuse before anything runs what the interpreter would refuse half-way; the body itself counts as a node."""
    total = trips * (1 + len(body.proto.node))
    if total > MAX_STEPS:
        raise too_large(f"the number of ONNX nodes that {node} runs, unrolled,", total, MAX_STEPS)


def _given(node: Node, index: int) -> Value:
    value = node.value(index)
    return Maybe(None) if value is None else value


def _trips(node: Node) -> int | None:
    """Return the largest number of iterations, None where there is no bound."""
    if node.value(0) is None:
        return None
    numbers: Sequence[Integer] = node.fixed(0)
    if len(numbers) != 1:
        raise malformed(f"{node} takes one number of iterations, not {len(numbers)}")
    return int(numbers[0])


def _holds(node: Node, condition: Value) -> bool:
    if isinstance(condition, Shape) and isinstance(condition.number, int):
        return bool(condition.number)
    if isinstance(condition, torch.Tensor) and condition.numel() == 1 and is_known(condition):
        return bool(condition.item())
    raise unsupported(f"{node} goes on as long as the data say; a number of iterations that is fixed is supported")


def _stacked(node: Node, values: Sequence[Value], axis: int) -> Value:
    if not values:
        raise unsupported(f"{node} runs no iteration, so that the shape of what it stacks is not known")
    tensors = [node.as_tensor(value) for value in values]
    return torch.stack(tensors, node.axis(axis, tensors[0].dim() + 1))


def _per_value(node: Node, name: str, count: int) -> tuple[int, ...]:
    values = node.axes(name) or (0,) * count
    if len(values) != count:
        raise malformed(f"{node} has {len(values)} {name} for {count} values")
    return values
