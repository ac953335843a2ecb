"""The activations of recurrent operators, by name, with their own defaults (ONNX RNN, GRU and LSTM)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted, unsupported

Activation = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Kind:
    """An activation, and how many numbers it has; None: one that must be given."""

    compute: Callable[[torch.Tensor, float, float], torch.Tensor]
    alpha: tuple[float | None, ...] = ()
    beta: tuple[float | None, ...] = ()


_KINDS: Mapping[str, _Kind] = {
    "relu": _Kind(lambda x, _a, _b: torch.relu(x)),
    "tanh": _Kind(lambda x, _a, _b: torch.tanh(x)),
    "sigmoid": _Kind(lambda x, _a, _b: torch.sigmoid(x)),
    "softsign": _Kind(lambda x, _a, _b: functional.softsign(x)),
    "softplus": _Kind(lambda x, _a, _b: functional.softplus(x)),
    "elu": _Kind(lambda x, a, _b: functional.elu(x, a), (1.0,)),
    "leakyrelu": _Kind(lambda x, a, _b: functional.leaky_relu(x, a), (0.01,)),
    "thresholdedrelu": _Kind(lambda x, a, _b: torch.where(x > a, x, torch.zeros_like(x)), (1.0,)),
    "hardsigmoid": _Kind(lambda x, a, b: torch.clamp(a * x + b, 0.0, 1.0), (0.2,), (0.5,)),
    "affine": _Kind(lambda x, a, b: a * x + b, (None,), (None,)),
    "scaledtanh": _Kind(lambda x, a, b: a * torch.tanh(b * x), (None,), (None,)),
}


def gate_activations(node: Node, defaults: Sequence[str], directions: int) -> list[list[Activation]]:
    """Return the activations of each direction: `activations`, or the operator's own.

    `activation_alpha` and `activation_beta` are used up in order, by those that have such a number.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSUPPORTED.
    """
    names = node.texts("activations") or [*defaults] * directions
    if len(names) != len(defaults) * directions:
        raise malformed(f"{node} has {len(names)} activations for {directions} times {len(defaults)}")
    alphas, betas = iter(node.reals("activation_alpha")), iter(node.reals("activation_beta"))
    found = []
    for name in names:
        kind = _KINDS.get(name.lower())
        if kind is None:
            raise unsupported(f"{node} has the activation {quoted(name)}; supported are {', '.join(_KINDS)}")
        alpha = [next(alphas, default) for default in kind.alpha]
        beta = [next(betas, default) for default in kind.beta]
        if None in alpha or None in beta:
            raise unsupported(f"{node} has the activation {quoted(name)} without its alpha and beta")
        found.append(_bound(kind, alpha, beta))
    size, clip = len(defaults), float(node.attribute("clip", 0.0))
    # Of an LSTM's three, the last is of the cell, which onnxruntime does not clip.
    found = [f if index % size == 2 else _clipped(f, clip) for index, f in enumerate(found)]
    return [found[i * size : (i + 1) * size] for i in range(directions)]


def _bound(kind: _Kind, alpha: Sequence[float | None], beta: Sequence[float | None]) -> Activation:
    a, b = (float(values[0] or 0.0) if values else 0.0 for values in (alpha, beta))
    return lambda x: kind.compute(x, a, b)


def _clipped(activation: Activation, bound: float) -> Activation:
    """Bound the input of a gate to ± `clip`, unless that is 0."""
    return (lambda x: activation(x.clamp(-bound, bound))) if bound > 0 else activation
