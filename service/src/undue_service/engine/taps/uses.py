"""How one node of a graph uses a parameter, and what that makes of the row's gradient.

A use is read at the node's output y: with δ = ∂f/∂y there, the gradient of the parameter through this use is linear in
δ. `prepare` is computed once a forward pass, `part` for every δ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, fx
from torch.nn import functional

from .parts import Dense, Lookup, Outer, Part
from .rows import Rows

Value = Callable[[fx.Node], Any]
"""The value of a node in one forward pass."""


class Use(Protocol):
    """One use of a parameter."""

    positions: Tensor
    """Where the parameter, laid flat, holds each coefficient of `part`: (G, O, I), (N, E) or any other shape."""
    output: fx.Node
    """y."""
    needs: tuple[fx.Node, ...]
    """Nodes whose values `prepare` reads."""

    def prepare(self, value: Value, B: int) -> Any:
        """Return what no δ changes."""

    def part(self, prepared: Any, delta: Tensor) -> Part:
        """Return the gradients for δ, of the shape of y."""


@dataclass(frozen=True)
class Product:
    """y = x Wᵀ over any number of positions."""

    positions: Tensor
    """(1, O, I)."""
    node: fx.Node
    output: fx.Node
    x: fx.Node
    x_rows: Rows
    y_rows: Rows
    is_vector: bool = False
    """Whether W is a vector, and y has no axis for its one output."""

    @property
    def needs(self) -> tuple[fx.Node, ...]:
        """See Use."""
        return (self.x,)

    def prepare(self, value: Value, B: int) -> Tensor:
        """Return x, (B, 1, T, I)."""
        x = value(self.x)
        return self.x_rows.first(x, B).reshape(B, 1, -1, x.shape[-1])

    def part(self, prepared: Tensor, delta: Tensor) -> Outer:
        """See Use."""
        B = len(prepared)
        delta = delta.unsqueeze(-1) if self.is_vector else delta
        return Outer(prepared, self.y_rows.first(delta, B).reshape(B, 1, -1, delta.shape[-1]))


@dataclass(frozen=True)
class Convolution:
    """y = x ∗ W of any dimension: a product with the patches that the kernel sees."""

    positions: Tensor
    """(G, O/G, I/G · kernel)."""
    node: fx.Node
    output: fx.Node
    x: fx.Node
    x_rows: Rows
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    """Before and after, of each axis."""
    dilation: tuple[int, ...]

    @property
    def needs(self) -> tuple[fx.Node, ...]:
        """See Use."""
        return (self.x,)

    def prepare(self, value: Value, B: int) -> Tensor:
        """Return the patches, (B, G, T, I/G · kernel)."""
        x = self.x_rows.first(value(self.x), B)
        G, d = self.positions.shape[0], len(self.kernel)
        x = functional.pad(x, [amount for sides in reversed(self.padding) for amount in sides])
        for axis, (size, stride, dilation) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True), 3):
            x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        k, C, places = x.shape[1], x.shape[2], x.shape[3 : 3 + d]
        x = x.reshape(B, k, G, C // G, *places, *self.kernel)
        # (B, G, k, places, C/G, kernel)
        order = (0, 2, 1, *range(4, 4 + d), 3, *range(4 + d, 4 + 2 * d))
        return x.permute(order).reshape(B, G, -1, self.positions.shape[2])

    def part(self, prepared: Tensor, delta: Tensor) -> Outer:
        """See Use."""
        B, G = prepared.shape[:2]
        delta = self.x_rows.first(delta, B).flatten(3)  # (B, k, O, places)
        delta = delta.reshape(B, delta.shape[1], G, -1, delta.shape[3]).permute(0, 2, 1, 4, 3)
        return Outer(prepared, delta.reshape(B, G, -1, delta.shape[4]))


@dataclass(frozen=True)
class Embedding:
    """y = W[ids]."""

    positions: Tensor
    """(N, E)."""
    node: fx.Node
    output: fx.Node
    ids: fx.Node
    ids_rows: Rows
    y_rows: Rows
    padding: int
    """The id whose row is not trained; −1 for none."""

    @property
    def needs(self) -> tuple[fx.Node, ...]:
        """See Use."""
        return (self.ids,)

    def prepare(self, value: Value, B: int) -> Tensor:
        """Return the ids, (B, T)."""
        return self.ids_rows.first(value(self.ids), B).reshape(B, -1).long()

    def part(self, prepared: Tensor, delta: Tensor) -> Lookup:
        """See Use."""
        B, (N, E) = len(prepared), self.positions.shape
        deltas = self.y_rows.first(delta, B).reshape(B, -1, E)
        return Lookup(prepared, deltas.masked_fill((prepared == self.padding)[:, :, None], 0), N)


@dataclass(frozen=True)
class Broadcast:
    """y = factor · p + …, or y = x ∘ p + …, with p broadcast: biases, scales, and the affine part of normalisation."""

    positions: Tensor
    """Aligned with y: one axis for each of y's, of size 1 where p is broadcast along it."""
    node: fx.Node
    output: fx.Node
    y_rows: Rows
    factor: float = 1.0
    multiplied: Callable[[Value], Tensor] | None = None
    """Returns x."""
    needs: tuple[fx.Node, ...] = ()

    def prepare(self, value: Value, B: int) -> tuple[int, Tensor | None]:
        """Return B and x."""
        return B, None if self.multiplied is None else self.multiplied(value)

    def part(self, prepared: tuple[int, Tensor | None], delta: Tensor) -> Dense:
        """See Use."""
        B, x = prepared
        delta = delta * self.factor if x is None else delta * x
        over = [axis for axis, size in enumerate(self.positions.shape) if size == 1 and axis != self.y_rows.axis]
        delta = delta.sum(dim=over, keepdim=True) if over else delta
        return Dense(self.y_rows.first(delta, B).sum(dim=1).reshape(B, -1))
