"""Sequences and optionals: containers that exporters put tensors into and take them out of again."""

from collections.abc import Iterable

import torch

from undue_service.models.onnx.element_types import torch_type
from undue_service.models.onnx.values import Listed, Maybe, Node, Shape, Value
from undue_service.models.refusals import malformed, unsupported


def sequence_empty(node: Node) -> Listed:
    """Y = a sequence without elements. Its type, `dtype`, says nothing yet."""
    torch_type(int(node.attribute("dtype", 1)), f"{node} is a sequence of")
    return Listed(())


def sequence_construct(node: Node) -> Listed:
    """Y = the inputs as a sequence."""
    return Listed(tuple(node.required(index) for index in range(len(node.inputs))))


def sequence_length(node: Node) -> Shape:
    """Y = the number of elements."""
    return Shape.of([len(_listed(node, 0).items)], ())


def sequence_at(node: Node) -> Value:
    """Y = the element at a place; a negative place counts from the end."""
    items = _listed(node, 0).items
    return items[_place(node, 1, len(items))]


def sequence_insert(node: Node) -> Listed:
    """Y = the sequence with X before a place, at the end where none is given."""
    items, x = list(_listed(node, 0).items), node.required(1)
    # The place may be one after the last, and −n is the first of n elements.
    place = len(items) if node.value(2) is None else _number(node, 2)
    if not -len(items) <= place <= len(items):
        raise malformed(f"{node} inserts at {place} into {len(items)} elements")
    items.insert(place, x)
    return Listed(tuple(items))


def sequence_erase(node: Node) -> Listed:
    """Y = the sequence without the element at a place, the last where none is given."""
    items = list(_listed(node, 0).items)
    del items[len(items) - 1 if node.value(1) is None and items else _place(node, 1, len(items))]
    return Listed(tuple(items))


def sequence_map(node: Node) -> tuple[Value, ...]:
    """Y = the body applied to each element of the first sequence; other sequences go along, tensors stay the same."""
    body, length = node.graph("body"), len(_listed(node, 0).items)
    others = [node.required(index) for index in range(len(node.inputs))]
    if any(isinstance(value, Listed) and len(value.items) != length for value in others):
        raise malformed(f"{node} maps sequences of different lengths")
    found = [body.run([v.items[i] if isinstance(v, Listed) else v for v in others]) for i in range(length)]
    return tuple(Listed(tuple(row[place] for row in found)) for place in range(len(body.proto.output)))


def split_to_sequence(node: Node) -> Listed:
    """Y = X in parts along an axis: of one size (the last may be smaller), of given sizes, or of single slices."""
    x = node.tensor(0)
    axis = node.axis(int(node.attribute("axis", 0)), x.dim())
    node.keep_rows_apart(x, [axis], "splits the rows")
    if node.value(1) is None:
        parts = torch.split(x, 1, axis)
        # Without given sizes only, keepdims = 0 drops the axis.
        return Listed(parts if node.attribute("keepdims", 1) else tuple(part.squeeze(axis) for part in parts))
    sizes, is_one = node.fixed(1), node.integers(1).array.ndim == 0
    if any(size < (1 if is_one else 0) for size in sizes) or (not is_one and sum(sizes) != x.shape[axis]):
        raise malformed(f"{node} splits {x.shape[axis]} slices into parts of {sizes}")
    return Listed(torch.split(x, sizes[0] if is_one else list(sizes), axis))


def concat_from_sequence(node: Node) -> torch.Tensor:
    """Y = the elements one after the other along an axis, or along a new one where `new_axis` is 1."""
    tensors = list(_tensors(node, _listed(node, 0).items))
    axis, is_new = int(node.attribute("axis", 0)), bool(node.attribute("new_axis", 0))
    if not tensors:
        raise unsupported(f"{node} joins a sequence without elements")
    place = node.axis(axis, tensors[0].dim() + is_new)
    if is_new:
        return torch.stack(tensors, place)
    for tensor in tensors:
        node.keep_rows_apart(tensor, [place], "joins along the rows")
    return torch.cat(tensors, place)


def optional(node: Node) -> Maybe:
    """Y = an optional that holds X, or nothing where there is no input."""
    return Maybe(node.value(0) if node.inputs else None)


def optional_has_element(node: Node) -> Shape:
    """Y = whether the optional holds anything; a tensor or a sequence does, an input that is omitted does not."""
    value = node.value(0) if node.inputs else None
    held = value.value if isinstance(value, Maybe) else value
    return Shape.of([int(held is not None)], (), torch.bool)


def optional_get_element(node: Node) -> Value:
    """Y = what the optional holds."""
    value = node.required(0)
    held = value.value if isinstance(value, Maybe) else value
    if held is None:
        raise malformed(f"{node} takes from an optional that holds nothing")
    return held


def _listed(node: Node, index: int) -> Listed:
    value = node.required(index)
    value = value.value if isinstance(value, Maybe) else value
    if not isinstance(value, Listed):
        raise malformed(f"{node} takes a sequence as its input {index}")
    return value


def _tensors(node: Node, items: Iterable[Value]) -> Iterable[torch.Tensor]:
    return (node.as_tensor(item) for item in items)


def _number(node: Node, index: int) -> int:
    numbers = node.fixed(index)
    if len(numbers) != 1:
        raise malformed(f"{node} takes one place, not {len(numbers)}")
    return numbers[0]


def _place(node: Node, index: int, length: int) -> int:
    place = _number(node, index)
    if not -length <= place < length:
        raise malformed(f"{node} takes the element {place} of {length}")
    return place
