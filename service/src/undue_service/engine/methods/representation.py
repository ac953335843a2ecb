"""`representation`: how alike the last layer finds two rows (Hanawa et al. 2021, cosine), with the sign of removal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import escape

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.methods import METHODS
from undue_service.engine.damping import UNUSED
from undue_service.engine.data import Batch
from undue_service.engine.gradients import block_rows
from undue_service.engine.head import LinearHead, find_head
from undue_service.engine.measurements import measure
from undue_service.engine.objective import Objective
from undue_service.engine.parameters import ParameterSpace
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort

from .base import Factors, Problem, Queries, ScoreBlock, SelfScores, check_settings, streamed, without_effort


@dataclass(frozen=True)
class RepresentationFactors(Factors):
    """The last layer."""

    head: LinearHead
    """Of its weight alone: its features are what it reads."""


@dataclass(frozen=True)
class Read:
    """What the last layer reads of some rows, and where their costs pull the outputs."""

    unit: Tensor
    """h / ‖h‖, (B, d); zero where h is."""
    pull: Tensor
    """Gradient of the cost with respect to the outputs, (B, C)."""


@dataclass(frozen=True)
class RepresentationQueries(Queries):
    """The test rows."""

    of: Read
    mean: bool


class Representation:
    """score(i, t) = sign(r_i · r_t) · h_i · h_t / (‖h_i‖ ‖h_t‖), h the last layer's input, r = ∂m/∂f; 0 where w_i = 0.

    Its size is the cosine of representations of the literature, whichever parameters are selected. Its sign is that of
    the last layer's inner product of gradients: a close row with the same label helps, one with another label harms.
    """

    spec = METHODS["representation"]
    query_columns = 0

    def fit(self, problem: Problem) -> RepresentationFactors:
        """Find the last layer.

        Raises:
            InvalidArgument: INVALID_FIELD, LEVERAGE_UNAVAILABLE; MODEL_UNSUPPORTED where the outputs are no linear
                layer's.
        """
        check_settings(problem, self.spec)
        return RepresentationFactors(
            UNUSED, leverage_correction=False, solver="", solver_status="", head=last_layer(problem.objective)
        )

    def query(self, factors: RepresentationFactors, problem: Problem, asked: Asked) -> RepresentationQueries:
        """Return what the last layer reads of the test rows; the mean of their costs keeps each."""
        loss = problem.objective.loss
        parts = []
        for _, batch in asked.batches(problem.objective):
            y = batch.targets
            parts.append(_read(factors.head, batch, lambda f, y=y: measure(asked.measurement, loss, f, y)))
        of = Read(torch.cat([part.unit for part in parts]), torch.cat([part.pull for part in parts]))
        return RepresentationQueries(Effort(), of, asked.mean)

    def score(
        self, factors: RepresentationFactors, queries: RepresentationQueries, problem: Problem
    ) -> Iterator[ScoreBlock]:
        """See Method."""
        objective, of = problem.objective, queries.of
        size = block_rows(objective, problem.memory_bytes // 2, factors.head.features + 4 * len(of.unit))

        def similarities(batch: Batch) -> Tensor:
            read = _read_training(factors.head, objective, batch)
            scores = (of.unit @ read.unit.T).clamp(-1, 1) * torch.sign(of.pull @ read.pull.T)
            if batch.weights is not None:
                scores = scores * (batch.weights > 0)
            return scores.mean(dim=0, keepdim=True) if queries.mean else scores

        return streamed(problem, size, similarities)

    def self_score(self, factors: RepresentationFactors, problem: Problem) -> SelfScores:
        """Yield 1, or 0 where a row reads as zero, fits exactly or has no weight: no ranking."""
        objective = problem.objective

        def own(batch: Batch) -> Tensor:
            read = _read_training(factors.head, objective, batch)
            counts = (read.unit != 0).any(dim=1) & (read.pull != 0).any(dim=1)
            if batch.weights is not None:
                counts &= batch.weights > 0
            return counts.to(read.unit.dtype)

        return without_effort(streamed(problem, block_rows(objective, problem.memory_bytes), own))


def last_layer(objective: Objective) -> LinearHead:
    """Return the linear layer that makes the outputs, as the head of its weight alone.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED where there is none.
    """
    program = objective.program
    for name, tensor in reversed(program.parameters.items()):
        if tensor.is_floating_point():
            head = find_head(program, ParameterSpace(program, (escape(name),)))
            if head is not None and head.has_weight:
                return head
    text = (
        "the model's outputs do not come from a linear layer over a vector a row, so there is no representation to "
        'compare: use method="grad_cos"'
    )
    raise InvalidArgument.at("method", text, Reason.MODEL_UNSUPPORTED)


def _read_training(head: LinearHead, objective: Objective, batch: Batch) -> Read:
    return _read(head, batch, lambda f: objective.loss.losses(f, batch.targets))


def _read(head: LinearHead, batch: Batch, cost: Callable[[Tensor], Tensor]) -> Read:
    h, f = head.evaluate(batch.inputs)
    f = f.detach().requires_grad_()
    with torch.enable_grad():
        (pull,) = torch.autograd.grad(cost(f).sum(), f)
    norms = torch.linalg.vector_norm(h, dim=1, keepdim=True)
    return Read((h / norms.where(norms > 0, 1)).detach(), pull)
