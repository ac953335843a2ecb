"""Newton's method with a line search, for several convex objectives in step.

Each step solves H_k s = −∇R_k by conjugate gradients with products of the objective's own Hessian, preconditioned by
one that was factorised once (Nocedal & Wright 2006, algorithms 7.1 and 3.1). A removed row changes the Hessian by a
matrix of rank C, so a few products are enough; and because the Hessian is the objective's own and every step has to
decrease it, a fit that ends is at its minimum, whatever the preconditioner was.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument

from .conjugate_gradients import Preconditioner, conjugate_gradients, dot, norm
from .minima import CONVERGED, Minima
from .objectives import HeadObjectives

Preconditioning = Callable[[Tensor], Preconditioner]
"""Θ (d, K, C) of an iteration → its preconditioner."""

_FORCING = 1e-2
"""Relative residual of a step's linear system: the gradient that it leaves is this much, or of second order."""
NOTHING = 1e-4
"""Share of the tolerance below which a fit is at its minimum before its first step: elsewhere it takes one, so that a
row that hardly matters is measured too."""
_LIFT = 1e-3
"""Of ‖∇R‖, added to a Hessian that L2 does not hold: far from the minimum, where every row is saturated, it may have no
curvature left; near it the lift vanishes with the gradient (Polyak 2009)."""
_MOST_PRODUCTS = 300
_DECREASE = 1e-4
_ROUNDING = 1e-13
_SHORTEST = 2.0**-40
_STILL = 1e-4
"""Change of an output below which a Newton step counts as none, where ‖∇R‖ alone says little."""
_PATIENCE = 5
"""Steps that ‖∇R‖ may be below the tolerance while the outputs still move."""


@dataclass(frozen=True)
class Newton:
    """When a fit has converged, and when it is given up."""

    tolerance: float = 1e-10
    """‖∇R‖."""
    max_iterations: int = 100

    @classmethod
    def asked(cls, tolerance: float | None, max_iterations: int | None) -> "Newton":
        """Return the settings of a request, where None is what it leaves to us.

        Raises:
            InvalidArgument: INVALID_FIELD.
        """
        newton = cls(
            cls.tolerance if tolerance is None else tolerance,
            cls.max_iterations if max_iterations is None else max_iterations,
        )
        if not 0 < newton.tolerance < 1:
            raise InvalidArgument.at("tolerance", f"‖∇R‖ to stop at lies between 0 and 1, not {tolerance}")
        if newton.max_iterations < 1:
            raise InvalidArgument.at("max_iterations", f"is at least 1, not {max_iterations}")
        return newton

    def sure(self, objectives: HeadObjectives) -> bool:
        """Return whether a small ‖∇R‖ says that the minimum is near: L2 holds every coefficient, and well enough."""
        return objectives.modulus * _STILL >= self.tolerance

    def polish(self, found: Minima, objectives: HeadObjectives, precondition: Preconditioning) -> Minima:
        """Return minima as near as rounding lets a few steps more come: every later fit starts there."""
        finer = replace(self, tolerance=NOTHING * self.tolerance, max_iterations=3)
        better = finer.minimise(objectives, found.coefficients, precondition)
        if not bool((better.gradient_norms < found.gradient_norms).all()):
            return found
        return replace(found, coefficients=better.coefficients, gradient_norms=better.gradient_norms)

    def minimise(self, objectives: HeadObjectives, start: Tensor, precondition: Preconditioning) -> Minima:
        """Return the minimisers of K objectives, from `start` (d, K, C).

        Where L2 does not hold every coefficient, ‖∇R‖ vanishes on the way to infinity too, and where it hardly does a
        small ‖∇R‖ says little: there a fit has converged only once its next step would move no output.

        Args:
            objectives: R_k.
            start: where each begins.
            precondition: Θ (d, K, C) of an iteration → its preconditioner.
        """
        sure = self.sure(objectives)
        theta = start.clone()
        running = torch.arange(start.shape[1], device=start.device)
        values, gradients = objectives.evaluate(theta, running)
        iterations = torch.zeros_like(running)
        restless = torch.zeros_like(running)
        status = [""] * len(running)
        products = 0

        def ending(ended: Tensor, why: str) -> Tensor:
            """Note why the running fits of a mask have ended, and return the mask of the others."""
            for k in running[ended].tolist():
                status[k] = why
            return ~ended

        while len(running):
            norms = norm(gradients[:, running])
            running = running[ending(~torch.isfinite(norms), "a cost or its gradient is not finite")]
            norms = norm(gradients[:, running])
            small = norms <= self.tolerance * torch.where(iterations[running] > 0, 1, NOTHING)
            if sure:
                running, norms, small = running[ending(small, CONVERGED)], norms[~small], small[~small]
            if not len(running):
                break
            at = theta[:, running]
            step, solved, taken = self._step(objectives, running, at, gradients[:, running], precondition(at))
            products += taken
            still = solved & (sure or objectives.largest_move(step, running) <= _STILL)
            restless[running] += small & ~still
            left = ending(small & still, CONVERGED)
            if objectives.modulus == 0:
                grows = left & (restless[running] > _PATIENCE)
                left &= ending(grows, "the gradient vanishes while the outputs grow: there is no minimum")
            spent = left & (iterations[running] >= self.max_iterations)
            left &= ending(spent, f"{self.max_iterations} iterations were not enough")
            running, step, there = running[left], step[:, left], (still & (norms <= self.tolerance))[left]
            if not len(running):
                break
            found = _search(objectives, running, theta[:, running], values[running], gradients[:, running], step)
            theta[:, running], values[running], gradients[:, running], moved = found
            iterations[running] += 1
            # A fit that is already near enough may find that rounding leaves it no step.
            left = ending(~moved & there, CONVERGED) & ending(~moved & ~there, "rounding hides any further decrease")
            running = running[left]
        return Minima(theta, norm(gradients), iterations, status, products)

    def _step(
        self, objectives: HeadObjectives, at: Tensor, theta: Tensor, gradients: Tensor, precondition: Preconditioner
    ) -> tuple[Tensor, Tensor, int]:
        """Return −H⁻¹∇R, (d, K, C), as far as it pays, for which fits that far was reached, (K,), and the products."""
        norms = norm(gradients)
        nothing = NOTHING * self.tolerance
        # A quadratic is at its minimum after one exact step; elsewhere the next step corrects what this one leaves.
        goal = (0 if objectives.quadratic else _FORCING) * norms
        goal = torch.where(norms > nothing, goal.clamp(min=10 * nothing).minimum(0.5 * norms), norms)
        product = objectives.curvature(theta, at)
        lift = 0 if objectives.quadratic or objectives.modulus > 0 else _LIFT * norms[:, None]
        step, left, products = conjugate_gradients(
            lambda V: product(V) + lift * V, -gradients, precondition, goal, _MOST_PRODUCTS
        )
        return step, left <= goal, products * len(at)


def _search(
    objectives: HeadObjectives, at: Tensor, theta: Tensor, values: Tensor, gradients: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return Θ, R and ∇R at the first of 1, ½, ¼, … of the step that decreases R enough, and where one did, (K,).

    Near the minimum the decrease drowns in the rounding of R; there the slope decides (Hager & Zhang 2005).
    """
    slope = dot(gradients, step)
    theta_, values_, gradients_ = theta.clone(), values.clone(), gradients.clone()
    moved = torch.zeros_like(values, dtype=torch.bool)
    trying = torch.arange(len(at), device=at.device)
    scale = 1.0
    while len(trying) and scale >= _SHORTEST:
        trial = theta[:, trying] + scale * step[:, trying]
        value, gradient = objectives.evaluate(trial, at[trying])
        old, down = values[trying], slope[trying]
        flat = (value <= old + _ROUNDING * old.abs()) & (dot(gradient, step[:, trying]) <= 0.8 * down.abs())
        good = (down < 0) & ((value <= old + _DECREASE * scale * down) | flat)
        here = trying[good]
        theta_[:, here], values_[here], gradients_[:, here] = trial[:, good], value[good], gradient[:, good]
        moved[here] = True
        trying, scale = trying[~good], scale / 2
    return theta_, values_, gradients_, moved
