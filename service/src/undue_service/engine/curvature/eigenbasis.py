"""An orthonormal basis for each block of θ, in which EK-FAC is diagonal."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from undue_service.engine.taps import Dense, Lookup, Outer, Part
from undue_service.engine.taps.parts import chunks


class Basis(Protocol):
    """An orthonormal basis of a block's q coefficients."""

    def rotated(self, part: Part) -> Part:
        """Return gradients in the basis' coordinates."""

    def to_basis(self, V: Tensor) -> Tensor:
        """Return columns V (q, K) in the basis' coordinates, (q, K)."""

    def from_basis(self, V: Tensor) -> Tensor:
        """Return columns (q, K) given in the basis' coordinates, (q, K)."""


@dataclass(frozen=True)
class OuterBasis:
    """Q_S ⊗ Q_A of a weight (G, O, I), group by group."""

    outputs: Tensor
    """Q_S, (G, O, O), eigenvectors as columns."""
    inputs: Tensor
    """Q_A, (G, I, I)."""

    def rotated(self, part: Part) -> Part:
        """See Basis."""
        if isinstance(part, Outer):
            return Outer(part.inputs @ self.inputs[None], part.deltas @ self.outputs[None])
        return Dense(self.to_basis(part.rows().T).T)

    def to_basis(self, V: Tensor) -> Tensor:
        """See Basis."""
        return self._turned(V, self.outputs.mT, self.inputs)

    def from_basis(self, V: Tensor) -> Tensor:
        """See Basis."""
        return self._turned(V, self.outputs, self.inputs.mT)

    def _turned(self, V: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Return left V_k right of each column as a matrix (G, O, I)."""
        G, O, I = left.shape[0], left.shape[1], right.shape[1]  # noqa: E741
        columns = V.T.reshape(-1, G, O, I)
        return (left @ (columns @ right)).reshape(len(columns), -1).T


@dataclass(frozen=True)
class LookupBasis:
    """I ⊗ Q_S of a table (N, E): the covariance of one-hot inputs is diagonal already."""

    outputs: Tensor
    """Q_S, (E, E)."""

    def rotated(self, part: Part) -> Part:
        """See Basis."""
        if isinstance(part, Lookup):
            return Lookup(part.ids, part.deltas @ self.outputs, part.entries)
        return Dense(self.to_basis(part.rows().T).T)

    def to_basis(self, V: Tensor) -> Tensor:
        """See Basis."""
        return self._turned(V, self.outputs)

    def from_basis(self, V: Tensor) -> Tensor:
        """See Basis."""
        return self._turned(V, self.outputs.T)

    def _turned(self, V: Tensor, right: Tensor) -> Tensor:
        return (V.T.reshape(V.shape[1], -1, len(right)) @ right).reshape(V.shape[1], -1).T


@dataclass(frozen=True)
class DenseBasis:
    """The eigenvectors of a block's own Gauss–Newton matrix; the axes where that is too large to be written down."""

    vectors: Tensor | None
    """(p, p), as columns."""

    def rotated(self, part: Part) -> Part:
        """See Basis."""
        return Dense(self.to_basis(part.rows().T).T)

    def to_basis(self, V: Tensor) -> Tensor:
        """See Basis."""
        return V if self.vectors is None else self.vectors.T @ V

    def from_basis(self, V: Tensor) -> Tensor:
        """See Basis."""
        return V if self.vectors is None else self.vectors @ V


def sum_of_squares(part: Part) -> Tensor:
    """Return Σ_i g_i² of each coefficient, (q,)."""
    if isinstance(part, Outer) and part.inputs.shape[2] == 1:
        deltas, inputs = part.deltas[:, :, 0].square(), part.inputs[:, :, 0].square()
        return (deltas.permute(1, 2, 0) @ inputs.transpose(0, 1)).reshape(-1)
    if isinstance(part, Lookup):
        table = part.deltas.new_zeros(part.entries, part.deltas.shape[2])
        for piece in _pieces(part):
            table.index_add_(0, piece.ids.reshape(-1), _squares_by_id(piece).flatten(0, 1))
        return table.reshape(-1)
    return sum(piece.rows().square().sum(dim=0) for piece in _pieces(part))


def weighted_squares(part: Part, weights: Tensor) -> Tensor:
    """Return Σ_q weights_q g_iq² of each row, (B,)."""
    if isinstance(part, Outer) and part.single:
        deltas, inputs = part.deltas[:, 0, 0].square(), part.inputs[:, 0, 0].square()
        return ((deltas @ weights.view(deltas.shape[1], -1)) * inputs).sum(dim=1)
    if isinstance(part, Lookup):
        table = weights.view(part.entries, -1)
        return torch.cat([(_squares_by_id(piece) * table[piece.ids]).sum(dim=(1, 2)) for piece in _pieces(part)])
    return torch.cat([piece.rows().square() @ weights for piece in _pieces(part)])


def _squares_by_id(part: Lookup) -> Tensor:
    """Return, at each place t, (Σ_s [id_s = id_t] δ_s)² over how often the row looks that id up: (B, T, E)."""
    same = (part.ids[:, :, None] == part.ids[:, None, :]).to(part.deltas.dtype)
    return (same @ part.deltas).square() / same.sum(dim=2, keepdim=True)


def _pieces(part: Part) -> list[Part]:
    numel = 0
    if isinstance(part, Outer):
        numel = part.inputs.shape[1] * part.inputs.shape[3] * part.deltas.shape[3]
    elif isinstance(part, Lookup):
        numel = 2 * part.ids.shape[1] ** 2
    return list(chunks(part, numel))
