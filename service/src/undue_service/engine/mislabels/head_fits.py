"""Fits of a linear head: each to the minimum of its objective, by Newton's method."""

from collections.abc import Sequence

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.data import Rows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.retraining.edited_objectives import EditedObjectives
from undue_service.engine.retraining.edits import Edit
from undue_service.engine.retraining.head_edits import HeadEdits
from undue_service.engine.retraining.head_rows import HeadRows, registered
from undue_service.engine.retraining.newton import CONVERGED, Minima, Newton, Preconditioner
from undue_service.engine.retraining.newton_retraining import check_size, factorised
from undue_service.engine.retraining.training import Divisor

_MOST_AT_ONCE = 32
_FEW = 8
"""Fits that a pass over the rows takes as long for as for one: it reads the features, and has little to do."""
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
        start = registered(self._objective) if near is None else self._head.from_theta(near).T.contiguous()
        size, found = self._at_once(), []
        # A few fits gain nothing from going in step, and a Hessian of their own each is a better preconditioner.
        size = size if len(edits) >= _FEW else 1
        for first in range(0, len(edits), size):
            objectives = self._edited(edits[first : first + size], divisor, first, len(edits))
            starts = start[:, None].expand(-1, len(edits[first : first + size]), -1)
            minima = self._minimised(objectives, starts)
            found.append(self._head.to_theta(minima.coefficients.permute(2, 0, 1)).T)
            self._progress("fits", first + starts.shape[1], len(edits))
        return torch.cat(found)

    def outputs(self, theta: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """See Fits."""
        coefficients = self._head.from_theta(theta).T[:, None]
        f = torch.cat([block.outputs(coefficients)[:, 0] for block in self._features.blocks()])
        return f if rows is None else f[torch.as_tensor(rows, dtype=torch.int64)]

    def accuracies(self, thetas: Tensor) -> Tensor:
        """See Fits."""
        assert self._tests is not None  # noqa: S101  whoever asks has given some
        coefficients = self._head.from_theta(thetas.T).permute(1, 2, 0)
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

    def _edited(self, some: Sequence[Edit], divisor: Divisor, done: int, total: int) -> EditedObjectives:
        return EditedObjectives(
            self._objective,
            HeadEdits(self._objective, self._train, self._features, some),
            divisor=divisor,
            memory_bytes=self._share,
            told=lambda: self._progress("fits", done, total),
        )

    def _minimised(self, objectives: EditedObjectives, starts: Tensor) -> Minima:
        minima = self._newton.minimise(objectives, starts, _Renewed(objectives))
        failed = next((k for k, status in enumerate(minima.status) if status != CONVERGED), None)
        if failed is None:
            return minima
        norm = float(minima.gradient_norms[failed])
        text = (
            f"a fit to labels with mistakes did not converge: {minima.status[failed]} (‖∇R‖ = {norm:.2g}, tolerance "
            f"{TOLERANCE:g}); register the model with l2 > 0 on every selected parameter, which makes the minimum one "
            "and finite"
        )
        metadata = {"gradient_norm": f"{norm:.6g}", "tolerance": f"{TOLERANCE:g}"}
        raise FailedPrecondition(Reason.SOLVER_NOT_CONVERGED, text, metadata=metadata)

    def _at_once(self) -> int:
        """Return how many fits fit into the budget, at least one."""
        taken = 8 * (12 * self._head.outputs * self._features.largest_block + 16 * self._objective.space.dim)
        return max(1, min(_MOST_AT_ONCE, self._share // (taken + len(self._train))))


class _Renewed:
    """One factorised Hessian for all fits that go in step, renewed once the products that it led to cost as much.

    Wrong labels change the curvature of every row that they move out of saturation: the Hessian where a fit starts is
    none of where it ends, and one at each step of each fit would cost more than the fit.
    """

    def __init__(self, objectives: EditedObjectives) -> None:
        self._objectives = objectives
        self._frozen: Preconditioner | None = None
        self._applied = 0

    def __call__(self, at: Tensor) -> Preconditioner:
        """Return the preconditioner of a step from Θ (d, K, C)."""
        d, K, C = at.shape
        # A product is 4 d C flops a row and the solve about as many, a Hessian d² C (C + 1).
        if self._frozen is None or 8 * max(K, _FEW) * self._applied >= d * (C + 1):
            self._frozen, self._applied = factorised(self._objectives, at.mean(dim=1)), 0
        frozen = self._frozen

        def precondition(V: Tensor) -> Tensor:
            self._applied += 1
            return frozen(V)

        return precondition
