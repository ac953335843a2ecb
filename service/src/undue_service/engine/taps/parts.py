"""The gradients of B rows in the coefficients of one block of θ, in the form in which they are small."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

_CHUNK = 2**22
"""Numbers that an intermediate value of these products has at most, where a row has fewer."""


@dataclass(frozen=True)
class Block:
    """Some coefficients of θ, alike in L2: a weight with its bias, or one parameter."""

    names: tuple[str, ...]
    """Of the parameters."""
    kind: Literal["outer", "lookup", "dense"]
    shape: tuple[int, ...]
    """(G, O, I) of a weight, the bias being its last column; (N, E) of a table; (p,) of anything else."""
    positions: Tensor
    """Where θ holds the coefficients, (numel,) int64."""
    l2: float
    """Of each of them."""
    has_bias: bool = False

    @property
    def numel(self) -> int:
        """Return the number of coefficients."""
        return len(self.positions)

    def take(self, V: Tensor) -> Tensor:
        """Return the block's part of (P, …), (numel, …)."""
        return V.index_select(0, self.positions)

    def put(self, values: Tensor, into: Tensor) -> None:
        """Write the block's part (numel, …) of (P, …)."""
        into.index_copy_(0, self.positions, values)


class Part(Protocol):
    """The gradients of B rows in the q coefficients of a block, in the order of the block."""

    def __len__(self) -> int:
        """Return B."""

    def __getitem__(self, rows: slice) -> "Part":
        """Return those of some rows."""

    def dot(self, V: Tensor) -> Tensor:
        """Return the inner products with columns V (q, K): (B, K)."""

    def squares(self) -> Tensor:
        """Return the squared norms, (B,)."""

    def total(self, weights: Tensor | None) -> Tensor:
        """Return the weighted sum, (q,); the weights are (B,), None stands for ones."""

    def rows(self) -> Tensor:
        """Return the gradients, (B, q)."""


@dataclass(frozen=True)
class Dense:
    """Gradients as they are."""

    values: Tensor
    """(B, q)."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> "Dense":
        return Dense(self.values[rows])

    def dot(self, V: Tensor) -> Tensor:
        """See Part."""
        return self.values @ V

    def squares(self) -> Tensor:
        """See Part."""
        return self.values.square().sum(dim=1)

    def total(self, weights: Tensor | None) -> Tensor:
        """See Part."""
        return self.values.sum(dim=0) if weights is None else weights @ self.values

    def rows(self) -> Tensor:
        """See Part."""
        return self.values


@dataclass(frozen=True)
class Outer:
    """Gradients Σ_t δ_t x_tᵀ of a weight (G, O, I): G groups of O outputs and I inputs, over T positions."""

    inputs: Tensor
    """x, (B, G, T, I)."""
    deltas: Tensor
    """δ, (B, G, T, O)."""

    @property
    def single(self) -> bool:
        """Whether a row is one outer product."""
        return self.inputs.shape[1] == 1 and self.inputs.shape[2] == 1

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: slice) -> "Outer":
        return Outer(self.inputs[rows], self.deltas[rows])

    def dot(self, V: Tensor) -> Tensor:
        """See Part. T outer products a row cost T·K as factors, T + K where they are added up first."""
        _, G, T, I = self.inputs.shape  # noqa: E741
        O, K = self.deltas.shape[3], V.shape[1]  # noqa: E741
        if G * T == 1:
            # The longer factor first: what is left is the smaller.
            near, far = (self.inputs, self.deltas) if I >= O else (self.deltas, self.inputs)
            W = V.view(O, I, K) if I >= O else V.view(O, I, K).transpose(0, 1)
            return torch.cat([_contracted(near[:, 0, 0], far[:, 0, 0], part) for part in _columns(W, len(self))], dim=1)
        return torch.cat([part.rows() @ V for part in chunks(self, G * O * I)])

    def squares(self) -> Tensor:
        """See Part."""
        T, I, O = self.inputs.shape[2], self.inputs.shape[3], self.deltas.shape[3]  # noqa: E741
        if T == 1:
            lengths = [torch.linalg.vector_norm(factor, dim=3) for factor in (self.inputs, self.deltas)]
            return (lengths[0] * lengths[1]).square().sum(dim=(1, 2))
        if T * (I + O) < I * O:
            return torch.cat([_gram_squares(part) for part in chunks(self, self.inputs.shape[1] * T * T)])
        return torch.cat([part.rows().square().sum(dim=1) for part in chunks(self, self.inputs.shape[1] * I * O)])

    def total(self, weights: Tensor | None) -> Tensor:
        """See Part."""
        deltas = self.deltas if weights is None else self.deltas * weights[:, None, None, None]
        right = self.inputs.transpose(0, 1).flatten(1, 2)
        return (deltas.transpose(0, 1).flatten(1, 2).mT @ right).reshape(-1)

    def rows(self) -> Tensor:
        """See Part."""
        return (self.deltas.mT @ self.inputs).flatten(1)


@dataclass(frozen=True)
class Lookup:
    """Gradients of a table (N, E) in which each row looks T ids up: Σ_t e_{id_t} δ_tᵀ."""

    ids: Tensor
    """(B, T) int64."""
    deltas: Tensor
    """(B, T, E)."""
    entries: int
    """N."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> "Lookup":
        return Lookup(self.ids[rows], self.deltas[rows], self.entries)

    def dot(self, V: Tensor) -> Tensor:
        """See Part."""
        E, K = self.deltas.shape[2], V.shape[1]
        table = V.reshape(self.entries, E, K)
        return torch.cat(
            [
                torch.einsum("bte,btek->bk", part.deltas, table[part.ids])
                for part in chunks(self, self.ids.shape[1] * E * K)
            ]
        )

    def squares(self) -> Tensor:
        """See Part."""
        return torch.cat(
            [
                ((part.deltas @ part.deltas.mT) * (part.ids[:, :, None] == part.ids[:, None, :])).sum(dim=(1, 2))
                for part in chunks(self, 2 * self.ids.shape[1] ** 2)
            ]
        )

    def total(self, weights: Tensor | None) -> Tensor:
        """See Part."""
        deltas = self.deltas if weights is None else self.deltas * weights[:, None, None]
        table = deltas.new_zeros(self.entries, deltas.shape[2])
        return table.index_add_(0, self.ids.reshape(-1), deltas.flatten(0, 1)).reshape(-1)

    def rows(self) -> Tensor:
        """See Part."""
        B, E = len(self), self.deltas.shape[2]
        tables = self.deltas.new_zeros(B * self.entries, E)
        at = self.ids + self.entries * torch.arange(B, device=self.ids.device)[:, None]
        return tables.index_add_(0, at.reshape(-1), self.deltas.flatten(0, 1)).view(B, -1)


def gram(one: Part, other: Part, factor: float = 1.0, added_to: Tensor | None = None) -> Tensor:
    """Return `factor` times the inner products of the rows of two parts of one block, (B, B'), in the cheapest way.

    Args:
        one: B rows.
        other: B' rows.
        factor: of each product.
        added_to: written to and returned, with the products added, where there is one.
    """
    if isinstance(one, Outer) and isinstance(other, Outer) and one.single and other.single:
        inputs, deltas = one.inputs[:, 0, 0] @ other.inputs[:, 0, 0].T, one.deltas[:, 0, 0] @ other.deltas[:, 0, 0].T
        if added_to is not None:
            return added_to.addcmul_(inputs, deltas, value=factor)
        return inputs.mul_(deltas).mul_(factor)
    found = _gram(one, other)
    return found.mul_(factor) if added_to is None else added_to.add_(found, alpha=factor)


def _gram(one: Part, other: Part) -> Tensor:
    if isinstance(one, Outer) and isinstance(other, Outer):
        (B, G, T, I), (B_, _, T_, _), O = one.inputs.shape, other.inputs.shape, one.deltas.shape[3]  # noqa: E741
        added_up = (B * T + B_ * T_) * I * O + B * B_ * I * O
        if added_up > B * B_ * T * T_ * (I + O):
            return torch.cat([_factored_gram(part, other) for part in chunks(one, 2 * G * B_ * T * T_)])
    if isinstance(one, Dense) and not isinstance(other, Dense):
        return _gram(other, one).T
    numel = other.values.shape[1] if isinstance(other, Dense) else len(other[:1].rows()[0])
    return torch.cat([one.dot(part.rows().T) for part in chunks(other, numel)], dim=1)


def added(parts: Sequence[Part]) -> Part:
    """Return the sum of gradients of the same rows in the same block."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if all(isinstance(part, Outer) for part in parts):
        return Outer(*(torch.cat([getattr(part, name) for part in parts], dim=2) for name in ("inputs", "deltas")))
    if all(isinstance(part, Lookup) for part in parts):
        ids, deltas = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("ids", "deltas"))
        return Lookup(ids, deltas, first.entries)
    return Dense(sum(part.rows() for part in parts))


def chunks(part: Part, row_numel: int) -> Iterator[Part]:
    """Yield some rows at a time, so that `row_numel` numbers a row stay few."""
    size = max(1, _CHUNK // max(1, row_numel))
    for start in range(0, len(part), size):
        yield part[start : start + size]


def _columns(W: Tensor, B: int) -> Iterator[Tensor]:
    """Yield some of the columns of W (F, N, K) at a time, so that B·F·K stays small."""
    size = max(1, _CHUNK // max(1, B * W.shape[0]))
    for start in range(0, W.shape[2], size):
        yield W[:, :, start : start + size]


def _contracted(near: Tensor, far: Tensor, W: Tensor) -> Tensor:
    """Return Σ_fn far_bf W_fnk near_bn, (B, K), with near (B, N), far (B, F) and W (F, N, K)."""
    F, N, K = W.shape
    if K == 1:
        return ((near @ W[:, :, 0].T) * far).sum(dim=1, keepdim=True)
    projected = (near @ W.transpose(0, 1).reshape(N, F * K)).view(-1, F, K)
    return torch.bmm(far[:, None, :], projected)[:, 0, :]


def _gram_squares(part: Outer) -> Tensor:
    return ((part.inputs @ part.inputs.mT) * (part.deltas @ part.deltas.mT)).sum(dim=(1, 2, 3))


def _factored_gram(one: Outer, other: Outer) -> Tensor:
    (B, G, T, _), (B_, _, T_, _) = one.inputs.shape, other.inputs.shape

    def products(left: Tensor, right: Tensor) -> Tensor:
        return left.transpose(0, 1).flatten(1, 2) @ right.transpose(0, 1).flatten(1, 2).mT

    both = products(one.inputs, other.inputs) * products(one.deltas, other.deltas)
    return both.view(G, B, T, B_, T_).sum(dim=(0, 2, 4))
