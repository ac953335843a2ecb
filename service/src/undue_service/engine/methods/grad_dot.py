"""`grad_dot`: the inner product of gradients, which is TracIn (Pruthi et al. 2020) at one checkpoint over n."""

from collections.abc import Iterator

import torch
from torch import Tensor

from undue_service.domain.methods import METHODS
from undue_service.engine.damping import UNUSED
from undue_service.engine.data import Batch
from undue_service.engine.gradients import block_rows, loss_gradients
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort

from .base import (
    Columns,
    Factors,
    Problem,
    ScoreBlock,
    SelfScores,
    check_settings,
    row_weights,
    score_blocks,
    streamed,
    without_effort,
)


class GradDot:
    """score(i, t) = (w_i/n) ∇m_t · ∇ℓ_i: the identity for a Hessian."""

    spec = METHODS["grad_dot"]
    query_columns = 4

    def fit(self, problem: Problem) -> Factors:
        """Check the settings; there is nothing to prepare.

        Raises:
            InvalidArgument: LEVERAGE_UNAVAILABLE where the correction is asked for, INVALID_FIELD.
        """
        check_settings(problem, self.spec)
        return Factors(UNUSED, leverage_correction=False, solver="", solver_status="")

    def query(self, factors: Factors, problem: Problem, asked: Asked) -> Columns:  # noqa: ARG002 - the seam's signature
        """Return the gradients themselves."""
        return Columns(Effort(), asked.columns(problem.objective))

    def score(self, factors: Factors, queries: Columns, problem: Problem) -> Iterator[ScoreBlock]:  # noqa: ARG002
        """See Method."""
        return score_blocks(problem, queries.values)

    def self_score(self, factors: Factors, problem: Problem) -> SelfScores:  # noqa: ARG002
        """Yield (w_i/n) ‖∇ℓ_i‖²."""
        objective, n = problem.objective, len(problem.train)

        def own(batch: Batch) -> Tensor:
            squares = torch.square(loss_gradients(objective, batch).norms())[:, None]
            return (squares * row_weights(batch, n))[:, 0]

        return without_effort(streamed(problem, block_rows(objective, problem.memory_bytes), own))
