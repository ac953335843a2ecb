"""Whether the rows that are left determine the weights that L2 leaves free.

A direction v of the coefficients leaves R as it is only if it lies in those without L2 and x̃_i v is nothing to the loss
of every row that counts. Where removing rows adds such a direction, the minimisers without them disagree about other
rows, and there is no change to report.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.heads.objectives import HeadObjectives

from .edits import Edit

_ZERO = 1e-12
"""Share of a free coefficient's curvature below which an eigenvalue is rounding, for each coefficient."""


class Determination:
    """How many directions of the free coefficients all rows together determine."""

    def __init__(self, whole: HeadObjectives, theta: Tensor) -> None:
        """Look at the objective on all rows at its minimiser Θ (d, C)."""
        self._theta = theta
        # A parameter is excluded from L2 whole, so a feature's coefficients are free for all outputs or for none.
        self._free = (whole.l2 == 0).all(dim=1).nonzero()[:, 0]
        self.warnings: tuple[str, ...] = ()
        if not len(self._free):
            return
        diagonal = whole.dense(theta, features=self._free).diagonal()
        self._scale = torch.where(diagonal > 0, diagonal, torch.inf).rsqrt()
        self._rank = self._rank_of(whole, 0)
        # Adding a constant to all logits of a row is nothing to the cross-entropy.
        possible = len(self._free) * (theta.shape[1] - (theta.shape[1] > 1 and not whole.quadratic))
        if self._rank < possible:
            self.warnings = (
                f"the training data determines {self._rank} of {possible} directions of the weights that have no L2: "
                "in the others they stay as registered, and test rows that depend on them tell little; register l2 > 0",
            )

    def check(self, objectives: HeadObjectives, edits: Sequence[Edit], fields: Sequence[str], first: int) -> None:
        """Hold each objective against the one on all rows.

        Args:
            objectives: some.
            edits: of each.
            fields: what the caller calls each.
            first: the number of the first one.

        Raises:
            FailedPrecondition: HESSIAN_SINGULAR where one determines less.
        """
        if not len(self._free):
            return
        for k, (edit, at) in enumerate(zip(edits, fields, strict=True)):
            if self._rank_of(objectives, k) < self._rank:
                text = (
                    f"{edit} ({at}) nothing determines some weight that has no L2, and test rows that depend on it "
                    "would have any cost: register the model with l2 > 0 on every selected parameter, or leave that "
                    "counterfactual out"
                )
                metadata = {"counterfactual": str(first + k)}
                raise FailedPrecondition(Reason.HESSIAN_SINGULAR, text, metadata=metadata)

    def _rank_of(self, objectives: HeadObjectives, k: int) -> int:
        H = objectives.dense(self._theta, k, self._free) * self._scale * self._scale[:, None]
        return int((torch.linalg.eigvalsh(H) > _ZERO * len(H)).sum())
