"""Rows of a square root of the Gauss–Newton matrix: Φ with ΦᵀΦ = (1/n) Σ_i w_i J_iᵀ Σ_i J_i, those of largest norm.

Σ_i = ∂²ℓ_i/∂f² = Σ_k σ_k u_k u_kᵀ gives the rows √(w_i σ_k / n) J_iᵀ u_k of training row i. Eigenvectors of Σ_i put
more of the trace into fewer rows than √p_c (e_c − p) does; few rows carry most of it, as Σ_i is small where a model is
sure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import FactoredGradients, block_rows, each_block
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.taps import Dense, Lookup, Outer, Part

_EIGENVECTORS_UP_TO = 32
"""Outputs C; beyond, a Cholesky factor of Σ_i costs far less, if its rows are not as unequal."""


@dataclass(frozen=True)
class Root:
    """ΦᵀΦ + diag(l2): the Gauss–Newton matrix, or what its largest rows make of it. A `Curvature`."""

    objective: Objective
    rows: FactoredGradients
    """Φ, M rows."""
    kept: int
    """M."""
    count: int
    """How many rows there are."""
    trace: float
    """Σ ‖φ‖² of them all."""
    squares: Tensor
    """‖φ‖² of the rows of Φ, (M,)."""

    @property
    def kept_trace(self) -> float:
        """Return Σ ‖φ‖² of the rows of Φ."""
        return float(self.squares.double().sum())

    def holding(self, share: float, at_least: int, at_most: int | None = None) -> "Root":
        """Return what the fewest of these rows that hold a share of the trace make of the matrix, or all of these.

        Args:
            share: of the trace, in [0, 1].
            at_least: rows that are kept however much they hold.
            at_most: rows that are kept however little they hold; None for all of these.
        """
        squares, order = torch.sort(self.squares, descending=True)
        enough = int((squares.double().cumsum(0) < share * self.trace).sum()) + 1
        at = order[: min(max(at_least, enough), at_most or self.kept)]
        if len(at) == self.kept:
            return self
        rows = FactoredGradients(self.rows.blocks, tuple(part[at] for part in self.rows.parts))
        return replace(self, rows=rows, kept=len(at), squares=self.squares[at])

    @property
    def whole(self) -> bool:
        """Return whether every row is kept."""
        return self.kept == self.count

    @property
    def dim(self) -> int:
        """Return P."""
        return self.objective.space.dim

    @property
    def mean_eigenvalue(self) -> float:
        """Return trace/P of the matrix of all rows, L2 included."""
        return (self.trace + float(self.objective.l2.sum())) / self.dim

    def matmat(self, V: Tensor) -> Tensor:
        """See Curvature."""
        return combined(self.rows, self.rows.dot(V)) + self.objective.l2[:, None] * V

    def to_dense(self) -> Tensor:
        """See Curvature."""
        rows = self.rows.dense()
        return rows.T @ rows + torch.diag(self.objective.l2)


def gauss_newton_root(
    objective: Objective, train: Rows, limit: int, *, memory_bytes: int = 2**30, progress: Progress = silent
) -> Root:
    """Return the `limit` rows of largest norm, in one pass of C gradients a training row.

    Args:
        objective: at its registered weights.
        train: the n rows.
        limit: M at most.
        memory_bytes: budget of the intermediate values of one block.
        progress: told after each block.
    """
    largest = _Largest(limit)
    size = block_rows(objective, memory_bytes // 4, objective.taps.row_numel + 2 * objective.outputs_per_row**2)
    done = 0

    def work(batch: Batch) -> _Largest:
        capture = objective.taps.capture(batch.inputs)
        roots = _output_roots(objective, capture.outputs, batch, len(train))
        own = _Largest(limit, largest.floor)
        for k in range(roots.shape[1]):
            own.offer(capture.parts(roots[:, k]))
        return own

    for batch, own in each_block(objective, train, size, work):
        largest.take(own)
        done += len(batch.index)
        progress("curvature", done, len(train))
    parts, squares = largest.found()
    rows = FactoredGradients(objective.taps.blocks, parts)
    return Root(objective, rows, len(squares), largest.count, largest.trace, squares)


def combined(rows: FactoredGradients, weights: Tensor) -> Tensor:
    """Return Φᵀ W, (P, K), of M rows and W (M, K)."""
    found = weights.new_empty(sum(block.numel for block in rows.blocks), weights.shape[1])
    for block, part in zip(rows.blocks, rows.parts, strict=True):
        if isinstance(part, Dense):
            block.put(part.values.T @ weights, found)
        else:
            block.put(torch.stack([part.total(column) for column in weights.T], dim=1), found)
    return found


def pair_numel(rows: FactoredGradients) -> int:
    """Return about how many multiplications the inner product of two rows takes."""
    return sum(_pair_numel(part) for part in rows.parts)


def in_dtype(rows: FactoredGradients, dtype: torch.dtype) -> FactoredGradients:
    """Return gradients in another precision."""
    return FactoredGradients(rows.blocks, tuple(_cast(part, dtype) for part in rows.parts))


class _Largest:
    """The rows of largest norm met so far."""

    def __init__(self, limit: int, floor: float = 0.0) -> None:
        self.count = 0
        self.trace = 0.0
        self.floor = floor
        """Of the squared norm of a row that is worth keeping."""
        self._limit = limit
        self._parts: list[tuple[Part, ...]] = []
        self._squares: list[Tensor] = []

    def offer(self, parts: Sequence[Part]) -> None:
        squares = torch.stack([part.squares() for part in parts]).sum(dim=0)
        self.count += int((squares > 0).sum())
        self.trace += float(squares.double().sum())
        at = (squares > self.floor).nonzero()[:, 0]
        if not len(at):
            return
        self._keep(tuple(_compact(part[at]) for part in parts), squares[at])

    def take(self, other: "_Largest") -> None:
        """Add what others are the largest of."""
        self.count += other.count
        self.trace += other.trace
        for parts, squares in zip(other._parts, other._squares, strict=True):
            self._keep(parts, squares)

    def _keep(self, parts: tuple[Part, ...], squares: Tensor) -> None:
        self._parts.append(parts)
        self._squares.append(squares)
        if sum(map(len, self._squares)) > 2 * self._limit:
            self._prune()

    def found(self) -> tuple[tuple[Part, ...], Tensor]:
        if not self._parts:
            text = (
                "no training row curves the objective: every weight is zero, or the model is certain of every row; "
                "check the data set and the objective that were registered"
            )
            raise FailedPrecondition(Reason.HESSIAN_SINGULAR, text)
        self._prune()
        return self._parts[0], self._squares[0]

    def _prune(self) -> None:
        squares = torch.cat(self._squares)
        joined = tuple(_joined(parts) for parts in zip(*self._parts, strict=True))
        if len(squares) > self._limit:
            at = torch.topk(squares, self._limit).indices
            squares, joined = squares[at], tuple(part[at] for part in joined)
            self.floor = float(squares.min())
        self._parts, self._squares = [joined], [squares]


def _output_roots(objective: Objective, f: Tensor, batch: Batch, n: int) -> Tensor:
    """Return √(w_i σ_k / n) u_k as rows, (B, C, C): R with RᵀR = (w_i/n) Σ_i."""
    scale = (
        torch.ones(len(f), dtype=torch.float64, device=f.device) if batch.weights is None else batch.weights.double()
    )
    scale = scale / n
    S = objective.loss.curvature(f.double(), batch.targets) * scale[:, None, None]
    C = S.shape[1]
    size = S.diagonal(dim1=1, dim2=2).sum(dim=1)
    if C <= _EIGENVECTORS_UP_TO:
        values, vectors = torch.linalg.eigh(S)
        # Softmax's Σ_i is singular; what rounding leaves of its zero is no row.
        values = values.where(values > 4 * C * torch.finfo(S.dtype).eps * (size[:, None] + scale[:, None]), 0)
        return (vectors * values.sqrt()[:, None, :]).mT.flip(1).to(f.dtype)
    # Σ_i may be singular, as softmax's is: the shift is far below what float32 sees.
    shift = 1e-12 * size.where(size > 0, 1)
    factor = torch.linalg.cholesky(S + shift[:, None, None] * torch.eye(C, dtype=S.dtype, device=S.device))
    return (factor.mT * (size > 0)[:, None, None]).to(f.dtype)


def _compact(part: Part) -> Part:
    """Return a part with several positions added up, where that takes hardly more numbers."""
    if isinstance(part, Outer) and not part.single:
        _, _, T, I = part.inputs.shape  # noqa: E741
        O = part.deltas.shape[3]  # noqa: E741
        if I * O <= 2 * T * (I + O):
            return Dense(part.rows())
    return part


def _joined(parts: Sequence[Part]) -> Part:
    """Return the rows of one part after those of the other."""
    first = parts[0]
    if isinstance(first, Dense):
        return Dense(torch.cat([part.values for part in parts]))
    if isinstance(first, Lookup):
        return replace(
            first, ids=torch.cat([part.ids for part in parts]), deltas=torch.cat([part.deltas for part in parts])
        )
    return Outer(torch.cat([part.inputs for part in parts]), torch.cat([part.deltas for part in parts]))


def _cast(part: Part, dtype: torch.dtype) -> Part:
    if isinstance(part, Dense):
        return Dense(part.values.to(dtype))
    if isinstance(part, Lookup):
        return replace(part, deltas=part.deltas.to(dtype))
    return Outer(part.inputs.to(dtype), part.deltas.to(dtype))


def _pair_numel(part: Part) -> int:
    if isinstance(part, Dense):
        return part.values.shape[1]
    if isinstance(part, Lookup):
        return part.deltas.shape[1] * part.deltas.shape[2]
    _, G, T, I = part.inputs.shape  # noqa: E741
    O = part.deltas.shape[3]  # noqa: E741
    return I + O if part.single else G * min(T * T * (I + O), I * O)
