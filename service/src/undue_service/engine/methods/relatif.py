"""`relatif`: influence relative to what a row does to the whole model (Barshan et al. 2020)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from undue_service.domain.methods import DENSE_PARAMETER_LIMIT, METHODS
from undue_service.engine.curvature.eigenbasis import weighted_squares
from undue_service.engine.data import Batch
from undue_service.engine.gradients import FactoredGradients, block_rows, each_block, loss_gradients
from undue_service.engine.objective import Objective
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort

from .base import Columns, Factors, Method, Problem, Queries, ScoreBlock, SelfScores, check_settings
from .ekfac import EkFac, EKFACFactors, EKFACQueries, block_scores
from .exact import Exact, ExactFactors


@dataclass(frozen=True)
class RelatIFFactors(Factors):
    """The inverse, and the method that it is of."""

    route: Method[Any]
    own: ExactFactors | EKFACFactors
    objective: Objective
    """In the precision of the route."""
    by_loss: bool

    def scores(self, queries: Queries, gradients: FactoredGradients) -> Tensor:
        """Return ∇m_tᵀ H⁻¹ ∇ℓ_i, (B, m)."""
        if isinstance(queries, EKFACQueries):
            return block_scores(queries, gradients)
        assert isinstance(queries, Columns)  # noqa: S101  the routes return no others
        return gradients.dot(queries.values)

    def sizes(self, gradients: FactoredGradients) -> Tensor:
        """Return ‖H⁻¹ ∇ℓ_i‖, or √(∇ℓ_iᵀ H⁻¹ ∇ℓ_i), (B,)."""
        if isinstance(self.own, EKFACFactors):
            pairs = zip(self.own.inverses, gradients.parts, strict=True)
            power = 1 if self.by_loss else 2
            squares = [weighted_squares(one.basis.rotated(part), one.exact**power) for one, part in pairs]
            return torch.stack(squares).sum(dim=0).sqrt()
        columns = gradients.dense().T
        solved = torch.cholesky_solve(columns, self.own.state.factor)
        return (columns * solved).sum(dim=0).clamp(min=0).sqrt() if self.by_loss else solved.norm(dim=0)


class RelatIF:
    """score(i, t) = ∇m_tᵀ H⁻¹ ∇ℓ_i / ‖H⁻¹ ∇ℓ_i‖ ("theta"), or / √(∇ℓ_iᵀ H⁻¹ ∇ℓ_i) ("loss"); 0 where w_i = 0.

    H is the damped Hessian of a linear head, in float64, up to its dense limit; else EK-FAC. A row that changes the
    whole model much, such as an outlier, no longer wins everywhere: what counts is how much of its change concerns t.
    Its weight, which scales both, cancels.
    """

    spec = METHODS["relatif"]
    query_columns = 1

    def fit(self, problem: Problem) -> RelatIFFactors:
        """Invert the curvature.

        Raises:
            InvalidArgument: LEVERAGE_UNAVAILABLE where the correction is asked for, INVALID_FIELD.
            FailedPrecondition: as `exact` on a linear head, else as `ekfac`.
        """
        check_settings(problem, self.spec)
        objective = problem.objective
        dense = objective.head is not None and objective.space.dim <= DENSE_PARAMETER_LIMIT
        route: Method[Any] = Exact() if dense else EkFac()
        objective = objective.in_double() if dense else objective
        plain = replace(problem, objective=objective, normalization=None, leverage_correction=False if dense else None)
        own = route.fit(plain)
        return RelatIFFactors(
            own.damping,
            leverage_correction=False,
            solver=own.solver,
            solver_status=own.solver_status,
            warnings=own.warnings,
            dtype=objective.program.dtype,
            route=route,
            own=own,
            objective=objective,
            by_loss=problem.normalization == "loss",
        )

    def query(self, factors: RelatIFFactors, problem: Problem, asked: Asked) -> Queries:
        """Return the test rows with the inverse applied."""
        return factors.route.query(factors.own, replace(problem, objective=factors.objective), asked)

    def score(self, factors: RelatIFFactors, queries: Queries, problem: Problem) -> Iterator[ScoreBlock]:
        """See Method."""
        numel = queries.numel if isinstance(queries, EKFACQueries) else 0

        def scores(gradients: FactoredGradients, batch: Batch) -> Tensor:
            found = factors.scores(queries, gradients)
            return (found * _over(factors.sizes(gradients), batch)[:, None]).T

        yield from _each(factors, problem, scores, numel)

    def self_score(self, factors: RelatIFFactors, problem: Problem) -> SelfScores:
        """Yield ∇ℓ_iᵀ H⁻¹ ∇ℓ_i over the same size: with "loss", its root."""
        by_loss = replace(factors, by_loss=True)

        def scores(gradients: FactoredGradients, batch: Batch) -> Tensor:
            return by_loss.sizes(gradients).square() * _over(factors.sizes(gradients), batch)

        for block in _each(factors, problem, scores, 0):
            yield block, Effort()


def _over(sizes: Tensor, batch: Batch) -> Tensor:
    """Return 1/size, and 0 where the size or the row's weight is zero."""
    inverse = torch.where(sizes > 0, 1 / sizes.where(sizes > 0, 1), 0)
    return inverse if batch.weights is None else inverse * (batch.weights > 0)


def _each(
    factors: RelatIFFactors, problem: Problem, scores: Callable[[FactoredGradients, Batch], Tensor], numel: int
) -> Iterator[ScoreBlock]:
    objective, n = factors.objective, len(problem.train)
    numel += 2 * (objective.taps.row_numel if isinstance(factors.own, EKFACFactors) else objective.space.dim)
    size = block_rows(objective, problem.memory_bytes // 2, numel)
    done = 0
    work = lambda batch: scores(loss_gradients(objective, batch), batch)  # noqa: E731
    for batch, found in each_block(objective, problem.train, size, work):
        yield ScoreBlock(batch.index, found)
        done += len(batch.index)
        problem.progress("scores", done, n)
