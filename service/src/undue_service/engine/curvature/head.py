"""The curvature of a linear head, in closed form: there the Hessian is the Gauss–Newton matrix."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from undue_service.engine.data import Rows
from undue_service.engine.heads.rows import HeadRows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .estimate import Estimate

_CACHED = 2**17
"""Numbers of a product's intermediate values that stay in a core's cache: twice as fast as the whole block at once."""
_FEWEST_ROWS = 32
_PRODUCTS = 3
"""With the same columns, that are expected at least: fewer than a solve takes."""


class HeadCurvature:
    """H = (1/n) Σ_i w_i Σ_i ⊗ x̃_i x̃_iᵀ + l2 · diag(mask), Σ_i = ∂²ℓ_i/∂f² (C, C).

    What lies below the head runs once, and x̃ and Σ are kept, as far as memory allows. So is H itself, once so many
    columns are multiplied that writing it down is less work: n P² (C+1)/C operations against 4 n P for each column.
    """

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        *,
        select: Sequence[int] | None = None,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind an objective with a linear head to its training rows, or to some of them; nothing is computed yet."""
        self._objective = objective
        self._train = train
        self._memory = memory_bytes
        self._progress = progress
        self._source = HeadRows(objective, train, select, memory_bytes=memory_bytes // 4)
        head = objective.head
        self._order = head.positions.T.reshape(-1)
        self._back = torch.argsort(self._order)
        width = head.features + head.outputs**2
        fits = len(self._source) * width * torch.finfo(objective.theta.dtype).bits // 8 <= memory_bytes // 4
        self._keeps = fits
        self._kept: tuple[Tensor, Tensor] | None = None
        self._dense: Tensor | None = None
        self._is_whole = select is None

    @property
    def dim(self) -> int:
        """Return P."""
        return self._objective.space.dim

    @property
    def rows(self) -> int:
        """See MeanOfRows."""
        return len(self._source)

    @property
    def diagonal(self) -> Tensor:
        """See MeanOfRows."""
        return self._objective.l2

    def of(self, rows: Sequence[int]) -> "HeadCurvature":
        """See MeanOfRows."""
        some = HeadCurvature(self._objective, self._train, select=rows, memory_bytes=self._memory)
        if self._kept is not None:
            at = torch.as_tensor(rows, dtype=torch.int64, device=self._kept[0].device)
            some._kept = self._kept[0][at], self._kept[1][at]
        return some

    def factors(self, row_numel: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield x̃ (B, d) and w_i Σ_i (B, C, C) of all rows, with room for `row_numel` numbers for each."""
        C = self._objective.head.outputs
        numel = row_numel + 3 * C * C + 1
        size = max(1, (self._memory // 2) // (self._objective.theta.element_size() * numel))
        if self._kept is not None:
            yield from self._told(zip(*(part.split(size) for part in self._kept), strict=True))
            return
        made = []
        for x, S in self._told(self._made(size)):
            if self._keeps:
                made.append((x, S))
            yield x, S
        if self._keeps:
            x, S = (torch.cat(parts) for parts in zip(*made, strict=True))
            self._kept = x, S

    def matmat(self, V: Tensor) -> Tensor:
        """Return H V, (P, K): two matrix products a block, or one where H is written down."""
        head, K = self._objective.head, V.shape[1]
        if self._dense is None and self._pays(K):
            self._dense = self.to_dense()
        if self._dense is not None:
            return self._dense @ V
        C, d = head.outputs, head.features
        flat = V[self._order].view(d, C * K)
        product = torch.zeros_like(flat)
        size = max(_FEWEST_ROWS, _CACHED // (C * K))
        moved, curved = (flat.new_empty(min(size, self.rows), C * K) for _ in range(2))
        for block in self.factors():
            for x, S in zip(*(part.split(size) for part in block), strict=True):
                B = len(x)
                torch.mm(x, flat, out=moved[:B])
                torch.bmm(S, moved[:B].view(B, C, K), out=curved[:B].view(B, C, K))
                product.addmm_(x.T, curved[:B])
        return torch.addcmul(product.view(-1, K)[self._back] / self.rows, self._objective.l2[:, None], V)

    def to_dense(self) -> Tensor:
        """Return H, (P, P)."""
        C, d = self._objective.head.outputs, self._objective.head.features
        blocks = head_blocks(self.factors(2 * C * d), self._objective.theta.new_zeros(C, d, C, d))
        flat = blocks.view(self.dim, self.dim) / self.rows
        order = torch.argsort(self._objective.head.positions.reshape(-1))
        flat = flat[order[:, None], order]
        flat.diagonal().add_(self._objective.l2)
        return flat

    def mean_eigenvalue(self) -> Estimate:
        """Return trace(H)/P, exactly."""
        total = 0.0
        for x, S in self.factors():
            total += float((S.diagonal(dim1=1, dim2=2).sum(dim=1) * x.square().sum(dim=1)).sum())
        return Estimate((total / self.rows + float(self._objective.l2.sum())) / self.dim)

    def _pays(self, columns: int) -> bool:
        """Whether H costs less to write down than products with so many columns; not for a few rows, used once."""
        P, C = self.dim, self._objective.head.outputs
        fits = P * P * self._objective.theta.element_size() <= self._memory // 8
        return self._is_whole and fits and 4 * _PRODUCTS * columns >= P * (C + 1) / C

    def _made(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        theta = self._objective.head.from_theta(self._objective.theta).T[:, None]
        for block in self._source.blocks():
            for part in block.parts(size):
                S = self._objective.loss.curvature(part.outputs(theta)[:, 0], part.targets)
                yield part.features, S if part.weights is None else S * part.weights[:, None, None]

    def _told(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        for x, S in blocks:
            yield x, S
            done += len(x)
            self._progress("curvature", done, self.rows)


def head_blocks(factors: Iterable[tuple[Tensor, Tensor]], into: Tensor) -> Tensor:
    """Add Σ_i S_i[c, e] x̃_i x̃_iᵀ to the blocks (c, e) of `into` (C, d, C, d), which holds zeros, and return it.

    Args:
        factors: x̃ (B, d) and symmetric S (B, C, C), block by block.
        into: what is filled; only one triangle of the blocks is computed.
    """
    C, d = into.shape[:2]
    for x, S in factors:
        for c in range(C):
            right = (S[:, c, c:, None] * x[:, None, :]).reshape(len(x), -1)
            into[c, :, c:] += (x.T @ right).view(d, C - c, d)
    for c in range(C):
        into[c + 1 :, :, c] = into[c, :, c + 1 :].permute(1, 2, 0)
    return into
