"""Limited-memory BFGS for several objectives in step, each iteration one pass over the rows.

All fits start at one Θ, where the gradient of each is known. The inverse of one Hessian near theirs, factorised once,
is the first matrix (Nocedal & Wright 2006, algorithm 7.4), and the pairs learn what each objective and the way since
change of it. There is no line search: a step that does not shrink ‖∇R_k‖ is not taken, and the fit is left to Newton's
method.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .conjugate_gradients import Preconditioner, dot, norm
from .minima import CONVERGED, Minima
from .newton import NOTHING, Newton

Gradients = Callable[[Tensor, Tensor], Tensor]
"""Θ (d, A, C) and the numbers (A,) int64 of objectives → their ∇R_k, (d, A, C)."""

_MOST_STEPS = 12
"""After that many the pairs have learnt what they can."""
UNFINISHED = ""
"""Status of a fit that is left to Newton's method."""


@dataclass
class _Pairs:
    """Differences of the way and of the gradients along it, newest last."""

    steps: list[Tensor]
    slopes: list[Tensor]

    def direction(self, gradients: Tensor, solve: Preconditioner) -> Tensor:
        """Return −B⁻¹∇R of each fit, (d, K, C)."""
        q = gradients.clone()
        taken = []
        for s, y in zip(reversed(self.steps), reversed(self.slopes), strict=True):
            curvature = dot(s, y)
            rho = torch.where(curvature > 0, 1 / curvature, 0)
            alpha = rho * dot(s, q)
            q -= alpha[:, None] * y
            taken.append((rho, alpha))
        r = solve(q)
        for (s, y), (rho, alpha) in zip(zip(self.steps, self.slopes, strict=True), reversed(taken), strict=True):
            r += (alpha - rho * dot(y, r))[:, None] * s
        return -r

    def of(self, kept: Tensor) -> "_Pairs":
        """Return the pairs of some fits, a mask."""
        return _Pairs([s[:, kept] for s in self.steps], [y[:, kept] for y in self.slopes])


def descend(newton: Newton, gradient: Gradients, start: Tensor, first: Tensor, solve: Preconditioner) -> Minima:
    """Return where K fits end, some of them with the status UNFINISHED.

    Args:
        newton: whose tolerance and number of iterations hold here, too.
        gradient: of R_k.
        start: Θ (d, C).
        first: ∇R_k there, (d, K, C).
        solve: V (d, K, C) → H⁻¹ V_k of a Hessian near theirs there.
    """
    K = first.shape[1]
    theta = start[:, None].repeat(1, K, 1)
    gradients = first.clone()
    norms = norm(gradients)
    iterations = torch.zeros(K, dtype=torch.int64, device=theta.device)
    status = [CONVERGED if bool(one) else UNFINISHED for one in norms <= NOTHING * newton.tolerance]
    running = torch.tensor([k for k in range(K) if status[k] == UNFINISHED], dtype=torch.int64, device=theta.device)
    pairs = _Pairs([], [])
    for _ in range(min(_MOST_STEPS, newton.max_iterations)):
        if not len(running):
            break
        step = pairs.direction(gradients[:, running], solve)
        trial = theta[:, running] + step
        found = gradient(trial, running)
        reached = norm(found)
        shrinks = reached < norms[running]  # not where one of them is no number
        at = running[shrinks]
        pairs = _Pairs([*pairs.steps, step], [*pairs.slopes, found - gradients[:, running]]).of(shrinks)
        theta[:, at], gradients[:, at], norms[at] = trial[:, shrinks], found[:, shrinks], reached[shrinks]
        iterations[at] += 1
        near = norms[at] <= newton.tolerance
        for k in at[near].tolist():
            status[k] = CONVERGED
        running, pairs = at[~near], pairs.of(~near)
    return Minima(theta, norms, iterations, status, 0)


def unfinished(found: Minima) -> Sequence[int]:
    """Return which fits are left to Newton's method."""
    return [k for k, status in enumerate(found.status) if status == UNFINISHED]
