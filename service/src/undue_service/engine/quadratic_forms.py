"""x_iᵀ A_ce x_i of many rows, for the blocks A_ce of a symmetric matrix over the parameters of a linear head."""

import torch
from torch import Tensor

from .head import LinearHead

_WORTH_PACKING = 16
"""Pairs of outputs from which on the products x_ij x_ik, made once for all of them, cost less than they save."""
_PRODUCTS = 2**17
"""Numbers x_ij x_ik at once: they should stay in a core's cache."""
_PROJECTED = 2**22
"""Numbers A_ce x_i at once, where nothing is packed."""
_DEPTH = 2048
"""Of one matrix product, about."""


class QuadraticForms:
    """(c, e) → x_iᵀ A_ce x_i = Σ_{j ≤ k} x_ij x_ik (A_ce[j, k] + A_ce[k, j]) (less one of the two where j = k).

    The sum over pairs j ≤ k has half the terms of a product with A_ce, and the x_ij x_ik serve all pairs of outputs.
    """

    def __init__(self, head: LinearHead, matrix: Tensor) -> None:
        """Read the blocks c ≤ e off a symmetric matrix in θ's order, (P, P)."""
        self._outputs, self._features = C, d = head.outputs, head.features
        self._pairs = torch.triu_indices(C, C, device=matrix.device)
        left, right = (head.positions[of] for of in self._pairs)
        width = d
        if len(left) >= _WORTH_PACKING:
            width = max(1, min(d // 8, _DEPTH // d))
        self._slabs: list[Tensor] = []
        for start in range(0, d, width):
            at = slice(start, start + width)
            one = matrix[left[:, at, None], right[:, None, start:]]
            other = matrix[left[:, None, start:], right[:, at, None]]
            slab = 0.5 * (one + other)
            slab[:, :, width:] *= 2  # of the pairs that the later slabs do not see again
            whole = slab.transpose(0, 1).reshape(d, -1) if width == d else slab.reshape(len(left), -1).T
            self._slabs.append(whole.contiguous())
        self._width = width

    @property
    def row_numel(self) -> int:
        """Return the numbers that one row takes."""
        return 2 * self._features + 2 * self._outputs**2

    def of(self, x: Tensor) -> Tensor:
        """Return x_iᵀ A_ce x_i of x (B, d), symmetric in c and e: (B, C, C)."""
        values = x.new_zeros(len(x), self._pairs.shape[1])
        packed = self._width < self._features
        row = (self._width if packed else len(self._pairs[0])) * self._features
        size = max(1, (_PRODUCTS if packed else _PROJECTED) // row)
        for some, into in zip(x.split(size), values.split(size), strict=True):
            if not packed:
                projected = (some @ self._slabs[0]).view(len(some), -1, self._features)
                into.copy_(torch.bmm(projected, some[:, :, None])[:, :, 0])
                continue
            for number, slab in enumerate(self._slabs):
                start = number * self._width
                products = some[:, start : start + self._width, None] * some[:, None, start:]
                into.addmm_(products.reshape(len(some), -1), slab)
        forms = x.new_empty(len(x), self._outputs, self._outputs)
        c, e = self._pairs
        forms[:, c, e] = values
        forms[:, e, c] = values
        return forms
