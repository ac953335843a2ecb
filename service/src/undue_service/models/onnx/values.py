"""What flows along the edges of an ONNX graph while it is turned into torch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Union

import numpy as np
import onnx
import torch
from torch.nn import functional

from undue_service.models.limits import MAX_SHAPE_NUMBERS, too_large
from undue_service.models.refusals import malformed, quoted, unsupported

Integer = int | torch.SymInt


@dataclass(frozen=True)
class Weight:
    """A parameter as it is stored, and whether the graph reads it transposed."""

    stored: torch.Tensor
    transposed: bool = False

    @property
    def columns(self) -> int:
        """The last axis of a 2-D weight as the graph reads it: the outputs of `x @ weight`."""
        return self.stored.shape[0 if self.transposed else 1]

    @property
    def tensor(self) -> torch.Tensor:
        """The parameter as the graph reads it."""
        return self.stored.t() if self.transposed else self.stored


@dataclass(frozen=True)
class Product:
    """`input @ weight` with a 2-D weight (in, out), kept apart until it is known whether a bias follows."""

    input: torch.Tensor
    weight: Weight

    @cached_property
    def alone(self) -> torch.Tensor:
        """The product without a bias, computed once however many nodes read it."""
        return self.linear(None)

    def linear(self, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the product as one linear map, (…, in) → (…, out), of the parameter as stored."""
        return functional.linear(self.input, linear_weight(self.weight), bias)


@dataclass(frozen=True, eq=False)
class Shape:
    """Integers that the graph computes with: shapes, axes, sizes, flags. The batch size among them is a SymInt."""

    array: np.ndarray
    """Of Python objects, so that NumPy moves them without looking at them."""
    dtype: torch.dtype = torch.int64
    """What they become as a tensor; a flag is 0 or 1 here and may be torch.bool there."""

    def __post_init__(self) -> None:
        if self.array.size > MAX_SHAPE_NUMBERS:
            raise too_large("the number of integers in a shape", self.array.size, MAX_SHAPE_NUMBERS)

    @classmethod
    def of(
        cls, values: Iterable[Integer], sizes: tuple[int, ...] | None = None, dtype: torch.dtype = torch.int64
    ) -> "Shape":
        """Return integers in C order as an array of the given sizes, a list where there are none."""
        listed = list(values)
        array = np.empty(len(listed), dtype=object)
        array[:] = listed
        return cls(array if sizes is None else array.reshape(sizes), dtype)

    @classmethod
    def from_numpy(cls, array: np.ndarray) -> "Shape":
        """Return the integers or flags of an array."""
        return cls.of(array.reshape(-1).tolist(), array.shape, getattr(torch, array.dtype.name))

    def moved(self, array: np.ndarray) -> "Shape":
        """Return the same integers in another arrangement."""
        return Shape(np.asarray(array, dtype=object), self.dtype)

    @property
    def values(self) -> tuple[Integer, ...]:
        """The integers in C order."""
        return tuple(self.array.reshape(-1))

    @property
    def number(self) -> Integer | None:
        """The single number that a scalar, or a list of one, stands for."""
        return self.values[0] if self.array.size == 1 else None


@dataclass(frozen=True, eq=False)
class Text:
    """Strings, which flow but are never computed with."""

    array: np.ndarray
    """Of Python strings."""


@dataclass(frozen=True, eq=False)
class Listed:
    """An ONNX sequence."""

    items: tuple["Value", ...]


@dataclass(frozen=True, eq=False)
class Maybe:
    """An ONNX optional: a tensor or a sequence, or nothing."""

    value: "Value | None"


Value = Union[torch.Tensor, Weight, Product, Shape, Text, Listed, Maybe]  # noqa: UP007 (names that come later)


@dataclass(frozen=True)
class Node:
    """One node with its inputs looked up; an omitted optional input is None."""

    proto: onnx.NodeProto
    opset: int
    """Of the node's own domain."""
    inputs: Sequence[Value | None]
    is_read_once: Callable[[str], bool] = field(repr=False)
    """Whether exactly one node reads the value of that name, and it is no output of the graph."""
    stored: Callable[[str], np.ndarray | None] = field(repr=False)
    """The numbers of a stored tensor, by name: they are known while the program is traced, the tensor's are not."""
    subgraph: Callable[[onnx.GraphProto], "Subgraph"] = field(repr=False)
    """A graph among the attributes, ready to be run where the node stands: it sees what the node sees."""

    def attribute(self, name: str, default: int | float) -> int | float:
        """Return a numeric attribute."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                return attribute.f if attribute.type == onnx.AttributeProto.FLOAT else attribute.i
        return default

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a string."""
        return next((a.s.decode(errors="replace") for a in self.proto.attribute if a.name == name), default)

    def texts(self, name: str) -> list[str]:
        """Return an attribute that is a list of strings, empty where it is missing."""
        return [s.decode(errors="replace") for a in self.proto.attribute if a.name == name for s in a.strings]

    def reals(self, name: str) -> list[float]:
        """Return an attribute that is a list of floating-point numbers, empty where it is missing."""
        return [number for a in self.proto.attribute if a.name == name for number in a.floats]

    def graph(self, name: str) -> "Subgraph":
        """Return an attribute that is a graph.

        Raises:
            InvalidArgument: MODEL_MALFORMED, it is missing.
        """
        for attribute in self.proto.attribute:
            if attribute.name == name and attribute.type == onnx.AttributeProto.GRAPH:
                return self.subgraph(attribute.g)
        raise malformed(f"{self} lacks the graph {name}")

    def axes(self, name: str) -> tuple[int, ...] | None:
        """Return an attribute that is a list of integers, None where it is missing."""
        return next((tuple(a.ints) for a in self.proto.attribute if a.name == name), None)

    def axes_since(self, opset: int, index: int, name: str = "axes") -> tuple[int, ...] | None:
        """Return axes that are an attribute before an opset and an input from then on, None where they are missing."""
        if self.opset < opset:
            return self.axes(name)
        return self.fixed(index) if self.value(index) is not None else None

    def value(self, index: int) -> Value | None:
        """Return one input, None where it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def tensor(self, index: int) -> torch.Tensor:
        """Return one input as a tensor; integers that are written into the graph become one.

        Raises:
            InvalidArgument: MODEL_MALFORMED where it is missing, MODEL_UNSUPPORTED where the number of rows is in it.
        """
        return self.as_tensor(self.required(index))

    def required(self, index: int) -> Value:
        """Return one input.

        Raises:
            InvalidArgument: MODEL_MALFORMED, it is missing.
        """
        value = self.value(index)
        if value is None:
            raise malformed(f"{self} lacks its input {index}")
        return value

    def as_tensor(self, value: Value) -> torch.Tensor:
        """Return a value as a tensor; the errors are those of `tensor`."""
        if isinstance(value, Shape):
            if not all(isinstance(size, int) for size in value.values):
                raise unsupported(f"{self} computes with the number of rows; a row must not depend on it")
            return torch.tensor(value.values, dtype=value.dtype).reshape(value.array.shape)
        if isinstance(value, Text | Listed | Maybe):
            raise unsupported(f"{self} computes with {_KINDS[type(value)]}, where numbers are supported")
        return dense(value)

    def optional(self, index: int) -> torch.Tensor | None:
        """Return one input as a tensor, None where it is omitted."""
        return None if self.value(index) is None else self.tensor(index)

    def operand(self, index: int) -> torch.Tensor | int:
        """Return one input for arithmetic: as a plain number where the graph holds it as one integer."""
        value = self.value(index)
        if isinstance(value, Shape) and value.array.ndim == 0 and isinstance(value.number, int):
            return value.number
        return self.tensor(index)

    def integers(self, index: int) -> Shape:
        """Return one input as integers.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED, it depends on the data, and the data are not known yet.
        """
        value = self.value(index)
        if isinstance(value, Shape):
            return value
        tensor = self.tensor(index)
        if tensor.dtype.is_floating_point or not is_known(tensor):
            raise unsupported(f"{self} takes a shape that depends on the data")
        if tensor.numel() > MAX_SHAPE_NUMBERS:
            raise too_large("the number of integers in a shape", tensor.numel(), MAX_SHAPE_NUMBERS)
        return Shape.of(tensor.reshape(-1).tolist(), tuple(tensor.shape), tensor.dtype)

    def fixed(self, index: int) -> tuple[int, ...]:
        """Return one input as integers that do not depend on the number of rows.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED.
        """
        values = self.integers(index).values
        if not all(isinstance(size, int) for size in values):
            raise unsupported(f"{self} depends on the number of rows")
        return tuple(int(size) for size in values)

    def floats(self, index: int) -> tuple[float, ...]:
        """Return one input as numbers that the graph holds, or that were computed already.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED, they depend on the data, and the data are not known yet.
        """
        if isinstance(self.value(index), Shape):
            return tuple(float(number) for number in self.fixed(index))
        found = self.stored(self.proto.input[index]) if index < len(self.proto.input) else None
        if found is not None:
            return tuple(float(number) for number in found.reshape(-1))
        tensor = self.tensor(index)
        if not is_known(tensor):
            raise unsupported(f"{self} takes numbers as its input {index} that depend on the data")
        return tuple(float(number) for number in tensor.detach().reshape(-1).tolist())

    def flag(self, index: int) -> bool:
        """Return one input as a condition.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED, it depends on the data, and the data are not known yet.
        """
        values = self.fixed(index)
        if len(values) != 1:
            raise malformed(f"{self} takes one condition as its input {index}, not {len(values)}")
        return bool(values[0])

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front.

        Raises:
            InvalidArgument: MODEL_MALFORMED, there is no such axis.
        """
        if not -rank <= axis < rank:
            raise malformed(f"{self} names axis {axis} of a value of rank {rank}")
        return axis % rank

    def keep_rows_apart(self, x: torch.Tensor, axes: Iterable[int], does: str) -> None:
        """Refuse to work along an axis of `x` that holds the rows.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED.
        """
        if any(isinstance(x.shape[axis], torch.SymInt) for axis in axes):
            raise unsupported(f"{self} {does}; a row's output must not depend on other rows")

    def __str__(self) -> str:
        return f"{self.proto.op_type} {quoted(self.proto.name or ', '.join(self.proto.output))}"


Operator = Callable[[Node], Value | tuple[Value | None, ...]]
"""Returns the one output, or all that there are, in order; None for one that it does not compute."""


@dataclass(frozen=True)
class Subgraph:
    """A graph that a node runs, any number of times."""

    proto: onnx.GraphProto
    run: Callable[[Sequence[Value]], tuple[Value, ...]] = field(repr=False)
    """Values of the graph's inputs, in order, to those of its outputs."""


_KINDS = {Text: "strings", Listed: "a sequence", Maybe: "an optional"}


def is_known(tensor: torch.Tensor) -> bool:
    """Return whether a tensor's numbers can be looked at: not while a program is traced, nor under vmap or grad."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and not (
        torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def dense(value: torch.Tensor | Weight | Product) -> torch.Tensor:
    """Return a value as a tensor."""
    if isinstance(value, Product):
        return value.alone
    return value.tensor if isinstance(value, Weight) else value


def as_type(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in a type. Where they have it already, nothing is traced: a parameter keeps its plain uses."""
    return x if x.dtype == dtype else x.to(dtype)


def linear_weight(weight: Weight) -> torch.Tensor:
    """Return a weight (in, out) as `torch.nn.functional.linear` takes it, (out, in), without transposing twice."""
    return weight.stored if weight.transposed else weight.stored.t()
