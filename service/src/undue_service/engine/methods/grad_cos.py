"""`grad_cos`: the cosine of gradients (Hammoudeh & Lowd 2022 on why to divide the norms out)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from undue_service.domain.methods import METHODS
from undue_service.engine.damping import UNUSED
from undue_service.engine.data import Batch
from undue_service.engine.gradients import GradientBlock, block_rows, loss_gradients
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort

from .base import Columns, Factors, Problem, ScoreBlock, SelfScores, check_settings, streamed, without_effort


class GradCos:
    """score(i, t) = ∇m_t · ∇w_iℓ_i / (‖∇m_t‖ ‖∇w_iℓ_i‖), in [−1, 1]; 0 where either gradient is zero.

    So a row's weight counts only for being zero, and large gradients, those of outliers, no longer win by their size.
    """

    spec = METHODS["grad_cos"]
    query_columns = 4

    def fit(self, problem: Problem) -> Factors:
        """Check the settings; there is nothing to prepare.

        Raises:
            InvalidArgument: LEVERAGE_UNAVAILABLE where the correction is asked for, INVALID_FIELD.
        """
        check_settings(problem, self.spec)
        return Factors(UNUSED, leverage_correction=False, solver="", solver_status="")

    def query(self, factors: Factors, problem: Problem, asked: Asked) -> Columns:  # noqa: ARG002 - the seam's signature
        """Return ∇m_t / ‖∇m_t‖."""
        gradients = asked.columns(problem.objective)
        return Columns(Effort(), _over(gradients, gradients.norm(dim=0)))

    def score(self, factors: Factors, queries: Columns, problem: Problem) -> Iterator[ScoreBlock]:  # noqa: ARG002
        """See Method."""
        objective, m = problem.objective, queries.values.shape[1]
        size = block_rows(objective, problem.memory_bytes // 2, (objective.outputs_per_row + 2) * m)

        def cosines(batch: Batch) -> Tensor:
            gradients = loss_gradients(objective, batch)
            return _over(gradients.dot(queries.values).T, _norms(gradients, batch)).clamp(-1, 1)

        return streamed(problem, size, cosines)

    def self_score(self, factors: Factors, problem: Problem) -> SelfScores:  # noqa: ARG002
        """Yield 1, or 0 for a zero gradient: no ranking, which is why the specification has no self-influence."""
        objective = problem.objective

        def own(batch: Batch) -> Tensor:
            norms = _norms(loss_gradients(objective, batch), batch)
            return (norms > 0).to(norms.dtype)

        return without_effort(streamed(problem, block_rows(objective, problem.memory_bytes), own))


def _norms(gradients: GradientBlock, batch: Batch) -> Tensor:
    """Return ‖∇ℓ_i‖, (B,), and 0 for a row of weight zero."""
    norms = gradients.norms()
    return norms if batch.weights is None else norms.where(batch.weights > 0, 0)


def _over(columns: Tensor, norms: Tensor) -> Tensor:
    """Return columns divided by norms; zero where the norm is zero."""
    return torch.where(norms > 0, columns / norms.where(norms > 0, 1), 0)
