"""Fit an index: measure and invert the curvature, and choose what is kept of a row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.engine.curvature import Dense, GaussNewton, Hessian
from undue_service.engine.curvature.eigenbasis import DenseBasis
from undue_service.engine.curvature.ekfac import fit_ekfac
from undue_service.engine.damping import Damping, resolve_damping
from undue_service.engine.fisher import uniform
from undue_service.engine.gradients import FactoredGradients, block_rows, loss_gradients, training_batches
from undue_service.engine.methods import Factors, Problem
from undue_service.engine.methods.ekfac import check_invertible
from undue_service.engine.solvers.refusals import refuse_not_finite, refuse_spectrum

from .fitted import FittedIndex
from .layout import choose_layout, row_numel
from .quantised import column_sizes
from .regions import Region

METHODS = ("exact", "gauss_newton", "ekfac")
"""That an index can hold."""
SAMPLED = 2048
"""Rows, drawn at random, that column sizes are measured on."""
MOST_RECALLED = 32
"""Rows, drawn at random, that recall is measured with."""
_RECALL_OPERATIONS = 2.5e11
"""Multiplications that measuring recall may take: some seconds."""


def precision(method: str) -> str:
    """Return the arithmetic of an index: that of a matrix which is written down is float64."""
    return "float32" if method == "ekfac" else "float64"


def fit_index(problem: Problem, method: str) -> FittedIndex:
    """Measure and invert the curvature, and choose what is kept of a row.

    Args:
        problem: the objective in the precision of the method, and the rows that the model was trained on.
        method: `exact`, `gauss_newton` or `ekfac`. The first two write the matrix over all selected parameters down.

    Raises:
        InvalidArgument: METHOD_UNKNOWN; LEVERAGE_UNAVAILABLE where the correction is asked for and cannot be had.
        FailedPrecondition: TOO_MANY_PARAMETERS, HESSIAN_SINGULAR, HESSIAN_NOT_POSITIVE_DEFINITE, NON_FINITE_RESULT.
    """
    if method not in METHODS:
        text = f"an index holds {', '.join(METHODS)}; {method!r} is none of them"
        raise InvalidArgument.at("method", text, Reason.METHOD_UNKNOWN)
    objective = problem.objective
    corrects = _corrects(problem, method)
    regions, damping, solver = _ekfac(problem) if method == "ekfac" else _matrix(problem, method)
    factors = Factors(damping, corrects, solver, "converged", dtype=objective.program.dtype)
    sample = _gradients(problem, drawn(len(problem.train), _sampled(problem, regions), problem.seed))
    rotated = [region.rotated(sample) for region in regions]
    layout = choose_layout(regions, objective.taps, rotated)
    shape = FittedIndex(
        factors, method, len(problem.train), regions, layout, (), torch.zeros(0, dtype=torch.int64), objective.theta[:0]
    )
    columns = tuple(column_sizes(x) for x in shape.numbers(rotated))
    recalled = drawn(len(problem.train), _recall_queries(problem), problem.seed + 1)
    queries = _gradients(problem, recalled)
    solved = torch.empty(objective.space.dim, len(recalled)).to(objective.theta)
    for region in regions:
        found = region.solve(queries)
        if region.block is None:
            solved.copy_(found)
        else:
            objective.taps.blocks[region.block].put(found, solved)
    return FittedIndex(factors, method, len(problem.train), regions, layout, columns, recalled, solved)


def drawn(n: int, count: int, seed: int) -> Tensor:
    """Return `count` of the row numbers below n, or all, ascending; only n, count and the seed decide which."""
    order = torch.argsort(uniform(torch.arange(n), 1, seed)[:, 0])
    return order[:count].sort().values


def _ekfac(problem: Problem) -> tuple[tuple[Region, ...], Damping, str]:
    objective = problem.objective
    curvature = fit_ekfac(
        objective, problem.train, seed=problem.seed, memory_bytes=problem.memory_bytes, progress=problem.progress
    )
    damping = resolve_damping(problem.damping, objective, curvature.mean_eigenvalue)
    check_invertible(curvature, damping.value)
    known = zip(curvature.bases, curvature.eigenvalues, curvature.spectrum(), strict=True)
    regions = tuple(
        Region(place, basis, 1 / (spectrum + damping.value), eigenvalues)
        for place, (basis, eigenvalues, spectrum) in enumerate(known)
    )
    return regions, damping, "ekfac"


def _matrix(problem: Problem, method: str) -> tuple[tuple[Region, ...], Damping, str]:
    objective = problem.objective
    hessian = Hessian if method == "exact" or objective.head is not None else GaussNewton
    dense = hessian(objective, problem.train, memory_bytes=problem.memory_bytes, progress=problem.progress).to_dense()
    damping = resolve_damping(problem.damping, objective, Dense(dense).mean_eigenvalue)
    problem.progress("eigenvectors", 0, 0)
    values, vectors = torch.linalg.eigh(dense)
    if not bool(torch.isfinite(values).all()):
        refuse_not_finite("the curvature")
    damped = values + damping.value
    rounding = len(values) * torch.finfo(torch.float64).eps * float(damped.abs().max())
    if float(damped.min()) <= rounding:
        refuse_spectrum(float(damped.min()), float(damped.max()), damping.value, rounding)
    of_l2 = (vectors.square() * objective.l2[:, None]).sum(dim=0)
    return (Region(None, DenseBasis(vectors), 1 / damped, values - of_l2),), damping, "eigh"


def _corrects(problem: Problem, method: str) -> bool:
    wanted, can = problem.leverage_correction, problem.objective.head is not None and method != "ekfac"
    if wanted and not can:
        text = (
            "the leverage correction needs a model whose outputs are linear in every selected parameter and "
            'method="exact": select only the last layer with parameters=, or leave leverage_correction out'
        )
        raise InvalidArgument.at("leverage_correction", text, Reason.LEVERAGE_UNAVAILABLE)
    return can if wanted is None else wanted


def _recall_queries(problem: Problem) -> int:
    objective, n = problem.objective, len(problem.train)
    P = objective.space.dim
    by_memory = problem.memory_bytes // 8 // (objective.theta.element_size() * P)
    return int(max(1, min(MOST_RECALLED, by_memory, _RECALL_OPERATIONS // (n * P))))


def _sampled(problem: Problem, regions: Sequence[Region]) -> int:
    return min(
        SAMPLED, block_rows(problem.objective, problem.memory_bytes // 4, row_numel(regions, problem.objective.taps))
    )


def _gradients(problem: Problem, rows: Tensor) -> FactoredGradients:
    [batch] = training_batches(problem.objective, problem.train, len(rows), rows.tolist())
    return loss_gradients(problem.objective, batch)
