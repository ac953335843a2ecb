"""`ai.onnx.ml`: linear models. Their coefficients were made inputs of the nodes by `lifting`.

A label is not computed: it is a constant almost everywhere. What onnxruntime makes of a single score is followed where
it means something, and refused where it ignores what the file says.
"""

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted, unsupported

Scores = tuple[None, torch.Tensor]


def linear_regressor(node: Node) -> torch.Tensor:
    """Y = X Wᵀ + b, W (targets, features) and b (targets)."""
    y = _linear(node)
    transform = _transform(node)
    if transform != "NONE" and y.shape[1] == 1:
        raise unsupported(f"{node} has one target and the post_transform {transform}, which onnxruntime ignores")
    return _transformed(node, y, transform)


def linear_classifier(node: Node) -> Scores:
    """Scores X Wᵀ + b, one for each class, after `post_transform`.

    Of two classes by one score s: (1 − s, s) without a transform, (σ(−s), σ(s)) by LOGISTIC. Where the file has the
    score and its negative: (−s, s), and (σ(−s), σ(s)). s alone where a following node picks it (see `probabilities`).
    """
    s, transform = _linear(node), _transform(node)
    if node.attribute("single", 0):
        return None, s
    if node.attribute("mirrored", 0):
        return None, _mirrored(s, transform)
    if s.shape[1] > 1:
        return None, _transformed(node, s, transform)
    if transform == "NONE":
        return None, torch.cat([1 - s, s], 1) if _classes(node) == 2 else s
    if transform == "LOGISTIC" and _classes(node) == 2:
        return None, two_classes(s)
    raise unsupported(f"{node} has one score and the post_transform {transform}, which onnxruntime ignores")


def vector_regressor(node: Node) -> torch.Tensor:
    """Y = X wᵀ + b of a linear kernel."""
    if node.attribute("one_class", 0):
        raise unsupported(f"{node} is a one-class model: it gives 1 or −1, which has no gradient")
    if _transform(node) != "NONE":
        raise unsupported(f"{node} has the post_transform {_transform(node)}, which onnxruntime ignores")
    return _linear(node)


def vector_classifier(node: Node) -> Scores:
    """Scores of a linear kernel. Of two classes (d, −d), d = X wᵀ + b: the label is the second class where d > 0.

    d alone where the model ends with it (see `probabilities`). Of more classes one for each pair, X w_ijᵀ + b_ij, or
    one for each class where there are no support vectors.
    """
    s, transform = _linear(node), _transform(node)
    if s.shape[1] == 1 and transform != "NONE":
        raise unsupported(f"{node} has one score and the post_transform {transform}, which is not supported")
    if node.attribute("pairs", 0) == 1:
        return None, s if node.attribute("single", 0) else torch.cat([s, -s], 1)
    return None, _transformed(node, s, transform)


def two_classes(s: torch.Tensor) -> torch.Tensor:
    """Return the probabilities (σ(−s), σ(s)) of one score (N, 1), as the softmax of (0, s) that they are."""
    return torch.softmax(torch.cat([torch.zeros_like(s), s], 1), 1)


def _mirrored(s: torch.Tensor, transform: str) -> torch.Tensor:
    if transform == "LOGISTIC":
        return two_classes(s)
    both = torch.cat([-s, s], 1)
    return both if transform == "NONE" else torch.softmax(both, 1)


def _linear(node: Node) -> torch.Tensor:
    x, weight, intercepts = node.tensor(0), node.tensor(1), node.optional(2)
    if x.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise malformed(f"{node} has {weight.shape[1]} features, its input the shape {tuple(x.shape)}")
    x = x.to(weight.dtype)
    if intercepts is None or len(intercepts) == len(weight):
        return functional.linear(x, weight, intercepts)
    return functional.linear(x, weight) + intercepts


def _transformed(node: Node, scores: torch.Tensor, transform: str) -> torch.Tensor:
    if transform == "NONE":
        return scores
    if transform == "LOGISTIC":
        return torch.sigmoid(scores)
    if transform == "SOFTMAX":
        return torch.softmax(scores, 1)
    raise unsupported(f"{node} has the post_transform {quoted(transform)}; supported are NONE, LOGISTIC and SOFTMAX")


def _transform(node: Node) -> str:
    return node.text("post_transform", "NONE")


def _classes(node: Node) -> int:
    return next((len(a.ints) + len(a.strings) for a in node.proto.attribute if a.name.startswith("classlabels")), 0)
