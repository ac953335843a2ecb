"""Random projections of gradients: signs that keep inner products (Achlioptas 2003), drawn where they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .gradients import FactoredGradients
from .taps import Block, Dense, Part

_COLUMNS = 64
"""Drawn at once; the signs depend on it, so it never changes with memory."""


@dataclass(frozen=True)
class Projection:
    """R (P, k) of independent signs over √k: E (Rᵀg)·(Rᵀh) = g·h. For k ≥ P it is the identity, and k is P."""

    blocks: tuple[Block, ...]
    rank: int
    seed: int
    """Of the signs; the same seed draws the same ones, on any device."""

    @property
    def dim(self) -> int:
        """Return P."""
        return sum(block.numel for block in self.blocks)

    @property
    def features(self) -> int:
        """Return k."""
        return min(self.rank, self.dim)

    def __call__(self, gradients: FactoredGradients) -> Tensor:
        """Return g Rᵀ of each row, (B, k)."""
        if self.rank >= self.dim:
            return gradients.dense()
        found: Tensor | None = None
        for number, (block, part) in enumerate(zip(self.blocks, gradients.parts, strict=True)):
            plain = _written_down(part, self.rank)
            columns = [plain.dot(signs.to(block.positions.device)) for signs in self._signs(number, plain)]
            own = torch.cat(columns, dim=1)
            found = own if found is None else found.add_(own)
        return found.div_(self.rank**0.5)

    def dense(self) -> Tensor:
        """Return R, (P, k), in float64."""
        eye = torch.eye(self.dim, dtype=torch.float64, device=self.blocks[0].positions.device)
        parts = tuple(Dense(eye[:, block.positions]) for block in self.blocks)
        return self(FactoredGradients(self.blocks, parts))

    def _signs(self, number: int, like: Part) -> Iterator[Tensor]:
        """Yield the columns of a block in order, (q, ≤ 64) each."""
        dtype = like[:1].rows().dtype
        for start in range(0, self.rank, _COLUMNS):
            seed = (self.seed * 1_000_003 + number) * 1_000_003 + start
            generator = torch.Generator().manual_seed(seed % 2**63)
            shape = (self.blocks[number].numel, _COLUMNS)
            signs = torch.randint(2, shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
            yield signs[:, : self.rank - start].to(dtype)


def _written_down(part: Part, rank: int) -> Part:
    """Return a part whose rows are used as often as there are columns as rows, unless a row is one outer product."""
    single = not isinstance(part, Dense) and getattr(part, "single", False)
    return part if single or isinstance(part, Dense) or rank <= _COLUMNS else Dense(part.rows())
