"""`exact`: influence by the dense damped Hessian (Koh & Liang 2017, equation 2, in our sign and scale)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.methods import METHODS
from undue_service.engine.curvature import Damped, Dense, Hessian
from undue_service.engine.damping import resolve_damping
from undue_service.engine.leverage import Leverage, leverage
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Cholesky, Effort, Solution
from undue_service.engine.solvers.base import relative_residuals
from undue_service.engine.solvers.cholesky import CholeskyState

from .base import (
    Columns,
    Factors,
    Problem,
    ScoreBlock,
    SelfScores,
    check_settings,
    score_blocks,
    solved,
    solved_for_each_row,
)

_CHECKED_COLUMNS = 256  # of H⁻¹, where all P would cost as much as the inverse itself


@dataclass(frozen=True)
class ExactFactors(Factors):
    """The factorised Hessian, and what the leverage correction makes of the residuals."""

    state: CholeskyState
    leverage: Leverage | None


class Exact:
    """score(i, t) = (w_i/n) s_t · ∇ℓ_i with s_t = (H + λI)⁻¹ ∇m_t; on a linear head, r̃_i ⊗ x̃_i for ∇ℓ_i."""

    spec = METHODS["exact"]
    query_columns = 4
    _solver = Cholesky()

    def fit(self, problem: Problem) -> ExactFactors:
        """Make and factorise the damped Hessian.

        Raises:
            InvalidArgument: LEVERAGE_UNAVAILABLE where the correction is asked for and the model is not a linear head.
            FailedPrecondition: TOO_MANY_PARAMETERS, HESSIAN_NOT_POSITIVE_DEFINITE, HESSIAN_SINGULAR, NON_FINITE_RESULT.
        """
        check_settings(problem, self.spec)
        objective = problem.objective
        corrects = (
            problem.leverage_correction if problem.leverage_correction is not None else objective.head is not None
        )
        if corrects and objective.head is None:
            text = (
                "the leverage correction needs a model whose outputs are linear in every selected parameter: select "
                "only the last layer with parameters=, or leave leverage_correction out"
            )
            raise InvalidArgument.at("leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)
        hessian = Hessian(objective, problem.train, memory_bytes=problem.memory_bytes, progress=problem.progress)
        dense = Dense(hessian.to_dense())
        damping = resolve_damping(problem.damping, objective, dense.mean_eigenvalue)
        state = self._solver.prepare(Damped(dense, damping.value))
        correction = _leverage(problem, torch.cholesky_inverse(state.factor), correct=True) if corrects else None
        return ExactFactors(damping, corrects, self._solver.name, "converged", state, correction)

    def query(self, factors: ExactFactors, problem: Problem, asked: Asked) -> Columns:
        """Return s_t = (H + λI)⁻¹ ∇m_t."""
        return solved(self._solve(factors, asked.columns(problem.objective)))

    def score(self, factors: ExactFactors, queries: Columns, problem: Problem) -> Iterator[ScoreBlock]:
        """See Method."""
        return score_blocks(
            problem, queries.values, factors.leverage.residuals if factors.leverage is not None else None
        )

    def self_score(self, factors: ExactFactors, problem: Problem) -> SelfScores:
        """See Method. On a linear head the scores fall out of the pass that corrects the residuals."""
        if problem.objective.head is None:
            yield from solved_for_each_row(partial(self._solve, factors), problem)
            return
        inverse = torch.cholesky_inverse(factors.state.factor)
        found = factors.leverage or _leverage(problem, inverse, correct=False)
        columns = (
            torch.linspace(0, len(inverse) - 1, min(len(inverse), _CHECKED_COLUMNS), device=inverse.device)
            .round()
            .long()
        )
        identity = torch.zeros(len(inverse), len(columns), dtype=inverse.dtype, device=inverse.device)
        identity[columns, torch.arange(len(columns), device=inverse.device)] = 1
        residuals = relative_residuals(factors.state.curvature, inverse[:, columns], identity)
        effort = Effort(float(residuals.max()), len(columns))
        yield ScoreBlock(torch.arange(len(problem.train)), found.self_influence), effort

    def _solve(self, factors: ExactFactors, gradients: Tensor) -> Solution:
        return self._solver.solve(factors.state, gradients)


def _leverage(problem: Problem, inverse: Tensor, *, correct: bool) -> Leverage:
    return leverage(
        problem.objective,
        problem.train,
        inverse,
        correct=correct,
        memory_bytes=problem.memory_bytes,
        progress=problem.progress,
    )
