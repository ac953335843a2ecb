"""Where elements stand in order: the largest, the k largest, those that differ, those that are not zero."""

from collections.abc import Callable

import torch

from undue_service.models.onnx.values import Node, Operator, Shape, Value
from undue_service.models.refusals import malformed, unsupported

from .unsigned import ordered


def _argument(find: Callable[..., torch.Tensor]) -> Operator:
    def argument(node: Node) -> torch.Tensor:
        x = node.tensor(0)
        axis = node.axis(int(node.attribute("axis", 0)), x.dim())
        node.keep_rows_apart(x, [axis], "compares the rows")
        keep = bool(node.attribute("keepdims", 1))
        compared = ordered(x)
        if not node.attribute("select_last_index", 0):
            return find(compared, axis, keepdim=keep)
        return int(x.shape[axis]) - 1 - find(compared.flip(axis), axis, keepdim=keep)

    return argument


argument_of_maximum, argument_of_minimum = _argument(torch.argmax), _argument(torch.argmin)


def top_k(node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Y, I = the k largest elements along an axis, or the smallest, and where they stand.

    Of equal elements the first comes first. They are in order whether `sorted` asks for it or not.
    """
    x = node.tensor(0)
    axis = node.axis(int(node.attribute("axis", -1)), x.dim())
    node.keep_rows_apart(x, [axis], "chooses among the rows")
    count = node.attribute("k", 0) if node.opset < 10 else node.fixed(1)[0]
    largest = bool(node.attribute("largest", 1))
    if not 0 <= count <= int(x.shape[axis]):
        raise malformed(f"{node} chooses {count} of {x.shape[axis]} elements")
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, int(count)), places.narrow(axis, 0, int(count))


def unique(node: Node) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Y, I, J, N = the elements (slices along `axis`) that differ, where each stands first, which each is, how many.

    In order, or in that of appearance with `sorted` 0.
    """
    x, axis = node.tensor(0), node.attribute("axis", -1)
    if not any(attribute.name == "axis" for attribute in node.proto.attribute):
        x, place = x.reshape(-1), 0
    else:
        place = node.axis(int(axis), x.dim())
    refuse_sizes_of_data(node, x)
    compared = ordered(x.detach())
    found, which, counts = torch.unique(compared, sorted=True, return_inverse=True, return_counts=True, dim=place)
    positions = torch.arange(x.shape[place], device=x.device)
    first = torch.full((found.shape[place],), x.shape[place], device=x.device, dtype=torch.int64)
    first = first.scatter_reduce(0, which, positions, "amin")
    if not node.attribute("sorted", 1):
        order = torch.argsort(first)
        rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=x.device))
        first, counts, which = first[order], counts[order], rank[which]
    return x.index_select(place, first), first, which, counts


def non_zero(node: Node) -> Value:
    """Y = where X is not zero, (rank, number), in C order; a scalar has rank 0 and is one element or none."""
    value = node.value(0)
    if isinstance(value, Shape) and value.array.ndim:
        found = [list(axis) for axis in value.array.astype(bool).nonzero()]
        return Shape.of([int(place) for axis in found for place in axis], (value.array.ndim, len(found[0])))
    x = node.tensor(0)
    refuse_sizes_of_data(node, x)
    return torch.nonzero(x).t()


def refuse_sizes_of_data(node: Node, x: torch.Tensor) -> None:
    """Refuse a node that gives as many elements as the numbers of `x` say, where those are not known yet.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED.
    """
    node.keep_rows_apart(x, range(x.dim()), "chooses among the rows")
    if torch.compiler.is_compiling():
        raise unsupported(f"{node} gives as many elements as the data say; every size must be fixed but that of rows")
