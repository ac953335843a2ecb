"""Retraining of linear heads: each fit to the minimum of its objective, by L-BFGS passes or Newton's method."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import InvalidArgument
from undue_service.engine.data import Rows
from undue_service.engine.heads.coefficients import l2_of, registered
from undue_service.engine.heads.factorised import Renewed
from undue_service.engine.heads.limits import check_size, fits_in_step
from undue_service.engine.heads.minima import CONVERGED, Minima
from undue_service.engine.heads.newton import Newton
from undue_service.engine.heads.objectives import HeadObjectives
from undue_service.engine.heads.quasi_newton import descend, unfinished
from undue_service.engine.heads.rows import HeadRows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .determined import Determination
from .edited_gradients import EditedGradients
from .edits import Edit
from .head_costs import HeadCosts
from .head_edits import HeadEdits
from .refits import Refitted, fields_of
from .training import Divisor

_LBFGS, _NEWTON = "lbfgs", "newton"
_STAGE = "fits without rows"
_STATES = 40
"""Numbers that each coefficient of a fit takes: the pairs of its way, and what passes between."""
_FEW_AT_ONCE = 8
_MOST_AT_ONCE = 64  # more fits in step are no faster, and a caller wants to hear from us
_ADVICE = ", or pass a larger tolerance or max_iterations"

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
        self._newton = newton or Newton()
        self._notes = notes
        self._share = memory_bytes // 4
        self._progress = progress
        self._features = HeadRows(objective, train, memory_bytes=self._share, progress=progress)
        self._tests = HeadCosts(objective, test, rows, measurement, memory_bytes=self._share, progress=progress)
        told = partial(progress, "fit on all rows", 0, 1)
        self._whole = self._objectives(self._edited([Edit()], "kept_n"), told)
        self._star: Tensor | None = None
        self._minimisers: set[str] = set()
        self.matvecs = 0
        self.distance = 0.0
        self.wrong: NDArray[np.float32] | None = None

    def baseline(self) -> NDArray[np.float64]:
        """Return the costs at θ̂*, (m,).

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED, NON_FINITE_RESULT.
        """
        if self._star is None:
            factors = Renewed(self._whole)
            full = self._newton.minimise(self._whole, registered(self._objective)[:, None], factors)
            full.check(self._newton.tolerance, lambda _: "the fit on all rows", advice=_ADVICE)
            full = self._newton.polish(full, self._whole, factors)
            self._star = full.coefficients[:, 0]
            self._gradient = self._whole.evaluate(full.coefficients, full.iterations.new_zeros(1))[1][:, 0]
            self._frozen = factors.last(self._star)
            self._determination = Determination(self._whole, self._star)
            costs, wrong = self._tests.of(full.coefficients)
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
            found = self._fitted(some, at, divisor, here.start, partial(self._progress, _STAGE, here.start, len(edits)))
            costs[here], mistaken = self._tests.of(found.coefficients)
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
        """Return by what the fits under edits went, "lbfgs", "newton" or "lbfgs, newton", and how they ended."""
        return ", ".join(sorted(self._minimisers)) or _NEWTON, CONVERGED

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the reader should know."""
        return (*self._notes, *(self._determination.warnings if self._star is not None else ()))

    def _fitted(
        self, some: Sequence[Edit], fields: Sequence[str], divisor: Divisor, first: int, told: Callable[[], None]
    ) -> Minima:
        """Return the minima under some edits, the first of which has the number `first`."""
        edited = self._edited(some, divisor)
        objectives = self._objectives(edited, told)
        _check_left(edited, some, fields)
        self._determination.check(objectives, some, fields, first)
        start, newton = self._star[:, None].expand(-1, len(some), -1), self._newton
        if objectives.quadratic or not edited.few or not newton.sure(objectives):
            self._minimisers.add(_NEWTON)
            found = newton.minimise(objectives, start, lambda _: self._frozen)
        else:
            self._minimisers.add(_LBFGS)
            gradients = EditedGradients(self._objective, edited, told=told)
            found = descend(newton, gradients, self._star, gradients.at_one(self._star, self._gradient), self._frozen)
            left = unfinished(found)
            if left:
                self._minimisers.add(_NEWTON)
                newton = replace(newton, max_iterations=newton.max_iterations - int(found.iterations[left].max()))
                rest = self._objectives(self._edited([some[k] for k in left], divisor), told)
                further = newton.minimise(rest, found.coefficients[:, left], lambda _: self._frozen)
                found = found.with_those(left, further)
        found.check(newton.tolerance, lambda k: f"the fit {some[k]} ({fields[k]})", advice=_ADVICE, first=first)
        return found

    def _edited(self, some: Sequence[Edit], divisor: Divisor) -> HeadEdits:
        return HeadEdits(self._objective, self._train, self._features, some, divisor=divisor)

    def _objectives(self, edited: HeadEdits, told: Callable[[], None]) -> HeadObjectives:
        return HeadObjectives(self._objective.loss, l2_of(self._objective), edited, memory_bytes=self._share, told=told)

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
        train = self._features

        def fitting(rows: int) -> int:
            block = max(rows, self._tests.largest_block)
            return fits_in_step(self._objective, self._share, block=block, rows=len(train), states=_STATES)

        # Kept for all rows, what a Newton step computes of them serves all its products; few fits at a time are slow.
        whole = fitting(len(train))
        by_passes = self._newton.sure(self._whole) and not self._whole.quadratic
        kept = not by_passes and whole >= _FEW_AT_ONCE
        return max(1, min(_MOST_AT_ONCE, whole if kept else fitting(train.largest_block)))


def _check_left(edited: HeadEdits, some: Sequence[Edit], fields: Sequence[str]) -> None:
    empty = (edited.total_weights() <= 0).nonzero()[:, 0].tolist()
    if empty:
        k = empty[0]
        text = f"{some[k]} no row of the training data is left that has weight: nothing is left to fit"
        raise InvalidArgument.at(fields[k], text)
