"""`tracin`: TracInCP (Pruthi et al. 2020, equation 1 of section 3.4), over the registered checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.methods import METHODS
from undue_service.engine.damping import UNUSED
from undue_service.engine.data import Batch
from undue_service.engine.gradients import GradientBlock, block_rows, loss_gradients
from undue_service.engine.objective import Objective
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort

from .base import (
    Factors,
    Problem,
    Queries,
    ScoreBlock,
    SelfScores,
    check_settings,
    row_weights,
    streamed,
    without_effort,
)


@dataclass(frozen=True)
class TracInFactors(Factors):
    """The model at each checkpoint."""

    steps: tuple[tuple[float, Objective], ...]
    """η_c, and the objective at θ_c."""


@dataclass(frozen=True)
class TracInQueries(Queries):
    """The test rows at each checkpoint."""

    gradients: tuple[GradientBlock, ...]
    """∇m_t(θ_c)."""


class TracIn:
    """score(i, t) = Σ_c η_c (w_i/n) ∇m_t(θ_c) · ∇ℓ_i(θ_c): what the steps on row i took off the cost of row t.

    The registered weights count only where they are a checkpoint too. A test row without a target is explained at every
    checkpoint by the label that the registered weights predict.
    """

    spec = METHODS["tracin"]
    query_columns = 0

    def fit(self, problem: Problem) -> TracInFactors:
        """Place the model at each checkpoint.

        Raises:
            InvalidArgument: INVALID_FIELD, LEVERAGE_UNAVAILABLE, WEIGHTS_MISMATCH.
            FailedPrecondition: CHECKPOINTS_MISSING.
        """
        check_settings(problem, self.spec)
        if not problem.checkpoints:
            text = (
                "tracin sums over the checkpoints of a training run, and the model has none: register it with "
                'checkpoints=, or use method="grad_dot", which is the same at the registered weights alone'
            )
            raise FailedPrecondition(Reason.CHECKPOINTS_MISSING, text)
        steps = tuple((one.learning_rate, problem.objective.at(one.parameters)) for one in problem.checkpoints)
        return TracInFactors(UNUSED, leverage_correction=False, solver="", solver_status="", steps=steps)

    def query(self, factors: TracInFactors, problem: Problem, asked: Asked) -> TracInQueries:  # noqa: ARG002
        """Return the test rows' gradients at each checkpoint."""
        return TracInQueries(Effort(), tuple(asked.gradients(at) for _, at in factors.steps))

    def score(self, factors: TracInFactors, queries: TracInQueries, problem: Problem) -> Iterator[ScoreBlock]:
        """See Method."""
        objective, n = problem.objective, len(problem.train)
        size = block_rows(objective, problem.memory_bytes // 2, 3 * len(queries.gradients[0].norms()))

        def products(batch: Batch) -> Tensor:
            total: Tensor | float = 0.0
            for (rate, at), asked in zip(factors.steps, queries.gradients, strict=True):
                total = total + rate * loss_gradients(at, batch).gram(asked)
            return (total * row_weights(batch, n)).T

        return streamed(problem, size, products)

    def self_score(self, factors: TracInFactors, problem: Problem) -> SelfScores:
        """Yield Σ_c η_c (w_i/n) ‖∇ℓ_i(θ_c)‖²."""
        objective, n = problem.objective, len(problem.train)

        def own(batch: Batch) -> Tensor:
            squares = [rate * torch.square(loss_gradients(at, batch).norms()) for rate, at in factors.steps]
            return (torch.stack(squares).sum(dim=0)[:, None] * row_weights(batch, n))[:, 0]

        return without_effort(streamed(problem, block_rows(objective, problem.memory_bytes), own))
