"""Averages of a method's scores over checkpoints, which even out what training leaves to chance (Park et al. 2023)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.engine.damping import Damping
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort

from .base import Factors, Method, Problem, Queries, ScoreBlock, SelfScores


@dataclass(frozen=True)
class Member:
    """One checkpoint as a problem of its own, and the method's factors for it."""

    problem: Problem
    factors: Any


@dataclass(frozen=True)
class EnsembleFactors(Factors):
    """The members."""

    members: tuple[Member, ...]


@dataclass(frozen=True)
class EnsembleQueries(Queries):
    """The method's queries for each member."""

    of: tuple[Any, ...]


def averaged(method: Method[Any]) -> "Ensemble":
    """Return a method whose scores are the averages of another's.

    Raises:
        InvalidArgument: INVALID_FIELD where the method works over the checkpoints already.
    """
    if method.spec.uses_checkpoints:
        text = f"{method.spec.name} works over all checkpoints already: leave ensemble out"
        raise InvalidArgument.at("ensemble", text)
    return Ensemble(method)


class Ensemble:
    """score(i, t) = (1/k) Σ_c score_c(i, t), with c over the k registered checkpoints.

    Every checkpoint has its own factors, damping and test gradients. The registered weights count only where they are a
    checkpoint too; a test row without a target is explained at every checkpoint by the label that they predict.
    """

    def __init__(self, method: Method[Any]) -> None:
        """Average this method."""
        self._method = method
        self.query_columns = method.query_columns
        self.spec = replace(
            method.spec, estimand=f"{method.spec.estimand}; averaged over the model's registered checkpoints"
        )

    def fit(self, problem: Problem) -> EnsembleFactors:
        """Fit the method at each checkpoint.

        Raises:
            InvalidArgument: WEIGHTS_MISMATCH.
            FailedPrecondition: CHECKPOINTS_MISSING; whatever the method raises.
        """
        if not problem.checkpoints:
            text = "the model has no checkpoints to average over: register it with checkpoints=, or leave ensemble out"
            raise FailedPrecondition(Reason.CHECKPOINTS_MISSING, text)
        members = []
        for checkpoint in problem.checkpoints:
            at = replace(problem, objective=problem.objective.at(checkpoint.parameters), checkpoints=())
            members.append(Member(at, self._method.fit(at)))
        found = [member.factors for member in members]
        return EnsembleFactors(
            damping=_damping([one.damping for one in found]),
            leverage_correction=found[0].leverage_correction,
            solver=found[0].solver,
            solver_status="; ".join(dict.fromkeys(one.solver_status for one in found)),
            query_columns=max(one.query_columns for one in found),
            dtype=found[0].dtype,
            warnings=tuple(dict.fromkeys(text for one in found for text in one.warnings)),
            members=tuple(members),
        )

    def query(self, factors: EnsembleFactors, problem: Problem, asked: Asked) -> EnsembleQueries:  # noqa: ARG002
        """See Method."""
        found = [self._method.query(member.factors, member.problem, asked) for member in factors.members]
        return EnsembleQueries(sum((one.effort for one in found), Effort()), tuple(found))

    def score(self, factors: EnsembleFactors, queries: EnsembleQueries, problem: Problem) -> Iterator[ScoreBlock]:
        """See Method. The (m, n) sums are held meanwhile, as members cut the rows where they like."""
        total: torch.Tensor | None = None
        for member, asked in zip(factors.members, queries.of, strict=True):
            for block in self._method.score(member.factors, asked, member.problem):
                if total is None:
                    total = block.scores.new_zeros(len(block.scores), len(problem.train))
                total[:, block.index.to(total.device)] += block.scores
        if total is not None:
            yield ScoreBlock(torch.arange(len(problem.train)), total / len(factors.members))

    def self_score(self, factors: EnsembleFactors, problem: Problem) -> SelfScores:
        """See Method."""
        total = torch.zeros(len(problem.train), dtype=torch.float64)
        effort = Effort()
        for member in factors.members:
            for block, taken in self._method.self_score(member.factors, member.problem):
                total[block.index] += block.scores.to("cpu", torch.float64)
                effort += taken
        yield ScoreBlock(torch.arange(len(problem.train)), total / len(factors.members)), effort


def _damping(found: list[Damping]) -> Damping:
    """Return the mean of the members' λ, which each resolved for itself."""
    return replace(
        found[0],
        value=sum(one.value for one in found) / len(found),
        standard_error=max(one.standard_error for one in found),
    )
