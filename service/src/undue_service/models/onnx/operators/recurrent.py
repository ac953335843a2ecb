"""RNN, GRU and LSTM, unrolled over the time steps: so that every weight is a plain linear map of the step's values.

X (T, rows, I), W (directions, G H, I), R (directions, G H, H), B (directions, 2 G H) of Wb and Rb in turn, G gates;
Y (T, directions, rows, H) and the last states (directions, rows, H). With `layout` 1 the rows are the first axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from undue_service.models.limits import MAX_STEPS, too_large
from undue_service.models.onnx.values import Node, Shape
from undue_service.models.refusals import malformed, quoted, unsupported

from .gates import Activation, gate_activations

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""For each direction, whether it runs backwards."""
_NODES_PER_STEP = 16

State = tuple[torch.Tensor, ...]
Step = Callable[[torch.Tensor, State], State]
"""W xₜ + Wb and the state before a step, to the state after it; its first tensor is the output."""


@dataclass(frozen=True)
class _Weights:
    """Of one direction."""

    W: torch.Tensor
    R: torch.Tensor
    Wb: torch.Tensor | None
    Rb: torch.Tensor | None
    peepholes: torch.Tensor | None
    activations: list[Activation]


def rnn(node: Node) -> tuple[torch.Tensor, ...]:
    """Hₜ = f(W xₜ + Wb + R Hₜ₋₁ + Rb)."""
    return _unrolled(node, 1, ("Tanh",), _rnn_step)


def gru(node: Node) -> tuple[torch.Tensor, ...]:
    """Hₜ = (1 − z) ⊙ h + z ⊙ Hₜ₋₁, gates z, r, h in this order (Cho et al. 2014).

    z = f(…), r = f(…); h = g(W xₜ + Wb + R (r ⊙ Hₜ₋₁) + Rb), or g(W xₜ + Wb + r ⊙ (R Hₜ₋₁ + Rb)) where
    `linear_before_reset`.
    """
    linear_before_reset = bool(node.attribute("linear_before_reset", 0))
    return _unrolled(node, 3, ("Sigmoid", "Tanh"), lambda w: _gru_step(w, linear_before_reset))


def lstm(node: Node) -> tuple[torch.Tensor, ...]:
    """Cₜ = f ⊙ Cₜ₋₁ + i ⊙ c, Hₜ = o ⊙ h(Cₜ), gates i, o, f, c in this order (Hochreiter & Schmidhuber 1997).

    Peepholes P add P ⊙ Cₜ₋₁ to i and f, and P ⊙ Cₜ to o; with `input_forget`, f = 1 − i.
    """
    coupled = bool(node.attribute("input_forget", 0))
    return _unrolled(node, 4, ("Sigmoid", "Tanh", "Tanh"), lambda w: _lstm_step(w, coupled), is_lstm=True)


def _rnn_step(w: _Weights) -> Step:
    (f,) = w.activations
    return lambda x, state: (f(x + functional.linear(state[0], w.R, w.Rb)),)


def _gru_step(w: _Weights, linear_before_reset: bool) -> Step:
    f, g = w.activations
    size = int(w.R.shape[1])

    def linear_first(x: torch.Tensor, state: State) -> State:
        (before,) = state
        z_x, r_x, h_x = x.chunk(3, -1)
        z_h, r_h, h_h = functional.linear(before, w.R, w.Rb).chunk(3, -1)
        z, r = f(z_x + z_h), f(r_x + r_h)
        return ((1 - z) * g(h_x + r * h_h) + z * before,)

    gates, candidate = w.R[: 2 * size], w.R[2 * size :]
    bias, candidate_bias = (None, None) if w.Rb is None else (w.Rb[: 2 * size], w.Rb[2 * size :])

    def reset_first(x: torch.Tensor, state: State) -> State:
        (before,) = state
        z, r = f(x[..., : 2 * size] + functional.linear(before, gates, bias)).chunk(2, -1)
        h = g(x[..., 2 * size :] + functional.linear(r * before, candidate, candidate_bias))
        return ((1 - z) * h + z * before,)

    return linear_first if linear_before_reset else reset_first


def _lstm_step(w: _Weights, coupled: bool) -> Step:
    f, g, h = w.activations
    peepholes = (None,) * 3 if w.peepholes is None else w.peepholes.chunk(3)

    def peeked(gate: torch.Tensor, index: int, cell: torch.Tensor) -> torch.Tensor:
        weight = peepholes[index]
        return gate if weight is None else gate + weight * cell

    def step(x: torch.Tensor, state: State) -> State:
        before, cell = state
        i, o, forget, c = (x + functional.linear(before, w.R, w.Rb)).chunk(4, -1)
        i = f(peeked(i, 0, cell))
        forget = 1 - i if coupled else f(peeked(forget, 2, cell))
        after = forget * cell + i * g(c)
        return f(peeked(o, 1, after)) * h(after), after

    return step


def _unrolled(
    node: Node, gates: int, defaults: tuple[str, ...], build: Callable[[_Weights], Step], is_lstm: bool = False
) -> tuple[torch.Tensor, ...]:
    direction, rows_first = node.text("direction", "forward"), bool(node.attribute("layout", 0))
    if direction not in _DIRECTIONS:
        raise malformed(f"{node} has the direction {quoted(direction)}")
    backwards = _DIRECTIONS[direction]
    x, weight, recurrent, bias = node.tensor(0), node.tensor(1), node.tensor(2), node.optional(3)
    x = x.transpose(0, 1) if rows_first else x
    size = int(recurrent.shape[-1])
    _check(node, x, (weight, recurrent, bias), len(backwards), gates * size)
    node.keep_rows_apart(x, (0, 2), "takes the rows for time steps")
    if int(x.shape[0]) * len(backwards) * _NODES_PER_STEP > MAX_STEPS:
        raise too_large(
            f"the number of operations that {node} unrolls to", int(x.shape[0]) * _NODES_PER_STEP, MAX_STEPS
        )
    given = [node.optional(5), node.optional(6)] if is_lstm else [node.optional(5)]
    peepholes, lengths = node.optional(7) if is_lstm else None, _lengths(node, int(x.shape[0]))
    activations = gate_activations(node, defaults, len(backwards))
    outputs, states = [], []
    for index, is_backwards in enumerate(backwards):
        biases = (None, None) if bias is None else (bias[index][: gates * size], bias[index][gates * size :])
        peeking = None if peepholes is None else peepholes[index]
        weights = _Weights(weight[index], recurrent[index], *biases, peeking, activations[index])
        start = tuple(_start(x, size, value, index, rows_first) for value in given)
        y, last = _run(build(weights), functional.linear(x, weights.W, weights.Wb), start, is_backwards, lengths)
        outputs.append(y)
        states.append(last)
    lead = 1 if rows_first else 0
    y = torch.stack(outputs, 1).permute(2, 0, 1, 3) if rows_first else torch.stack(outputs, 1)
    return y, *(torch.stack(of_all, lead) for of_all in zip(*states, strict=True))


def _run(
    step: Step, inputs: torch.Tensor, state: State, backwards: bool, lengths: torch.Tensor | None
) -> tuple[torch.Tensor, State]:
    """Return the outputs of all steps, (T, rows, H), and the state after the last; a row's steps end at its length."""
    steps = int(inputs.shape[0])
    outputs: list[torch.Tensor] = [inputs] * steps
    for t in reversed(range(steps)) if backwards else range(steps):
        after = step(inputs[t], state)
        output = after[0]
        if lengths is not None:
            runs = (lengths > t)[:, None]
            output = torch.where(runs, output, torch.zeros_like(output))
            after = tuple(torch.where(runs, new, old) for new, old in zip(after, state, strict=True))
        outputs[t], state = output, after
    return torch.stack(outputs), state


def _start(x: torch.Tensor, size: int, given: torch.Tensor | None, index: int, rows_first: bool) -> torch.Tensor:
    if given is None:
        return x.new_zeros(x.shape[1], size)
    return given.select(1 if rows_first else 0, index)


def _lengths(node: Node, steps: int) -> torch.Tensor | None:
    """Return how many steps each row has, None where all have all."""
    value = node.value(4)
    if value is None or (isinstance(value, Shape) and all(length == steps for length in value.values)):
        return None
    return node.tensor(4)


def _check(
    node: Node,
    x: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    directions: int,
    rows: int,
) -> None:
    if not x.dim() == weights[0].dim() == weights[1].dim() == 3:
        raise malformed(f"{node} has values of rank {x.dim()}, {weights[0].dim()} and {weights[1].dim()}, not 3")
    hidden = node.attribute("hidden_size", weights[1].shape[-1])
    wanted = ((directions, rows, x.shape[2]), (directions, rows, hidden), (directions, 2 * rows))
    for value, shape in zip(weights, wanted, strict=True):
        if value is not None and tuple(value.shape) != shape:
            raise malformed(f"{node} has a weight of {tuple(value.shape)} instead of {shape}")
    if not x.shape[0]:
        raise unsupported(f"{node} runs over no time steps")
