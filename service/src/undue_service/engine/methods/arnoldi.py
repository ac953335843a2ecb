"""`arnoldi`: influence by the leading eigenpairs of the damped Gauss–Newton matrix (Schioppa et al. 2022)."""

from operator import attrgetter

from undue_service.domain.methods import METHODS
from undue_service.engine.curvature import GaussNewton
from undue_service.engine.solvers import DEFAULT_RANK, Arnoldi

from .base import Problem
from .influence import Influence, Solved


def arnoldi() -> Influence:
    """Return the method."""
    return Influence(METHODS["arnoldi"], GaussNewton, _solver, attrgetter("status"))


def _solver(problem: Problem, told: Solved) -> Arnoldi:
    return Arnoldi(DEFAULT_RANK if problem.rank is None else problem.rank, problem.seed, told)
