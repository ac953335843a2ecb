"""Eight bits a number: x_ij ≈ s_i c_j q_ij, with c_j the size of a column, s_i of a row, and q from −127 to 127."""

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 127


def column_sizes(x: Tensor) -> Tensor:
    """Return the root mean square of each column of a sample (B, k); 1 where it is zero, (k,)."""
    sizes = x.square().mean(dim=0).sqrt()
    return torch.where(sizes > 0, sizes, torch.ones_like(sizes))


def quantise(x: Tensor, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return q (B, k) int8 and s (B,) float32 of x (B, k); without column sizes these are 1."""
    scaled = x if columns is None else x / columns
    largest = scaled.abs().amax(dim=1) if scaled.shape[1] else scaled.new_zeros(len(scaled))
    unit = torch.where(largest > 0, largest, torch.ones_like(largest)) / LEVELS
    q = (scaled / unit[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return q, unit.float()


@dataclass(frozen=True)
class Columns:
    """Rows as columns of int8, in blocks: each block is (k, rows of the block), contiguous."""

    data: Tensor
    """(k · n,) int8, block after block."""
    width: int
    """k."""

    @classmethod
    def of(cls, rows: Tensor, block: int) -> "Columns":
        """Lay out rows (n, k), `block` of them at a time."""
        parts = [part.T.reshape(-1) for part in rows.split(block)] if len(rows) else [rows.reshape(-1)]
        return cls(torch.cat(parts), rows.shape[1])

    def block(self, start: int, stop: int) -> Tensor:
        """Return the rows of one block, (k, stop − start), which has to be one that they were laid out in."""
        return self.data[start * self.width : stop * self.width].view(self.width, stop - start)

    def rows(self, block: int) -> Tensor:
        """Return the rows again, (n, k)."""
        n = len(self.data) // self.width if self.width else 0
        parts = [self.block(start, min(start + block, n)).T for start in range(0, n, block)]
        return torch.cat(parts) if parts else self.data.view(0, self.width)


def products(left: Tensor, right: Tensor) -> Tensor:
    """Return the integer products of q (m, k) and a block of columns (k, B), (m, B) int32."""
    if left.shape[1] == 0:
        return torch.zeros(len(left), right.shape[1], dtype=torch.int32, device=left.device)
    if left.device.type == "cpu":
        return torch._int_mm(left, right)
    # CUDA takes more than 16 rows, and sizes that are multiples of 8.
    m, k, B = len(left), left.shape[1], right.shape[1]
    pad = torch.nn.functional.pad
    left = pad(left, (0, -k % 8, 0, max(0, 24 - m)))
    return torch._int_mm(left, pad(right, (0, -B % 8, 0, -k % 8)))[:m, :B]
