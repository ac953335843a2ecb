"""The rows of K linear heads, each over the same rows with some of its own moved.

R_k(Θ) = (1/n) [Σ_{i ∉ S_k} w_i ℓ(x̃_i Θ + o_i, y_i) + Σ_{i ∈ S_k} w_i ℓ(x̃'_ki Θ + o'_ki, y_i)] + ½ Σ l2 ∘ Θ², Θ (d, C)

S_k are the rows that attack k moves, and x̃' and o' what the model makes of them now.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.heads.block import HeadBlock, repeated
from undue_service.engine.heads.parts import Part, SharedPart
from undue_service.engine.heads.rows import HeadRows


@dataclass(frozen=True)
class Moved:
    """The rows that K attacks have moved, M each, as the heads see them."""

    rows: Tensor
    """Their numbers, (K, M) int64."""
    features: Tensor
    """x̃', (K, M, d) float64."""
    offsets: Tensor
    """o', (K, M, C) float64."""
    targets: Tensor
    """(K, M) or (K, M, C)."""
    weights: Tensor
    """w_i, (K, M) float64."""

    def of(self, at: Tensor) -> "Moved":
        """Return those of some attacks."""
        return Moved(self.rows[at], self.features[at], self.offsets[at], self.targets[at], self.weights[at])


class PerturbedRows:
    """The rows of K objectives, as `HeadObjectives` sees them; K = 1 with `moved` None are the unperturbed ones."""

    def __init__(self, unperturbed: HeadRows, moved: Moved | None) -> None:
        """Bind the unperturbed rows to what is different."""
        self._unperturbed = unperturbed
        self._moved = moved

    def __len__(self) -> int:
        return 1 if self._moved is None else len(self._moved.rows)

    @property
    def rows(self) -> int:
        """Return n."""
        return len(self._unperturbed)

    def parts(self, at: Tensor) -> Iterator[Part]:
        """Yield all rows in order, and then those that each objective has alone."""
        rows = None if self._moved is None else self._moved.rows[at]
        for block in self._unperturbed.blocks():
            yield SharedPart(block, repeated(block.targets, len(at)), _weights(block, rows, len(at), self.rows))
        if self._moved is not None:
            yield _Own(self._moved.of(at), self.rows)


class _Own:
    """The rows that each objective has alone; see Part."""

    def __init__(self, moved: Moved, n: int) -> None:
        self._moved = moved
        self.features = moved.features[0]
        self.targets = moved.targets.transpose(0, 1).flatten(0, 1)
        self.weights = moved.weights.T / n

    def project(self, theta: Tensor) -> Tensor:
        return torch.bmm(self._moved.features, theta.transpose(0, 1)).transpose(0, 1)

    def outputs(self, theta: Tensor) -> Tensor:
        return self.project(theta) + self._moved.offsets.transpose(0, 1)

    def gather(self, values: Tensor) -> Tensor:
        return torch.bmm(self._moved.features.transpose(1, 2), values.transpose(0, 1)).transpose(0, 1)


def _weights(block: HeadBlock, moved: Tensor | None, A: int, n: int) -> Tensor:
    """Return w_i/n, 0 where an objective has moved the row, (B, A)."""
    features = block.features
    own = features.new_full((len(features),), 1 / n) if block.weights is None else block.weights / n
    found = own[:, None].expand(-1, A).clone()
    if moved is not None:
        first, last = int(block.index[0]), int(block.index[-1])
        a, m = ((moved >= first) & (moved <= last)).nonzero(as_tuple=True)
        found[(moved[a, m] - first).to(found.device), a.to(found.device)] = 0
    return found
