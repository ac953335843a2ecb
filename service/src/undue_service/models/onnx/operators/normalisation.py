"""Normalisation in inference: by statistics that were frozen, or over the axes of one row."""

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, unsupported


def batch_normalization(node: Node) -> torch.Tensor:
    """Y = (X − mean) / √(var + ε) · scale + B per channel (axis 1), mean and var as they were estimated in training."""
    if node.attribute("training_mode", 0) or (node.opset < 14 and any(node.proto.output[1:])):
        raise unsupported(f"{node} normalises over the rows, in training mode; call model.eval() before the export")
    x = node.tensor(0)
    node.keep_rows_apart(x, range(1, x.dim()), "takes the rows for channels")
    scale, shift, mean, variance = (node.tensor(index) for index in range(1, 5))
    channels = x.shape[1] if x.dim() > 1 else 1
    if any(tuple(value.shape) != (channels,) for value in (scale, shift, mean, variance)):
        raise malformed(f"{node} has {channels} channels and weights of another shape")
    return functional.batch_norm(x, mean, variance, scale, shift, False, 0.0, float(node.attribute("epsilon", 1e-5)))


def layer_normalization(node: Node) -> torch.Tensor:
    """Y = (X − mean) / √(var + ε) · scale + B, mean and var over the axes from `axis` on."""
    x, scale, shift = node.tensor(0), node.tensor(1), node.optional(2)
    axis = node.axis(int(node.attribute("axis", -1)), x.dim())
    node.keep_rows_apart(x, range(axis, x.dim()), "normalises across the rows")
    shape, epsilon = [int(size) for size in x.shape[axis:]], float(node.attribute("epsilon", 1e-5))
    if list(scale.shape) == shape and (shift is None or list(shift.shape) == shape):
        return functional.layer_norm(x, shape, scale, shift, epsilon)
    scaled = functional.layer_norm(x, shape, eps=epsilon) * scale
    return scaled if shift is None else scaled + shift
