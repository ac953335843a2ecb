"""Values that the graph makes of sizes: counts, identities, triangles, codes."""

import math

import torch

from undue_service.models.limits import MAX_ROW_ELEMENTS, MAX_SHAPE_NUMBERS, too_large
from undue_service.models.onnx.element_types import torch_type
from undue_service.models.onnx.values import Integer, Node, Shape, Value
from undue_service.models.refusals import malformed


def require_room(node: Node, sizes: tuple[Integer, ...] | list[Integer] | torch.Size) -> None:
    """Refuse to make a value with more elements than a row may have.

    Raises:
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    count = math.prod(size for size in sizes if isinstance(size, int))
    if count > MAX_ROW_ELEMENTS:
        raise too_large(f"the number of elements that {node} makes", count, MAX_ROW_ELEMENTS)


def range_(node: Node) -> Value:
    """Y_i = start + i · step for i < ⌈(limit − start) / step⌉. Half precision is computed in float32 (Range-27)."""
    if all(isinstance(value, Shape) for value in node.inputs):
        (start,), (limit,), (step,) = (node.fixed(index) for index in range(3))
        if step == 0:
            raise malformed(f"{node} counts in steps of 0")
        counted = range(start, limit, step)
        require_room(node, [len(counted)])
        dtype = node.integers(0).dtype
        if len(counted) <= MAX_SHAPE_NUMBERS:
            return Shape.of(counted, dtype=dtype)
        return torch.arange(start, limit, step, dtype=dtype)
    begin = node.tensor(0)
    (first,), (last,), (step_,) = (node.floats(index) for index in range(3))
    if step_ == 0 or not all(map(math.isfinite, (first, last, step_))):
        raise malformed(f"{node} counts from {first} to {last} in steps of {step_}")
    count = max(0, math.ceil((last - first) / step_))
    require_room(node, [count])
    wide = torch.float32 if begin.dtype in (torch.float16, torch.bfloat16) else begin.dtype
    numbers = torch.arange(count, dtype=wide) * torch.tensor(step_, dtype=wide) + torch.tensor(first, dtype=wide)
    return numbers.to(begin.dtype)


def eye_like(node: Node) -> torch.Tensor:
    """Y = 1 on the k-th diagonal and 0 elsewhere, in the shape of a matrix X and its type unless `dtype` is given."""
    x, diagonal = node.tensor(0), int(node.attribute("k", 0))
    if x.dim() != 2:
        raise malformed(f"{node} takes the shape of a matrix, not of a value of rank {x.dim()}")
    node.keep_rows_apart(x, [0, 1], "tells the rows apart by their number")
    code = node.attribute("dtype", 0)
    dtype = torch_type(int(code), f"{node} makes") if code else x.dtype
    rows, columns = (torch.arange(int(size), device=x.device) for size in x.shape)
    return (columns.unsqueeze(0) - rows.unsqueeze(1) == diagonal).to(dtype)


def triangle(node: Node) -> torch.Tensor:
    """Y = X with zeros below the k-th diagonal of its last two axes, above it unless `upper`."""
    x = node.tensor(0)
    if x.dim() < 2:
        raise malformed(f"{node} takes a triangle of a value of rank {x.dim()}")
    node.keep_rows_apart(x, [x.dim() - 2, x.dim() - 1], "tells the rows apart by their number")
    furthest = int(x.shape[-2]) + int(x.shape[-1])
    diagonal = node.fixed(1)[0] if node.value(1) is not None else 0
    diagonal = max(-furthest, min(furthest, diagonal))
    return torch.triu(x, diagonal) if node.attribute("upper", 1) else torch.tril(x, diagonal)


def one_hot(node: Node) -> torch.Tensor:
    """Y = values[1] where a new axis of `depth` elements counts the index, else values[0].

    Indices from −depth count from the end; any other has values[0] everywhere.
    """
    indices, values = node.tensor(0), node.tensor(2)
    depth = int(node.floats(1)[0])
    if depth < 1 or values.numel() != 2:
        raise malformed(f"{node} has the depth {depth} and {values.numel()} values; it takes a depth of 1 and 2 values")
    require_room(node, [*indices.shape, depth])
    axis = node.axis(int(node.attribute("axis", -1)), indices.dim() + 1)
    whole = indices.to(torch.int64)
    places = torch.where(whole < 0, whole + depth, whole).unsqueeze(axis)
    counted = torch.arange(depth, device=indices.device).reshape(
        [depth if place == axis else 1 for place in range(places.dim())]
    )
    return torch.where(places == counted, values.reshape(2)[1], values.reshape(2)[0])
