"""Fits of a linear head: each to the minimum of its objective, by Newton's method."""

from collections.abc import Sequence

import torch
from torch import Tensor

from undue_service.engine.data import Rows
from undue_service.engine.heads.coefficients import coefficients_of, l2_of, registered, thetas_of
from undue_service.engine.heads.factorised import Renewed
from undue_service.engine.heads.limits import check_size, fits_in_step
from undue_service.engine.heads.minima import CONVERGED
from undue_service.engine.heads.newton import Newton
from undue_service.engine.heads.objectives import HeadObjectives
from undue_service.engine.heads.rows import HeadRows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.retraining.edits import Edit
from undue_service.engine.retraining.head_edits import HeadEdits
from undue_service.engine.retraining.training import Divisor

_MOST_AT_ONCE = 32
_FEW = 8
"""Fits that a pass over the rows takes as long for as for one: it reads the features, and has little to do."""
_STATES = 16
"""Numbers that each coefficient of a fit takes."""
TOLERANCE = 1e-8
"""‖∇R‖ of a fit: the order of rows and the labels that are predicted are read off it."""


class HeadFits:
    """Minimisers of R over edited rows; what lies below the head runs once, as far as memory allows."""

    solver = ("newton", CONVERGED)

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        test: Rows | None,
        *,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind a head to its data, the test rows with labels; nothing is fitted yet.

        Raises:
            FailedPrecondition: TOO_MANY_PARAMETERS.
        """
        check_size(objective)
        self._objective = objective
        self._head = objective.head
        self._train = train
        self._share = memory_bytes // 4
        self._progress = progress
        self._newton = Newton(TOLERANCE)
        self._features = HeadRows(objective, train, memory_bytes=self._share, progress=progress)
        self._tests = None
        if test is not None:
            self._tests = HeadRows(objective, test, memory_bytes=self._share, progress=progress)

    def fit(self, edits: Sequence[Edit], *, near: Tensor | None = None, divisor: Divisor = "kept_n") -> Tensor:
        """See Fits. Newton's method starts from `near`, else from the registered weights.

        Raises:
            InvalidArgument: INVALID_FIELD where an edit leaves no row that has weight.
            FailedPrecondition: SOLVER_NOT_CONVERGED.
        """
        start = registered(self._objective)[:, None] if near is None else coefficients_of(self._head, near[None])
        size, found = self._at_once(), []
        # A few fits gain nothing from going in step, and a Hessian of their own each is a better preconditioner.
        size = size if len(edits) >= _FEW else 1
        for first in range(0, len(edits), size):
            some = edits[first : first + size]
            objectives = self._edited(some, divisor, first, len(edits))
            starts = start.expand(-1, len(some), -1)
            minima = self._newton.minimise(objectives, starts, Renewed(objectives, abreast=_FEW))
            minima.check(TOLERANCE, lambda _: "a fit to labels with mistakes")
            found.append(thetas_of(self._head, minima.coefficients))
            self._progress("fits", first + len(some), len(edits))
        return torch.cat(found)

    def outputs(self, theta: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """See Fits."""
        coefficients = coefficients_of(self._head, theta[None])
        f = torch.cat([block.outputs(coefficients)[:, 0] for block in self._features.blocks()])
        return f if rows is None else f[torch.as_tensor(rows, dtype=torch.int64)]

    def accuracies(self, thetas: Tensor) -> Tensor:
        """See Fits."""
        assert self._tests is not None  # noqa: S101  whoever asks has given some
        coefficients = coefficients_of(self._head, thetas)
        right = torch.zeros(len(thetas), dtype=torch.float64)
        for block in self._tests.blocks():
            for part in block.parts(max(1, self._share // (16 * coefficients[0].numel()))):
                f = part.outputs(coefficients)
                predicted = self._objective.loss.predictions(f.flatten(0, 1)).view(f.shape[:2])
                right += (predicted == part.targets[:, None]).sum(dim=0).to("cpu", torch.float64)
        return right / len(self._tests)

    def recipe(self) -> str:
        """See Fits."""
        return f"fitted to the minimum of the registered objective by Newton's method, ‖∇R‖ ≤ {TOLERANCE:g}"

    def _edited(self, some: Sequence[Edit], divisor: Divisor, done: int, total: int) -> HeadObjectives:
        return HeadObjectives(
            self._objective.loss,
            l2_of(self._objective),
            HeadEdits(self._objective, self._train, self._features, some, divisor=divisor),
            memory_bytes=self._share,
            told=lambda: self._progress("fits", done, total),
        )

    def _at_once(self) -> int:
        """Return how many fits fit into the budget, at least one."""
        block, n = self._features.largest_block, len(self._train)
        fitting = fits_in_step(self._objective, self._share, block=block, rows=n, states=_STATES)
        return max(1, min(_MOST_AT_ONCE, fitting))
