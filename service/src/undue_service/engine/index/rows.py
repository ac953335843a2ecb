"""Training rows as an index holds them: what screening reads of each, and what bounds its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .quantised import Columns

BLOCK = 4096
"""Rows that are screened at once."""


@dataclass(frozen=True)
class RowBlock:
    """Some rows, in the order in which they were encoded."""

    rows: Tensor
    """Their numbers in the index, (B,) int64."""
    keys: Tensor
    """w_i √(∇ℓ_iᵀ (curvature + λI)⁻¹ ∇ℓ_i), (B,) float32: |score(i, t)| ≤ key_i · key_t / n (Cauchy–Schwarz)."""
    scales: Tensor
    """w_i times the size of the row in each part of the layout, (parts, B) float32."""
    numbers: tuple[Tensor, ...]
    """Of each part its int8 numbers: δ̃ and ã of each region with factors, then the coefficients; (B, k) each."""
    residuals: Tensor | None
    """r̃_i of a linear head, corrected for leverage, (B, C); None where no row is corrected."""
    reference: Tensor
    """Scores for the rows that recall is measured with, (B, R) float32."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what `of` needs, by name."""
        found = {"rows": self.rows, "keys": self.keys, "scales": self.scales, "reference": self.reference}
        found |= {f"numbers.{place}": one for place, one in enumerate(self.numbers)}
        return found if self.residuals is None else found | {"residuals": self.residuals}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "RowBlock":
        """Return the rows again that `tensors` describes."""
        numbers = _numbered(tensors)
        names = ("rows", "keys", "scales")
        known = {name: tensors[name] for name in names}
        return cls(**known, numbers=numbers, residuals=tensors.get("residuals"), reference=tensors["reference"])


@dataclass(frozen=True)
class Shard:
    """Many rows, those whose scores can be largest first."""

    rows: Tensor
    """(n,) int64."""
    keys: Tensor
    """(n,) float32, descending."""
    scales: Tensor
    """(parts, n) float32."""
    numbers: tuple[Columns, ...]
    residuals: Tensor | None
    """(n, C)."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Return the bytes of its numbers."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @classmethod
    def of(cls, blocks: Sequence[RowBlock]) -> "Shard":
        """Sort rows by their keys, ties by their numbers."""
        return _sorted(
            torch.cat([block.rows for block in blocks]),
            torch.cat([block.keys for block in blocks]),
            torch.cat([block.scales for block in blocks], dim=1),
            [torch.cat(parts) for parts in zip(*(block.numbers for block in blocks), strict=True)],
            _joined([block.residuals for block in blocks]),
        )

    @classmethod
    def joined(cls, shards: Sequence["Shard"]) -> "Shard":
        """Merge shards of one index."""
        return _sorted(
            torch.cat([shard.rows for shard in shards]),
            torch.cat([shard.keys for shard in shards]),
            torch.cat([shard.scales for shard in shards], dim=1),
            [
                torch.cat([one.rows(BLOCK) for one in parts])
                for parts in zip(*(shard.numbers for shard in shards), strict=True)
            ],
            _joined([shard.residuals for shard in shards]),
        )

    def without(self, rows: Tensor) -> "Shard":
        """Return it without some rows, by their numbers (e,): no number that was made of them is left."""
        kept = ~torch.isin(self.rows, rows)
        return _sorted(
            self.rows[kept],
            self.keys[kept],
            self.scales[:, kept],
            [one.rows(BLOCK)[kept] for one in self.numbers],
            None if self.residuals is None else self.residuals[kept],
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return what `from_tensors` needs, by name."""
        found = {"rows": self.rows, "keys": self.keys, "scales": self.scales}
        found |= {f"numbers.{place}": one.data for place, one in enumerate(self.numbers)}
        return found if self.residuals is None else found | {"residuals": self.residuals}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Shard":
        """Return the shard again that `tensors` describes."""
        n = max(1, len(tensors["rows"]))
        numbers = tuple(Columns(data, len(data) // n) for data in _numbered(tensors))
        names = ("rows", "keys", "scales")
        return cls(*(tensors[name] for name in names), numbers=numbers, residuals=tensors.get("residuals"))


def _sorted(rows: Tensor, keys: Tensor, scales: Tensor, numbers: Sequence[Tensor], residuals: Tensor | None) -> Shard:
    by_row = torch.argsort(rows)
    order = by_row[torch.argsort(keys[by_row], descending=True, stable=True)]
    return Shard(
        rows[order],
        keys[order],
        scales[:, order].contiguous(),
        tuple(Columns.of(one[order], BLOCK) for one in numbers),
        None if residuals is None else residuals[order],
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def _numbered(tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    count = sum(name.startswith("numbers.") for name in tensors)
    return tuple(tensors[f"numbers.{place}"] for place in range(count))
