"""How far the rows of an index have moved from those that its curvature was fitted to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.fisher import cotangents, is_exact
from undue_service.engine.gradients import FactoredGradients, block_rows, each_block
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .fitted import FittedIndex
from .layout import row_numel


@dataclass(frozen=True)
class Drift:
    """The curvature of rows that came after the fit, in the eigenbasis of the fit."""

    rows: int
    """How many."""
    squares: tuple[Tensor, ...]
    """Σ_i Σ_c (Qᵀ J_iᵀ m_ic)² over them in each region, (q,) float64."""

    @classmethod
    def none(cls, fitted: FittedIndex) -> "Drift":
        """Return that of no rows."""
        return cls(0, tuple(torch.zeros_like(region.inverse, dtype=torch.float64) for region in fitted.regions))

    def tensors(self) -> dict[str, Tensor]:
        """Return what `of` needs, by name."""
        found = {f"squares.{place}": one for place, one in enumerate(self.squares)}
        return found | {"count": torch.tensor([self.rows])}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Drift":
        """Return the drift again that `tensors` describes."""
        count = len(tensors) - 1
        return cls(int(tensors["count"][0]), tuple(tensors[f"squares.{place}"] for place in range(count)))

    def staleness(self, fitted: FittedIndex) -> float:
        """Return by how much the damped curvature of all rows differs from the fitted one, as a share.

        It is the mean of |Λ' − Λ| / (Λ' + l2 + λ) over the eigenbasis, weighted by the effective parameters
        Λ / (Λ + l2 + λ); Λ' is that of the rows of the fit and those that came after.
        """
        if not self.rows:
            return 0.0
        n, changed, weights = fitted.rows, 0.0, 0.0
        for region, squares in zip(fitted.regions, self.squares, strict=True):
            known = region.eigenvalues.double().clamp_min(0)
            now = (n * known + squares.to(known)) / (n + self.rows)
            effective = known * region.inverse
            rest = 1 / region.inverse.double() - known  # l2 + λ
            changed += float((effective * (now - known).abs() / (now + rest)).sum())
            weights += float(effective.sum())
        return changed / weights if weights else 0.0


def drifted(
    before: Drift,
    fitted: FittedIndex,
    objective: Objective,
    added: Rows,
    *,
    seed: int = 0,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Drift:
    """Return the drift with that of more rows.

    Args:
        before: that of the rows that were added until now.
        fitted: the fit.
        objective: in the precision of the index's method.
        added: the rows, with targets.
        seed: of the vectors that are drawn where there are many outputs.
        memory_bytes: budget of the intermediate values of a block.
        progress: told after each block.
    """
    exact = is_exact(objective.outputs_per_row, objective.taps.kept_numel)

    def work(batch: Batch) -> Sequence[Tensor]:
        capture = objective.taps.capture(batch.inputs)
        sums = [torch.zeros_like(region.inverse, dtype=torch.float64) for region in fitted.regions]
        for vector in cotangents(objective.loss, capture.outputs, batch, seed, exact=exact):
            gradients = FactoredGradients(objective.taps.blocks, capture.parts(vector))
            for total, region in zip(sums, fitted.regions, strict=True):
                total += region.squares(gradients)
        return sums

    squares, done = list(before.squares), 0
    size = block_rows(objective, memory_bytes // 2, row_numel(fitted.regions, objective.taps))
    for batch, sums in each_block(objective, added, size, work):
        squares = [one.to(other) + other for one, other in zip(squares, sums, strict=True)]
        done += len(batch.index)
        progress("curvature", done, len(added))
    return Drift(before.rows + len(added), tuple(squares))
