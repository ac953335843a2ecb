"""What all rows of an index share: the curvature in its eigenbasis, and what is kept of a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undue_service.engine.damping import Damping
from undue_service.engine.gradients import FactoredGradients
from undue_service.engine.methods import Factors
from undue_service.engine.objective import Objective
from undue_service.engine.taps import Part

from .layout import Layout, read_layout
from .regions import Region, read_region, total


@dataclass(frozen=True)
class FittedIndex:
    """An index without its rows."""

    factors: Factors
    """λ, the leverage correction, and what the diagnostics say."""
    method: str
    rows: int
    """n of the fit: scores are of the objective that is a mean over so many rows, however many the index holds."""
    regions: tuple[Region, ...]
    layout: Layout
    columns: tuple[Tensor, ...]
    """Sizes of the columns of each part of a RowBlock's numbers."""
    recalled: Tensor
    """Row numbers that recall is measured with, (R,)."""
    solved: Tensor
    """(curvature + λI)⁻¹ ∇ℓ of those rows, (P, R)."""

    def rotated(self, gradients: FactoredGradients) -> list[Part]:
        """Return gradients in the basis of each region."""
        return [region.rotated(gradients) for region in self.regions]

    def keys(self, rotated: Sequence[Part]) -> Tensor:
        """Return √(gᵀ (curvature + λI)⁻¹ g) of rotated rows, (B,)."""
        pairs = zip(self.regions, rotated, strict=True)
        return total([region.self_products(part) for region, part in pairs]).clamp_min(0).sqrt()

    def numbers(self, rotated: Sequence[Part]) -> list[Tensor]:
        """Return what is kept of rotated rows, (B, k) for each part: δ̃ and ã of regions with factors, then z."""
        found = []
        for one in self.layout.factors:
            found += one.of(rotated[one.region])
        if self.layout.coefficients:
            kept = [one.of(rotated[one.region], self.regions[one.region]) for one in self.layout.coefficients]
            found.append(torch.cat(kept, dim=1))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return what `of` needs, by name."""
        found = {f"layout.{name}": tensor for name, tensor in self.layout.tensors().items()}
        for place, region in enumerate(self.regions):
            found |= {f"region.{place}.{name}": tensor for name, tensor in region.tensors().items()}
        found |= {f"columns.{place}": tensor for place, tensor in enumerate(self.columns)}
        return found | {"recalled": self.recalled}

    def settings(self) -> dict[str, Any]:
        """Return the rest of what `of` needs, as JSON."""
        damping = self.factors.damping
        return {
            "method": self.method,
            "rows": self.rows,
            "damping": {
                "value": damping.value,
                "source": damping.source,
                "standard_error": damping.standard_error,
                "reason": damping.reason,
            },
            "leverage_correction": self.factors.leverage_correction,
            "solver": self.factors.solver,
            "solver_status": self.factors.solver_status,
            "warnings": list(self.factors.warnings),
            "regions": [region.settings() for region in self.regions],
            "layout": self.layout.settings(),
        }

    @classmethod
    def of(cls, objective: Objective, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> "FittedIndex":
        """Return the fit again that `tensors` and `settings` describe. What only building needs is left out.

        Args:
            objective: whose program and device it is for.
            tensors: as `tensors` returned them.
            settings: as `settings` returned them.
        """
        placed = {name: tensor.to(objective.program.device) for name, tensor in tensors.items()}
        regions = tuple(
            read_region(_within(placed, f"region.{place}."), one) for place, one in enumerate(settings["regions"])
        )
        layout = read_layout(_within(placed, "layout."), settings["layout"])
        factors = Factors(
            Damping(**settings["damping"]),
            settings["leverage_correction"],
            settings["solver"],
            settings["solver_status"],
            warnings=tuple(settings["warnings"]),
            dtype=objective.program.dtype,
        )
        columns = tuple(placed[f"columns.{place}"] for place in range(len(_within(placed, "columns."))))
        nothing = objective.theta.new_zeros(objective.space.dim, 0)
        return cls(
            factors, settings["method"], settings["rows"], regions, layout, columns, tensors["recalled"], nothing
        )


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
