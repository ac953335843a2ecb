"""Some rows as a linear head sees them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class HeadBlock:
    """Some rows: f = x̃ Θ + offset for coefficients Θ (d, C)."""

    features: Tensor
    """x̃, (B, d)."""
    offsets: Tensor
    """What the outputs hold beside x̃ Θ: (B, C)."""
    targets: Tensor | None
    """(B,) or (B, C); None for a regression that is explained by its output."""
    weights: Tensor | None
    """w_i, (B,); None stands for ones."""
    index: Tensor
    """Row numbers, (B,)."""

    def project(self, coefficients: Tensor) -> Tensor:
        """Return x̃ Θ_k of K heads (d, K, C): (B, K, C)."""
        d, K, C = coefficients.shape
        return (self.features @ coefficients.reshape(d, K * C)).view(-1, K, C)

    def outputs(self, coefficients: Tensor) -> Tensor:
        """Return f of K heads (d, K, C): (B, K, C)."""
        return self.project(coefficients) + self.offsets[:, None, :]

    def gather(self, values: Tensor) -> Tensor:
        """Return Σ_i x̃_i ⊗ v_i of (B, K, C): (d, K, C)."""
        _, K, C = values.shape
        return (self.features.T @ values.reshape(-1, K * C)).view(-1, K, C)

    def parts(self, size: int) -> Iterator["HeadBlock"]:
        """Yield the rows, at most `size` at a time."""
        for start in range(0, len(self.index), size):
            yield self._taken(slice(start, start + size), slice(start, start + size))

    def at(self, places: Tensor) -> "HeadBlock":
        """Return some of the rows, by their places (B',) int64 in the block."""
        return self._taken(places.to(self.features.device), places)

    def _taken(self, here: Tensor | slice, index: Tensor | slice) -> "HeadBlock":
        return HeadBlock(
            self.features[here],
            self.offsets[here],
            None if self.targets is None else self.targets[here],
            None if self.weights is None else self.weights[here],
            self.index[index],
        )


def joined(blocks: Sequence[HeadBlock], index: Tensor) -> HeadBlock:
    """Return blocks, at least one, as one whose rows have the numbers `index`."""
    targets = [block.targets for block in blocks if block.targets is not None]
    weights = [block.weights for block in blocks if block.weights is not None]
    return HeadBlock(
        torch.cat([block.features for block in blocks]),
        torch.cat([block.offsets for block in blocks]),
        torch.cat(targets) if targets else None,
        torch.cat(weights) if weights else None,
        index,
    )


def repeated(targets: Tensor, K: int) -> Tensor:
    """Return the targets of K heads' outputs laid flat, (B · K,) or (B · K, C)."""
    return torch.repeat_interleave(targets, K, dim=0)
