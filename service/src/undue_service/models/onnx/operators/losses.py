"""Losses that a training graph ends in. Where they reduce over the rows they are for a fixed number of rows only."""

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted


def negative_log_likelihood_loss(node: Node) -> torch.Tensor:
    """Y = −weight[t] · X[row, t, …], t the target: one each, their sum, or their sum over the sum of the weights.

    Targets of `ignore_index` count for nothing.
    """
    return _loss(node, node.tensor(0))


def softmax_cross_entropy_loss(node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Y = the negative log-likelihood loss of log softmax(X) over axis 1; the second output is log softmax(X)."""
    log_probabilities = functional.log_softmax(node.tensor(0), 1)
    return _loss(node, log_probabilities), log_probabilities


def _loss(node: Node, log_probabilities: torch.Tensor) -> torch.Tensor:
    target, weight, reduction = node.tensor(1), node.optional(2), node.text("reduction", "mean")
    if reduction not in ("none", "sum", "mean"):
        raise malformed(f"{node} has the reduction {quoted(reduction)}")
    if log_probabilities.dim() < 2 or target.dim() != log_probabilities.dim() - 1:
        raise malformed(f"{node} has scores of rank {log_probabilities.dim()} and targets of rank {target.dim()}")
    node.keep_rows_apart(log_probabilities, range(1, log_probabilities.dim()), "takes the rows for classes")
    if reduction != "none":
        node.keep_rows_apart(log_probabilities, [0], f"gives the {reduction} over the rows")
    # Without the attribute, a number that is no class: whatever is out of range is an error then.
    ignored = int(node.attribute("ignore_index", -(2**31)))
    return functional.nll_loss(log_probabilities, target.long(), weight, ignore_index=ignored, reduction=reduction)
