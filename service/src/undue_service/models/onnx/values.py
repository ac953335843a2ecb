"""What flows along the edges of an ONNX graph while it is turned into torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx
import torch
from torch.nn import functional

from undue_service.models.refusals import quoted, unsupported

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

    def linear(self, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the product as one linear map, (…, in) → (…, out), of the parameter as stored."""
        return functional.linear(self.input, linear_weight(self.weight), bias)


@dataclass(frozen=True)
class Shape:
    """Integers: a shape, axes, or a single size. The batch size among them is a SymInt."""

    values: tuple[Integer, ...]
    is_scalar: bool = False


Value = torch.Tensor | Weight | Product | Shape


@dataclass(frozen=True)
class Node:
    """One node with its inputs looked up; an omitted optional input is None."""

    proto: onnx.NodeProto
    opset: int
    inputs: Sequence[Value | None]
    is_read_once: Callable[[str], bool] = field(repr=False)
    """Whether exactly one node reads the value of that name, and it is no output of the graph."""

    def attribute(self, name: str, default: int | float) -> int | float:
        """Return a numeric attribute."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                return attribute.f if attribute.type == onnx.AttributeProto.FLOAT else attribute.i
        return default

    def axes(self, name: str) -> tuple[int, ...] | None:
        """Return an attribute that is a list of integers, None where it is missing."""
        return next((tuple(a.ints) for a in self.proto.attribute if a.name == name), None)

    def value(self, index: int) -> Value | None:
        """Return one input, None where it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def tensor(self, index: int) -> torch.Tensor:
        """Return one input as floating-point numbers.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED, it is missing or holds integers.
        """
        value = self.value(index)
        if value is None or isinstance(value, Shape):
            raise unsupported(f"{self} computes with integers; only shapes may be integers")
        return dense(value)

    def integers(self, index: int) -> Shape:
        """Return one input as integers.

        Raises:
            InvalidArgument: MODEL_UNSUPPORTED, it depends on the data.
        """
        value = self.value(index)
        if not isinstance(value, Shape):
            raise unsupported(f"{self} takes a shape that depends on the data")
        return value

    def __str__(self) -> str:
        return f"{self.proto.op_type} {quoted(self.proto.name or ', '.join(self.proto.output))}"


Operator = Callable[[Node], Value]


def dense(value: torch.Tensor | Weight | Product) -> torch.Tensor:
    """Return a value as a tensor."""
    if isinstance(value, Product):
        return value.linear(None)
    return value.tensor if isinstance(value, Weight) else value


def linear_weight(weight: Weight) -> torch.Tensor:
    """Return a weight (in, out) as `torch.nn.functional.linear` takes it, (out, in), without transposing twice."""
    return weight.stored if weight.transposed else weight.stored.t()
