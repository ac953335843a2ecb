"""Retraining of linear heads: each fit to the minimum of its objective, by L-BFGS passes or Newton's method."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT
from undue_service.engine.data import Rows
from undue_service.engine.measurements import measure
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.solvers.refusals import refuse_not_finite

from .determined import Determination
from .edited_objectives import EditedObjectives
from .edits import Edit
from .head_edits import HeadEdits
from .head_rows import HeadRows, registered, repeated
from .newton import CONVERGED, Minima, Newton, Preconditioner
from .quasi_newton import descend, unfinished
from .refits import Refitted, check_costs, fields_of
from .training import Divisor

DEFAULT_TOLERANCE = 1e-10
DEFAULT_MAX_ITERATIONS = 100
_STAGE = "fits without rows"
_LIFT = 1e-6
_FEW_PRODUCTS = 4
"""That a step takes whose preconditioner is as good as a new one."""
_STATES = 40
"""Numbers that each coefficient of a fit takes: the pairs of its way, and what passes between."""
_LARGE = 2_000
_TAME = 1e6
"""‖H‖ over the least eigenvalue, up to which a factor in float32 serves."""
_FEW_AT_ONCE = 8
_MOST_AT_ONCE = 64  # more fits in step are no faster, and a caller wants to hear from us

_OBJECTIVES = {
    "kept_n": "the registered objective without the rows, or with the edited ones, 1/n kept",
    "subset": "the registered objective over each subset S alone, its mean over |S| rows",
}


class NewtonRefits:
    """Minimisers under edits of the rows.

    Each starts from θ̂*, the minimiser on all rows; that is found first, from the registered weights θ̂, which may stop
    short of it.
    """

    starts_warm = False

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        test: Rows,
        rows: Sequence[int],
        *,
        measurement: str = "loss",
        newton: Newton | None = None,
        notes: tuple[str, ...] = (),
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind a head to its data; nothing is fitted yet. `newton` says when a fit has converged.

        Raises:
            FailedPrecondition: TOO_MANY_PARAMETERS.
        """
        check_size(objective)
        self._objective = objective
        self._train = train
        self._measurement = measurement
        self._newton = newton or newton_settings(None, None)
        self._notes = notes
        self._share = memory_bytes // 4
        self._progress = progress
        self._features = HeadRows(objective, train, memory_bytes=self._share, progress=progress)
        self._tests = HeadRows(objective, test, rows, explained=True, memory_bytes=self._share, progress=progress)
        self._whole = self._objectives([Edit()], divisor="kept_n", stage="fit on all rows", done=0, total=1)
        self._star: Tensor | None = None
        self.matvecs = 0
        self.distance = 0.0
        self.wrong: NDArray[np.float32] | None = None

    def baseline(self) -> NDArray[np.float64]:
        """Return the costs at θ̂*, (m,).

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED, NON_FINITE_RESULT.
        """
        if self._star is None:
            factors = _Reused(self._whole)
            full = self._newton.minimise(self._whole, registered(self._objective)[:, None], factors)
            _check_converged(full, 0, None, (), self._newton)
            full = self._newton.polish(full, self._whole, factors)
            self._star = full.coefficients[:, 0]
            self._gradient = self._whole.gradients(full.coefficients, full.iterations.new_zeros(1))[:, 0]
            self._frozen = factors.last(self._star)
            self._determination = Determination(self._whole, self._star)
            costs, wrong = self._measured(full.coefficients)
            self._costs, self.wrong = costs[0], None if wrong is None else wrong[0]
            self.matvecs = full.products
            self.distance = float((self._star - registered(self._objective)).norm())
        return self._costs

    def after(
        self, edits: Sequence[Edit], divisor: Divisor = "kept_n", fields: Sequence[str] | None = None
    ) -> Refitted:
        """Return the fits after each edit.

        Raises:
            InvalidArgument: INVALID_FIELD where an edit leaves nothing.
            FailedPrecondition: SOLVER_NOT_CONVERGED, NON_FINITE_RESULT, HESSIAN_SINGULAR where the rows that are left
                do not determine the predictions.
        """
        self.baseline()
        names = fields_of(edits, fields)
        costs = np.empty((len(edits), len(self._tests)))
        wrong: list[NDArray[np.float32]] = []
        norms, iterations, products = np.empty(len(edits)), np.empty(len(edits), dtype=np.int64), 0
        for here in self._groups(edits):
            some, at = edits[here], names[here]
            made = partial(self._objectives, divisor=divisor, stage=_STAGE, done=here.start, total=len(edits))
            objectives = made(some)
            _check_left(objectives, some, at)
            self._determination.check(objectives, some, at, here.start)
            found = self._fitted(objectives, lambda left, some=some, made=made: made([some[k] for k in left]))
            _check_converged(found, here.start, some, at, self._newton)
            costs[here], mistaken = self._measured(found.coefficients)
            wrong += [] if mistaken is None else [mistaken]
            norms[here], iterations[here] = found.gradient_norms.cpu().numpy(), found.iterations.cpu().numpy()
            products += found.products
            self._progress(_STAGE, here.stop, len(edits))
        self.matvecs += products
        return Refitted(costs, norms, iterations, products, np.concatenate(wrong) if wrong else None)

    def recipe(self, divisor: Divisor = "kept_n") -> str:
        """Return in words what was done."""
        return (
            f"the minimiser of {_OBJECTIVES[divisor]}, by L-BFGS or Newton's method from the minimiser on all "
            f"rows, from which the registered weights lie {self.distance:.2g} away"
            + (" and at which the costs before are measured" if divisor == "kept_n" else "")
        )

    @property
    def solver(self) -> tuple[str, str]:
        """Return what fits, and how it ended."""
        return "newton", CONVERGED

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the reader should know."""
        return (*self._notes, *(self._determination.warnings if self._star is not None else ()))

    def _fitted(self, objectives: EditedObjectives, these: Callable[[Sequence[int]], EditedObjectives]) -> Minima:
        """Return the minima: by one pass an iteration where that does, else by Newton's method from where it has led.

        Args:
            objectives: R_k.
            these: some of them by their numbers.
        """
        start, newton = self._star[:, None].expand(-1, len(objectives), -1), self._newton
        if objectives.quadratic or not objectives.few or not newton.sure(objectives):
            return newton.minimise(objectives, start, lambda _: self._frozen)
        found = descend(newton, objectives, self._star, self._gradient, self._frozen)
        left = unfinished(found)
        if not left:
            return found
        spent = int(found.iterations[left].max())
        newton = replace(newton, max_iterations=newton.max_iterations - spent)
        rest = newton.minimise(these(left), found.coefficients[:, left], lambda _: self._frozen)
        return found.with_those(left, rest)

    def _objectives(
        self, some: Sequence[Edit], *, divisor: Divisor, stage: str, done: int, total: int
    ) -> EditedObjectives:
        return EditedObjectives(
            self._objective,
            HeadEdits(self._objective, self._train, self._features, some),
            divisor=divisor,
            memory_bytes=self._share,
            told=lambda: self._progress(stage, done, total),
        )

    def _groups(self, edits: Sequence[Edit]) -> Iterator[slice]:
        """Yield which edits are fitted in step.

        What replaces a row of one passes through the heads of all, so that few rows may be replaced in one group.
        """
        most, rows = self._at_once(), max(_MOST_AT_ONCE, len(self._features) // 8)
        first = replaced = 0
        for k, edit in enumerate(edits):
            replaced += len(edit.replaced)
            if k > first and (k - first == most or replaced > rows):
                yield slice(first, k)
                first, replaced = k, len(edit.replaced)
        yield slice(first, len(edits))

    def _at_once(self) -> int:
        """Return how many fits fit into the budget, at least one."""
        C, own = self._objective.head.outputs, _STATES * self._objective.space.dim
        train, test = self._features, self._tests

        def fitting(rows: int) -> int:
            return self._share // (8 * (12 * C * max(rows, test.largest_block) + own) + len(train))

        # Kept for all rows, what a Newton step computes of them serves all its products; few fits at a time are slow.
        whole = fitting(len(train))
        by_passes = self._newton.sure(self._whole) and not self._whole.quadratic
        kept = not by_passes and whole >= _FEW_AT_ONCE
        return max(1, min(_MOST_AT_ONCE, whole if kept else fitting(train.largest_block)))

    def _measured(self, theta: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
        """Return m_t, (K, m), of K heads Θ (d, K, C), and where their predicted labels are wrong, (K, m)."""
        K, C = theta.shape[1:]
        parts, wrong, loss = [], [], self._objective.loss
        for block in self._tests.blocks():
            f = block.outputs(theta).reshape(-1, C)
            y = None if block.targets is None else repeated(block.targets, K)
            costs = measure(self._measurement, loss, f, y).view(-1, K)
            check_costs(costs, block.index, self._measurement)
            parts.append(costs)
            wrong += [(loss.predictions(f) != y).view(-1, K)] if loss.explains_label else []
        mistaken = torch.cat(wrong).T.to("cpu", torch.float32).numpy() if wrong else None
        return torch.cat(parts).T.to("cpu", torch.float64).numpy(), mistaken


def newton_settings(tolerance: float | None, max_iterations: int | None) -> Newton:
    """Return when a fit has converged and when it is given up.

    Raises:
        InvalidArgument: INVALID_FIELD.
    """
    newton = Newton(
        DEFAULT_TOLERANCE if tolerance is None else tolerance,
        DEFAULT_MAX_ITERATIONS if max_iterations is None else max_iterations,
    )
    if not 0 < newton.tolerance < 1:
        raise InvalidArgument.at("tolerance", f"‖∇R‖ to stop at lies between 0 and 1, not {tolerance}")
    if newton.max_iterations < 1:
        raise InvalidArgument.at("max_iterations", f"is at least 1, not {max_iterations}")
    return newton


def check_size(objective: Objective) -> None:
    """Raise FailedPrecondition (TOO_MANY_PARAMETERS) for a matrix over θ that is too large to be factorised."""
    if objective.space.dim > DENSE_PARAMETER_LIMIT:
        text = (
            f"retraining factorises a matrix over the selected parameters, of which there are {objective.space.dim:,}; "
            f"the limit is {DENSE_PARAMETER_LIMIT:,}: select fewer with parameters="
        )
        metadata = {"parameters": str(objective.space.dim), "limit": str(DENSE_PARAMETER_LIMIT)}
        raise FailedPrecondition(Reason.TOO_MANY_PARAMETERS, text, metadata=metadata)


def _check_left(objectives: EditedObjectives, some: Sequence[Edit], fields: Sequence[str]) -> None:
    empty = (objectives.weight() <= 0).nonzero()[:, 0].tolist()
    if empty:
        k = empty[0]
        text = f"{some[k]} no row of the training data is left that has weight: nothing is left to fit"
        raise InvalidArgument.at(fields[k], text)


class _Reused:
    """The preconditioner of one fit's iterations: factorised again only once products cost as much as that would."""

    def __init__(self, whole: EditedObjectives) -> None:
        self._whole = whole
        self._solve: Preconditioner | None = None
        # Where one is factorised a product takes 4 n P operations, and the factor n P² (C + 1)/C and P³/3.
        self._enough = max(_FEW_PRODUCTS, whole.l2.numel() // 8)
        self._since = self._taken = 0

    def __call__(self, theta: Tensor) -> Preconditioner:
        """Return the preconditioner of an iteration at Θ (d, 1, C)."""
        if self._solve is None or self._since > self._enough:
            self._solve, self._since = factorised(self._whole, theta[:, 0]), 0
        self._taken = 0

        def solve(V: Tensor) -> Tensor:
            self._since += 1
            self._taken += 1
            return self._solve(V)

        return solve

    def last(self, theta: Tensor) -> Preconditioner:
        """Return one for fits that start at Θ (d, C): that of the last iteration if it took few products there."""
        if self._solve is None or self._taken > _FEW_PRODUCTS:
            self._solve = factorised(self._whole, theta)
        return self._solve


def factorised(objectives: EditedObjectives, theta: Tensor) -> Preconditioner:
    """Return the inverse of the first objective's Hessian at Θ (d, C), or of one slightly lifted where it is singular.

    Only how fast a fit converges depends on it.
    """
    d, C = theta.shape
    if d * C >= _LARGE and objectives.modulus > 0:
        # Half the time and half the bytes; what it makes of a step, the fit's own gradient in float64 corrects.
        H = objectives.dense(theta, dtype=torch.float32)
        if float(torch.linalg.matrix_norm(H, 1)) <= _TAME * objectives.modulus:
            factor, info = torch.linalg.cholesky_ex(H)
            if not int(info):
                return _solving(factor, d, C)
        del H
    H = objectives.dense(theta)
    # What L2 leaves free may hold directions without curvature, where rounding must not be magnified; far from the
    # minimum, where a hinge is flat, it may hold no other.
    free = objectives.l2.reshape(-1) == 0
    if bool(free.any()):
        H.diagonal().add_(_LIFT * free * torch.maximum(H.diagonal()[free].mean(), H.diagonal().mean()))
    if not bool(torch.isfinite(H).all()):
        refuse_not_finite("the Hessian")
    factor, info = torch.linalg.cholesky_ex(H)
    lift = len(H) * torch.finfo(H.dtype).eps * max(float(torch.linalg.matrix_norm(H, 1)), torch.finfo(H.dtype).tiny)
    while int(info):
        H.diagonal().add_(lift)
        factor, info = torch.linalg.cholesky_ex(H)
        lift *= 10

    return _solving(factor, d, C)


def _solving(factor: Tensor, d: int, C: int) -> Preconditioner:
    """Return V → (L Lᵀ)⁻¹ V of the coefficients laid flat."""

    def solve(V: Tensor) -> Tensor:
        columns = V.permute(0, 2, 1).reshape(d * C, -1).to(factor)
        return torch.cholesky_solve(columns, factor).to(V).view(d, C, -1).permute(0, 2, 1)

    return solve


def _check_converged(
    found: Minima, first: int, some: Sequence[Edit] | None, fields: Sequence[str], newton: Newton
) -> None:
    failed = next((k for k, status in enumerate(found.status) if status != CONVERGED), None)
    if failed is None:
        return
    norm, steps = float(found.gradient_norms[failed]), int(found.iterations[failed])
    metadata = {"gradient_norm": f"{norm:.6g}", "tolerance": f"{newton.tolerance:g}", "iterations": str(steps)}
    what = "the fit on all rows"
    if some is not None:
        what = f"the fit {some[failed]} ({fields[failed]})"
        metadata["counterfactual"] = str(first + failed)
    text = (
        f"{what} did not converge: {found.status[failed]} (‖∇R‖ = {norm:.2g} after {steps} steps, tolerance "
        f"{newton.tolerance:.1g}); register the model with l2 > 0 on every selected parameter, which makes the minimum "
        "one and finite, or pass a larger tolerance or max_iterations"
    )
    raise FailedPrecondition(Reason.SOLVER_NOT_CONVERGED, text, metadata=metadata)
