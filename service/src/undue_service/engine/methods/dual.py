"""Gauss–Newton influence in sample space: the route of `gauss_newton` for networks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.domain.methods import METHODS
from undue_service.engine.curvature import Damped, Estimate, GaussNewton
from undue_service.engine.curvature.root import Root, gauss_newton_root, pair_numel
from undue_service.engine.damping import resolve_damping
from undue_service.engine.data import Batch
from undue_service.engine.gradients import FactoredGradients, block_rows, each_block, loss_gradients, training_batches
from undue_service.engine.objective import Objective
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort
from undue_service.engine.solvers.base import relative_residuals
from undue_service.engine.solvers.dual import Dual, DualState, inverse_product

from .base import Columns, Factors, Problem, Queries, ScoreBlock, SelfScores, row_weights, score_blocks

DEFAULT_ROWS = 2_000
"""M, where the caller names none and they hold `SHARE` of the trace: on digits their LDS is that of all rows."""
MOST_ROWS = 3_000
"""M, where the caller names none and there are more than `ALL_ROWS`, at most: M² numbers are held three times."""
ALL_ROWS = 4_000
"""Rows up to which all are kept."""
SHARE = 0.95


_ENOUGH = 0.9


@dataclass(frozen=True)
class DualFactors(Factors):
    """The factorised system in sample space."""

    state: DualState
    full: GaussNewton
    """The whole Gauss–Newton, to hold solutions against."""


@dataclass(frozen=True)
class DualQueries(Queries):
    """Test rows in sample space."""

    gradients: FactoredGradients
    """∇m_t."""
    coefficients: Tensor
    """S⁻¹ Φ D⁻¹ ∇m_t, (M, m)."""


class DualGaussNewton:
    """score(i, t) = (w_i/n) [g_tᵀD⁻¹g_i − (ΦD⁻¹g_t)ᵀ (I + ΦD⁻¹Φᵀ)⁻¹ (ΦD⁻¹g_i)] with g_i = ∇ℓ_i, g_t = ∇m_t.

    Every product is one of factors of gradients: Σ over the taps of (a·a')(δ·δ'). With the `rank` largest rows of Φ
    instead of all, what the others curve is left out: the scores are those of λ + l2 in their directions.
    """

    spec = METHODS["gauss_newton"]
    query_columns = 0

    def fit(self, problem: Problem) -> DualFactors:
        """Find the rows and factorise their system.

        Raises:
            FailedPrecondition: HESSIAN_SINGULAR where λ + l2 is zero for some parameter; NON_FINITE_RESULT.
        """
        objective, memory = problem.objective, problem.memory_bytes
        fits = most_rows(objective, memory)
        wanted = problem.rank or ALL_ROWS
        root = gauss_newton_root(
            objective, problem.train, min(wanted, fits), memory_bytes=memory, progress=problem.progress
        )
        if problem.rank is None and not root.whole:
            wanted = DEFAULT_ROWS
            root = root.holding(SHARE, DEFAULT_ROWS, MOST_ROWS)
        damping = resolve_damping(problem.damping, objective, lambda: Estimate(root.mean_eigenvalue))
        state = Dual().prepare(Damped(root, damping.value))
        return DualFactors(
            damping=damping,
            leverage_correction=False,
            solver=Dual.name,
            solver_status=_status(root),
            warnings=_warnings(root, wanted),
            state=state,
            full=GaussNewton(objective, problem.train, memory_bytes=memory, progress=problem.progress),
        )

    def query(self, factors: DualFactors, problem: Problem, asked: Asked) -> Queries:
        """Return the test rows in sample space, or (G + λI)⁻¹ ∇m_t where there are so few that it takes less.

        The residual is that of the first row, in the whole Gauss–Newton.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT.
        """
        gradients = asked.gradients(problem.objective)
        state, m = factors.state, len(asked)
        coefficients = state.coefficients(gradients)
        effort = _checked(factors, gradients)
        if _columns_take_less(problem, state, m):
            values = gradients.dense().T
            return Columns(effort, inverse_product(state, values))
        return DualQueries(effort, gradients, coefficients)

    def score(self, factors: DualFactors, queries: Queries, problem: Problem) -> Iterator[ScoreBlock]:
        """See Method."""
        if isinstance(queries, Columns):
            yield from score_blocks(problem, queries.values)
            return
        assert isinstance(queries, DualQueries)  # noqa: S101  `query` returns no other
        state, n = factors.state, len(problem.train)
        M, m = queries.coefficients.shape

        def scores(gradients: FactoredGradients) -> Tensor:
            return state.bilinear(queries.coefficients, queries.gradients, gradients)

        for batch, found in _each(problem, scores, 3 * (M + m)):
            yield ScoreBlock(batch.index, (found.T * row_weights(batch, n)).T)

    def self_score(self, factors: DualFactors, problem: Problem) -> SelfScores:
        """See Method. The residual is that of the first row, in the whole Gauss–Newton."""
        objective, n = problem.objective, len(problem.train)
        first = next(training_batches(objective, problem.train, 1, [0]))
        effort = _checked(factors, loss_gradients(objective, first))
        for batch, found in _each(problem, factors.state.quadratic, 6 * len(factors.state.factor)):
            yield ScoreBlock(batch.index, (found[:, None] * row_weights(batch, n))[:, 0]), effort
            effort = Effort()


def most_rows(objective: Objective, memory_bytes: int) -> int:
    """Return M for which Φ and the system in sample space, with its factor, take half a byte budget."""
    item = torch.finfo(objective.program.dtype).bits // 8
    # Φ is held three times over while its rows are chosen; S, its factor and a chunk of products.
    row, square, budget = 3 * item * objective.taps.row_numel, 24, memory_bytes // 2
    return max(1, int(((row**2 + 4 * square * budget) ** 0.5 - row) / (2 * square)))


def _each(
    problem: Problem, make: Callable[[FactoredGradients], Tensor], row_numel: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield what is made of the gradients of the training rows, block by block."""
    objective, n = problem.objective, len(problem.train)
    size = block_rows(objective, problem.memory_bytes // 2, row_numel)
    done = 0
    for batch, found in each_block(objective, problem.train, size, lambda rows: make(loss_gradients(objective, rows))):
        yield batch, found
        done += len(batch.index)
        problem.progress("scores", done, n)


def _checked(factors: DualFactors, gradients: FactoredGradients) -> Effort:
    """Solve for the first row as a vector over the parameters, and measure its residual."""
    first = FactoredGradients(gradients.blocks, tuple(part[:1] for part in gradients.parts)).dense().T
    solution = inverse_product(factors.state, first)
    damped = Damped(factors.full, factors.damping.value)
    return Effort(float(relative_residuals(damped, solution, first).max()), matvecs=1)


def _columns_take_less(problem: Problem, state: DualState, m: int) -> bool:
    P, n, M = problem.objective.space.dim, len(problem.train), len(state.factor)
    fits = 4 * 8 * P * m <= problem.memory_bytes // 4
    return fits and m * P * (2 * M + n) < n * (M + m) * pair_numel(state.rows)


def _status(root: Root) -> str:
    if root.whole:
        return f"all {root.count:,} rows"
    share = 100 * root.kept_trace / root.trace
    return f"truncated: {root.kept:,} of {root.count:,} rows, {share:.1f} % of the trace"


def _warnings(root: Root, wanted: int) -> tuple[str, ...]:
    found = []
    if root.kept_trace < _ENOUGH * root.trace:
        found.append(
            f"the {root.kept:,} rows that were kept hold {100 * root.kept_trace / root.trace:.0f} % of the "
            "Gauss–Newton's trace, so the scores leave out much of what the training data curves: pass a larger rank, "
            "or tolerance= for the whole matrix"
        )
    if root.kept < min(wanted, root.count):
        found.append(
            f"of {min(wanted, root.count):,} rows of the Gauss–Newton's square root the {root.kept:,} largest were "
            "kept: more do not fit into the memory allowed"
        )
    return tuple(found)
