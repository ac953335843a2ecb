"""Sums of products by Einstein's convention."""

import re
from collections import Counter

import torch

from undue_service.models.onnx.values import Node
from undue_service.models.refusals import malformed, quoted, unsupported

_TERM = r"[A-Za-z]*(?:\.\.\.[A-Za-z]*)?"
_EQUATION = re.compile(rf"{_TERM}(?:,{_TERM})*(?:->{_TERM})?")


def einsum(node: Node) -> torch.Tensor:
    """Y[output labels] = Σ over all other labels of the product of the inputs, as `equation` labels their axes.

    Without an output, its labels are `...` and those that occur once, in the order of ASCII.
    """
    equation = node.text("equation", "").replace(" ", "")
    tensors = [node.tensor(index) for index in range(len(node.inputs))]
    if not _EQUATION.fullmatch(equation):
        raise malformed(f"{node} has the equation {quoted(equation)}")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise malformed(f"{node} has {len(terms)} terms for {len(tensors)} inputs")
    if not arrow:
        counts = Counter(left.replace(",", "").replace(".", ""))
        output = ("..." if "..." in left else "") + "".join(sorted(x for x, times in counts.items() if times == 1))
    _keep_rows_apart(node, terms, output, tensors)
    return torch.einsum(f"{left}->{output}", *tensors)


def _keep_rows_apart(node: Node, terms: list[str], output: str, tensors: list[torch.Tensor]) -> None:
    """Require that the axes of the rows all have one label, which each term has once and the output keeps."""
    labels = set()
    for term, tensor in zip(terms, tensors, strict=True):
        before, dots, after = term.partition("...")
        axes = list(before) + [f".{i}" for i in range(len(before) + len(after) - tensor.dim(), 0)] * bool(dots)
        axes += list(after)
        if len(axes) != tensor.dim():
            raise malformed(f"{node} labels {len(axes)} axes of a value of rank {tensor.dim()}")
        found = [label for label, size in zip(axes, tensor.shape, strict=True) if isinstance(size, torch.SymInt)]
        if len(found) > 1:
            raise unsupported(f"{node} pairs rows with rows; a row's output must not depend on other rows")
        labels.update(found)
    kept = labels <= (set(output) | ({x for x in labels if x.startswith(".")} if "..." in output else set()))
    if len(labels) > 1 or not kept:
        raise unsupported(f"{node} sums over the rows or pairs them; a row's output must not depend on other rows")
