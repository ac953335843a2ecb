"""Leverage, Cook's distance and DFBETA of the training rows of a linear head, in closed form, in one pass.

As in `leverage`: J_i = I_C ⊗ x̃_iᵀ, Q_i = (w_i/n) J_i (H+λI)⁻¹ J_iᵀ, r̃_i = (I − Σ_i Q_i)⁻¹ r_i, 1/n kept.

- h_i = trace(Σ_i Q_i): the diagonal of the hat matrix where C = 1 (Hoaglin & Welsch 1978; of the weighted one in a
  logistic regression, Pregibon 1981). They sum to p = trace((H+λI)⁻¹ H₀), the effective number of parameters, H₀ the
  Hessian without L2 and λ; without either that is the number of parameters.
- DFBETA_i = θ̂ − θ̂_(i) = −(w_i/n) (H+λI)⁻¹ J_iᵀ r̃_i: exact for squared error, one Newton step else (Pregibon 1981).
- D_i = n · DFBETA_iᵀ H₀ DFBETA_i / (p s²): the change of all fitted values, Σ_j w_j Δf_jᵀ Σ_j Δf_j, in units of p s²
  (Cook 1977). s² = Σ_j w_j ‖r_j‖² / (C n₊ − p) for squared error, n₊ the rows with weight; 1 for labels, whose variance
  is Σ_j.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason, ResourceExhausted

from .curvature import Damped, Dense, Hessian
from .damping import check_damping
from .data import Rows
from .diagnostics import EngineDiagnostics, begin
from .leverage import leverage_blocks
from .losses import SquaredError
from .methods import Problem
from .objective import Objective
from .progress import Progress, silent
from .quadratic_forms import QuadraticForms
from .solvers import Cholesky
from .solvers.base import relative_residuals

_REMEDY = "register the model with l2, pass damping=, or leave the row out"
_CHECKED_COLUMNS = 64
_ROUNDING = 1e-9
"""Share of the numbers that were fitted below which what is left of them after p parameters is rounding."""


@dataclass(frozen=True)
class LinearDiagnostics:
    """What each training row means to a linear model."""

    leverage: NDArray[np.float64]
    """h_i, (n,)."""
    cooks_distance: NDArray[np.float64]
    """D_i, (n,)."""
    dfbeta: NDArray[np.float64] | None
    """θ̂ − θ̂_(i), (n, P) in θ's order, where it was asked for."""
    parameters: float
    """p, the sum of the leverages."""
    variance: float
    """s²."""
    diagnostics: EngineDiagnostics


def linear_diagnostics(
    objective: Objective,
    train: Rows,
    *,
    damping: float | None = None,
    dfbeta: bool = False,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> LinearDiagnostics:
    """Return leverage, Cook's distance and, where asked for, DFBETA of every training row.

    Args:
        objective: with a linear head, at its minimum: nothing here moves it there.
        train: the n rows.
        damping: λ that is added to the Hessian; None adds none, whatever the L2.
        dfbeta: whether the (n, P) changes of the coefficients are kept.
        memory_bytes: budget of one block, and of DFBETA.
        progress: told after each block.

    Raises:
        InvalidArgument: INVALID_FIELD, INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING, MODEL_UNSUPPORTED.
        FailedPrecondition: LEVERAGE_UNAVAILABLE where the model is no linear head, where a row has leverage 1 and where
            nothing is left to estimate s² from; TOO_MANY_PARAMETERS, HESSIAN_SINGULAR, NON_FINITE_RESULT.
        ResourceExhausted: OUT_OF_MEMORY where DFBETA would not fit.
    """
    started = time.perf_counter()
    check_damping(damping)
    _check(objective, len(train), dfbeta, memory_bytes)
    diagnosis = begin(Problem(objective, train, memory_bytes=memory_bytes, progress=progress))
    lam = damping or 0.0
    H = Hessian(objective, train, memory_bytes=memory_bytes, progress=progress).to_dense()
    curvature = Damped(Dense(H), lam)
    inverse = torch.cholesky_inverse(Cholesky().prepare(curvature).factor)
    found = _pass(objective, train, inverse, lam, dfbeta, memory_bytes, progress)
    p = float(found.leverage.sum())
    variance = _variance(objective, found, p)
    columns = torch.linspace(0, len(inverse) - 1, min(len(inverse), _CHECKED_COLUMNS)).round().long()
    identity = torch.eye(len(inverse), dtype=inverse.dtype, device=inverse.device)[:, columns]
    residual = float(relative_residuals(curvature, inverse[:, columns], identity).max())
    return LinearDiagnostics(
        leverage=_numpy(found.leverage),
        cooks_distance=_numpy(found.displacement / (p * variance)),
        dfbeta=None if found.dfbeta is None else _numpy(found.dfbeta),
        parameters=p,
        variance=variance,
        diagnostics=EngineDiagnostics(
            estimand="leverage, Cook's distance and DFBETA = θ̂ − θ̂ without the training row, 1/n kept"
            + ("" if isinstance(objective.loss, SquaredError) else ", by one Newton step"),
            scale="removal",
            method="leverage",
            damping=lam,
            damping_source="convex" if damping is None else "given",
            leverage_correction=True,
            solver=Cholesky.name,
            solver_status="converged",
            residual=residual,
            matvecs=len(columns),
            stationarity=diagnosis.stationarity,
            dtype=str(objective.program.dtype).removeprefix("torch."),
            device=str(objective.program.device),
            seconds=time.perf_counter() - started,
            warnings=diagnosis.warnings,
        ),
    )


@dataclass(frozen=True)
class _Found:
    leverage: Tensor
    """(n,)."""
    displacement: Tensor
    """n · DFBETA_iᵀ H₀ DFBETA_i, (n,)."""
    dfbeta: Tensor | None
    squares: float
    """Σ_j w_j ‖r_j‖²."""
    counted: int
    """Numbers that were fitted: C for each row with weight."""


def _pass(
    objective: Objective,
    train: Rows,
    inverse: Tensor,
    lam: float,
    dfbeta: bool,
    memory_bytes: int,
    progress: Progress,
) -> _Found:
    head, n = objective.head, len(train)
    P = objective.space.dim
    added = objective.l2 + lam
    regularised = bool((added > 0).any())
    # (H+λI)⁻¹ H₀ (H+λI)⁻¹, which is the inverse itself where nothing is added to H₀.
    forms = QuadraticForms(head, inverse - (inverse * added) @ inverse) if regularised else None
    leverages, displacement = inverse.new_empty(n), inverse.new_empty(n)
    changes = inverse.new_empty(n, P) if dfbeta else None
    squares, counted = 0.0, 0
    row_numel = (forms.row_numel if forms is not None else 0) + (2 * P if dfbeta else 0)
    for block in leverage_blocks(
        objective, train, inverse, row_numel=row_numel, memory_bytes=memory_bytes, progress=progress
    ):
        r, batch = block.residuals, block.batch
        w = torch.ones_like(r[:, 0]) if batch.weights is None else batch.weights
        at = batch.index.to(inverse.device)
        corrected = block.corrected(_REMEDY)
        leverages[at] = (block.curvature * block.Q).sum(dim=(1, 2))
        metric = block.Q if forms is None else forms.of(block.features) * (w / n)[:, None, None]
        displacement[at] = w * torch.einsum("bc,bce,be->b", corrected, metric, corrected)
        if changes is not None:
            outer = corrected[:, :, None] * block.features[:, None, :]
            moved = inverse @ head.to_theta(outer.permute(1, 2, 0))
            changes[at] = -(w / n)[:, None] * moved.T
        squares += float(w @ r.square().sum(dim=1))
        counted += head.outputs * int((w > 0).sum())
    return _Found(leverages, displacement, changes, squares, counted)


def _variance(objective: Objective, found: _Found, p: float) -> float:
    """Return s².

    Raises:
        FailedPrecondition: LEVERAGE_UNAVAILABLE where no residual is left to estimate it from.
    """
    if not p > 0:
        text = "no training row has leverage: every feature, or every weight, is zero, and nothing can be compared"
        raise FailedPrecondition(Reason.LEVERAGE_UNAVAILABLE, text)
    if not isinstance(objective.loss, SquaredError):
        return 1.0
    free = found.counted - p
    if free <= _ROUNDING * found.counted or found.squares <= 0:
        text = (
            f"the model fits its {found.counted:,} target numbers exactly with {p:.4g} effective parameters, so Cook's "
            "distance has no unit: register more rows, the model's l2, or pass damping="
        )
        raise FailedPrecondition(Reason.LEVERAGE_UNAVAILABLE, text)
    return found.squares / free


def _check(objective: Objective, n: int, dfbeta: bool, memory_bytes: int) -> None:
    if objective.head is None:
        text = (
            "leverage, Cook's distance and DFBETA have closed forms where the prediction is linear in every selected "
            "parameter: register the model with its last layer alone, parameters=[…] (its report lists the names)"
        )
        raise FailedPrecondition(Reason.LEVERAGE_UNAVAILABLE, text)
    size = 8 * n * objective.space.dim
    if dfbeta and size > memory_bytes:
        text = (
            f"DFBETA of {n:,} rows and {objective.space.dim:,} parameters takes {size / 2**30:.1f} GiB, more than the "
            f"{memory_bytes / 2**30:.1f} GiB allowed: leave dfbeta out, or select fewer parameters"
        )
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)


def _numpy(values: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.to("cpu", torch.float64).numpy()
    return found
