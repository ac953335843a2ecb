"""LiSSA (Agarwal, Bullins & Hazan 2017): a solve by products with a few rows each, restarted on what is left."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Curvature, Damped, MeanOfRows, known_diagonal, undamped

from .base import Solution
from .lanczos import ritz_range, spectrum
from .refusals import damping_of, refuse_not_finite, refuse_spectrum

DEFAULT_TOLERANCE = 1e-3
DEFAULT_MAX_ITERATIONS = 50_000

_LANCZOS_STEPS = 20
_BATCH = 4
"""Times trace/λ_max. With 1, 2, 4, 8 of it digits softmax took 0.5, 0.5, 0.5, 0.6 seconds and an MLP of 760 parameters
27, 10, 7, 7: rows that curve more than the trace suggests cost rounds, and larger batches cost passes."""
_TIME_CONSTANTS = 2
"""Depth of one recursion, in those of its slowest direction."""
_BLIND_STEPS = 64
"""Depth where nothing bounds the smallest eigenvalue from below."""
_WIDENINGS = 4
"""How often the scale is doubled where a recursion has made things worse."""
_GAIN = 5.0
"""By how much a recursion lessens the residual: 4–10 was measured."""


def _unheard(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Recursion:
    """How a curvature is iterated with."""

    curvature: Curvature
    largest: float
    """λ_max of A, λ included."""
    batch: int
    """Rows of one product; 0 where each takes all."""
    scale: float
    """σ."""
    depth: int
    """Steps between two measured residuals."""


@dataclass(frozen=True)
class LiSSA:
    """A s = v by u ← u + (r − A_b u)/σ, A_b the mean over b random rows, λ included; then s ← s + ū, r ← v − A s.

    Koh & Liang's recursion (2017, section 3) is the one with r = v and a single round. Its noise comes from A_b and is
    proportional to u, so it has a floor that no depth gets below; but restarted on the measured residual r the noise
    shrinks with r, and the error falls by a factor a round. ū averages the second half of the steps (Polyak & Juditsky
    1992). Rows are drawn without replacement, from `seed`.

    σ, b and the depth follow from λ_max (20 Lanczos steps), the trace, and the floor λ + min l2 of the spectrum. With
    b = 4 trace/λ_max a batch curves little more than the mean does, σ = λ_max + trace/b keeps ‖A_b/σ‖ < 1 in the mean
    square, and 2σ/floor steps reach the slowest direction. λ is that of the system and stands unscaled inside A_b;
    the reference code adds it to the scaled recursion, where it means σ·λ. About 2σ/floor · ln(1/tolerance)/ln 5 steps
    are taken: a system that is conditioned worse than 10³ is one for conjugate gradients.
    """

    name: ClassVar[str] = "lissa"
    tolerance: float = DEFAULT_TOLERANCE
    """‖A s − v‖ ≤ tolerance · ‖v‖ for each column, by a product with all rows."""
    max_iterations: int = DEFAULT_MAX_ITERATIONS
    """Steps of one `solve`, over all rounds, at most."""
    seed: int = 0
    progress: Callable[[int, int], None] = _unheard
    """Told (columns solved, columns) after every step."""

    def prepare(self, curvature: Curvature) -> Recursion:
        """Estimate λ_max and the trace.

        Raises:
            FailedPrecondition: HESSIAN_NOT_POSITIVE_DEFINITE where negative curvature is met, NON_FINITE_RESULT.
        """
        floor = known_diagonal(curvature)
        start = torch.randn(len(floor), generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        found = spectrum(curvature, start.to(floor), _LANCZOS_STEPS)
        rounding = _rounding(floor, found.largest)
        if found.smallest < -rounding or found.largest <= rounding:
            refuse_spectrum(found.smallest, found.largest, damping_of(curvature), rounding)
        largest = 1.01 * found.largest + found.uncertainty
        inner, _ = undamped(curvature)
        batch, scale = 0, largest
        if isinstance(inner, MeanOfRows):
            trace = inner.mean_eigenvalue().value * len(floor) - float(inner.diagonal.sum())
            batch = math.ceil(_BATCH * max(trace, largest) / largest)
            batch = 0 if 2 * batch > inner.rows else batch
            scale += trace / batch if batch else 0
        least = float(floor.min())
        depth = math.ceil(_TIME_CONSTANTS * scale / least) if least > rounding else _BLIND_STEPS
        return Recursion(curvature, largest, batch, scale, depth)

    def solve(self, state: Recursion, rhs: Tensor) -> Solution:
        """Solve for the columns of `rhs`, (P, K). `matvecs` counts a product with b of n rows as b/n.

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED where the residual is not met within `max_iterations` steps or the
                recursion diverges; HESSIAN_NOT_POSITIVE_DEFINITE, HESSIAN_SINGULAR where the reason is found to be
                that; NON_FINITE_RESULT where a right-hand side or a product is not finite.
        """
        norms = rhs.norm(dim=0)
        if not bool(torch.isfinite(norms).all()):
            refuse_not_finite("a gradient")
        unit = rhs / norms.where(norms > 0, 1)
        value, rest = torch.zeros_like(rhs), unit.clone()
        residuals = (norms > 0).to(rhs.dtype)
        parts = _parts(state, torch.Generator().manual_seed(self.seed))
        steps, widened, matvecs = 0, 0, 0.0
        while bool((residuals > self.tolerance).any()):
            left = (residuals > self.tolerance).nonzero()[:, 0]
            scale = state.scale * 2**widened
            if steps >= self.max_iterations or widened > _WIDENINGS:
                self._give_up(state, rest, residuals, steps, scale, diverged=widened > _WIDENINGS)
            depth = min(state.depth * 2**widened, self.max_iterations - steps)
            moved = self._recurse(parts, rest[:, left], scale, depth, (rhs.shape[1] - len(left), rhs.shape[1]))
            trial = value[:, left] + moved
            remains = unit[:, left] - state.curvature.matmat(trial)
            found = remains.norm(dim=0)
            better = found < residuals[left]  # False of NaN too
            at = left[better]
            value[:, at], rest[:, at], residuals[at] = trial[:, better], remains[:, better], found[better]
            steps += depth
            share = state.batch / _rows(state) if state.batch else 1.0
            matvecs += len(left) * (depth * share + 1)
            widened += not bool(better.all())
        self.progress(rhs.shape[1], rhs.shape[1])
        return Solution(value * norms, "converged", residuals, math.ceil(matvecs))

    def _recurse(
        self, parts: Iterator[Curvature], r: Tensor, scale: float, depth: int, columns: tuple[int, int]
    ) -> Tensor:
        """Return the mean of the last half of `depth` steps towards A⁻¹ r."""
        u, total = torch.zeros_like(r), torch.zeros_like(r)
        first = depth // 2
        for step in range(depth):
            u = u.add(r - next(parts).matmat(u), alpha=1 / scale)
            if step >= first:
                total += u
            self.progress(*columns)
        return total / (depth - first)

    def _give_up(
        self, state: Recursion, rest: Tensor, residuals: Tensor, steps: int, scale: float, *, diverged: bool
    ) -> NoReturn:
        worst, count = float(residuals.max()), int((residuals > self.tolerance).sum())
        smallest, largest = ritz_range(state.curvature, rest[:, int(residuals.argmax())])
        rounding = _rounding(rest, state.largest)
        if smallest <= rounding:
            refuse_spectrum(smallest, max(largest, state.largest), damping_of(state.curvature), rounding)
        rounds = math.ceil(math.log(1 / self.tolerance) / math.log(_GAIN)) + 1
        enough = f"{1.05 * (damping_of(state.curvature) + _TIME_CONSTANTS * scale * rounds / self.max_iterations):.1e}"
        how = "diverged at every scale tried" if diverged else f"did not converge within {steps:,} steps"
        text = (
            f"LiSSA {how} (batches of {state.batch or 'all'} rows, scale {scale:.3g}, λ_max {state.largest:.3g}): "
            f"{count:,} of {len(residuals):,} right-hand sides have a relative residual above {self.tolerance:.1g}, "
            f'the largest {worst:.2g}; use method="cg", pass a larger damping (damping={enough} should do), a larger '
            f"tolerance, or max_iterations={10 * self.max_iterations}"
        )
        metadata = {
            "residual": f"{worst:.6g}",
            "unsolved": str(count),
            "iterations": str(steps),
            "sufficient_damping": enough,
        }
        raise FailedPrecondition(Reason.SOLVER_NOT_CONVERGED, text, metadata=metadata)


def _parts(state: Recursion, generator: torch.Generator) -> Iterator[Curvature]:
    """Yield A_b without end: the rows of a permutation, b at a time, then of another."""
    inner, damping = undamped(state.curvature)
    while True:
        if not state.batch or not isinstance(inner, MeanOfRows):
            yield state.curvature
            continue
        order = torch.randperm(inner.rows, generator=generator).tolist()
        for start in range(0, inner.rows - state.batch + 1, state.batch):
            yield Damped(inner.of(order[start : start + state.batch]), damping)


def _rows(state: Recursion) -> int:
    inner, _ = undamped(state.curvature)
    return inner.rows if isinstance(inner, MeanOfRows) else 1


def _rounding(like: Tensor, largest: float) -> float:
    return len(like) * torch.finfo(like.dtype).eps * abs(largest)
