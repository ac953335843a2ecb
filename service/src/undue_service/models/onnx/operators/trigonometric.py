"""Trigonometric and hyperbolic functions of each element; Tanh is among the activations."""

from collections.abc import Callable

import torch

from undue_service.models.onnx.values import Node, Operator


def _of_each(compute: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    def operator(node: Node) -> torch.Tensor:
        return compute(node.tensor(0))

    return operator


sine, cosine, tangent = _of_each(torch.sin), _of_each(torch.cos), _of_each(torch.tan)
arcsine, arccosine, arctangent = _of_each(torch.asin), _of_each(torch.acos), _of_each(torch.atan)
hyperbolic_sine, hyperbolic_cosine = _of_each(torch.sinh), _of_each(torch.cosh)
inverse_hyperbolic_sine = _of_each(torch.asinh)
inverse_hyperbolic_cosine = _of_each(torch.acosh)
inverse_hyperbolic_tangent = _of_each(torch.atanh)
