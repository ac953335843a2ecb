"""Which numbers of a row's gradient an index keeps for screening.

A row's gradient in a region is g̃_q in the eigenbasis, and a score Σ_q g̃_q g̃'_q / (Λ_q + l2 + λ). Of a weight that a row
uses once the gradient is an outer product δ̃ ã: its factors are kept, O + I numbers for O·I. Of any other region the
coefficients themselves are, whitened: z_q = g̃_q / √(Λ_q + l2 + λ). Only those are kept that scores are made of: the
Gauss–Newton's Λ_q is about E[g̃_q²], so that (Λ_q / (Λ_q + l2 + λ))² is q's share in the variance of a score. The
Hessian's Λ_q may be far below E[g̃_q²], even negative, just where 1/(Λ_q + l2 + λ) is largest: in the eigenbasis of a
whole matrix E[g̃_q²] is measured on a few rows, and the larger of both counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from undue_service.engine.curvature.eigenbasis import OuterBasis, sum_of_squares
from undue_service.engine.curvature.low_rank import low_rank
from undue_service.engine.taps import Lookup, Outer, Part, Taps

from .regions import Region

DROPPED = 1e-2
"""Share of the energy that the kept numbers may lack."""
RANK = 8
"""Terms that 1/(Λ + l2 + λ) is approximated by in screening."""
MOST_COEFFICIENTS = 4096
"""That are kept of all regions without factors together."""


@dataclass(frozen=True)
class Factors:
    """A region whose rows are kept as δ̃ and ã."""

    region: int
    outputs: Tensor
    """Which of δ̃ are kept, (kO,)."""
    inputs: Tensor
    """Which of ã are kept, (kI,)."""
    U: Tensor
    """(kO, r)."""
    V: Tensor
    """(kI, r): U Vᵀ ≈ 1/(Λ + l2 + λ)."""

    def of(self, rotated: Part) -> tuple[Tensor, Tensor]:
        """Return the kept δ̃ (B, kO) and ã (B, kI)."""
        assert isinstance(rotated, Outer)  # noqa: S101  the layout was chosen for it
        return rotated.deltas[:, 0, 0][:, self.outputs], rotated.inputs[:, 0, 0][:, self.inputs]


@dataclass(frozen=True)
class Coefficients:
    """A region whose rows are kept as whitened coefficients."""

    region: int
    kept: Tensor
    """Which, (k,)."""
    whitening: Tensor
    """1/√(Λ + l2 + λ) of each, (k,)."""

    def of(self, rotated: Part, region: Region) -> Tensor:
        """Return z, (B, k)."""
        if isinstance(rotated, Outer) and isinstance(region.basis, OuterBasis):
            O, I = region.basis.outputs.shape[1], region.basis.inputs.shape[1]  # noqa: E741
            g, o, i = self.kept // (O * I), self.kept // I % O, self.kept % I
            if rotated.inputs.shape[1] == 1:
                (rows, at_row), (columns, at_column) = (torch.unique(one, return_inverse=True) for one in (o, i))
                grid = rotated.deltas[:, 0][:, :, rows].mT @ rotated.inputs[:, 0][:, :, columns]
                return grid[:, at_row, at_column] * self.whitening
            picked = rotated.deltas[:, g, :, o] * rotated.inputs[:, g, :, i]  # (k, B, T)
            return picked.sum(dim=2).T * self.whitening
        if isinstance(rotated, Lookup):
            return _looked_up(rotated, self.kept) * self.whitening
        return rotated.rows()[:, self.kept] * self.whitening


@dataclass(frozen=True)
class Layout:
    """What is kept of every region that is kept at all."""

    factors: tuple[Factors, ...]
    coefficients: tuple[Coefficients, ...]

    @property
    def row_numel(self) -> int:
        """Return the numbers that are kept of a row."""
        factored = sum(len(one.outputs) + len(one.inputs) for one in self.factors)
        return factored + sum(len(one.kept) for one in self.coefficients)

    def tensors(self) -> dict[str, Tensor]:
        """Return what `read_layout` needs, by name."""
        found: dict[str, Tensor] = {}
        for one in self.factors:
            named = {"outputs": one.outputs, "inputs": one.inputs, "U": one.U, "V": one.V}
            found |= {f"factors.{one.region}.{name}": tensor for name, tensor in named.items()}
        for other in self.coefficients:
            found[f"coefficients.{other.region}.kept"] = other.kept
            found[f"coefficients.{other.region}.whitening"] = other.whitening
        return found

    def settings(self) -> dict[str, Any]:
        """Return the rest of what `read_layout` needs, as JSON."""
        return {
            "factors": [one.region for one in self.factors],
            "coefficients": [one.region for one in self.coefficients],
        }


def read_layout(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Layout:
    """Return the layout again that `tensors` and `settings` describe."""
    names = ("outputs", "inputs", "U", "V")
    return Layout(
        tuple(Factors(at, *(tensors[f"factors.{at}.{name}"] for name in names)) for at in settings["factors"]),
        tuple(
            Coefficients(at, tensors[f"coefficients.{at}.kept"], tensors[f"coefficients.{at}.whitening"])
            for at in settings["coefficients"]
        ),
    )


def choose_layout(regions: Sequence[Region], taps: Taps, sample: Sequence[Part]) -> Layout:
    """Choose what is kept.

    Args:
        regions: of θ.
        taps: of the program.
        sample: the rotated gradients of a few rows in each region, which show how often a row uses it.
    """
    free = any(-1 in spec.shape for spec in taps.program.inputs)  # then one row may use a weight more often than others
    factored: list[Factors] = []
    others: list[int] = []
    for place, (region, part) in enumerate(zip(regions, sample, strict=True)):
        if region.block is not None and isinstance(part, Outer) and part.single and not free:
            factored.append(_factors(place, region))
        else:
            others.append(place)
    return Layout(tuple(factored), _coefficients(regions, others, sample))


def energies(region: Region, sample: Part | None = None) -> Tensor:
    """Return (Λ/(Λ + l2 + λ))² of each coefficient, (q,); with E[g̃²] of a sample for Λ where that is larger."""
    moments = region.eigenvalues.clamp_min(0)
    if sample is not None:
        moments = moments.maximum(sum_of_squares(sample) / len(sample))
    return (moments * region.inverse).double().square()


def _factors(place: int, region: Region) -> Factors:
    assert isinstance(region.basis, OuterBasis)  # noqa: S101  it has outer products
    O, I = region.basis.outputs.shape[1], region.basis.inputs.shape[1]  # noqa: E741
    energy = energies(region).view(O, I)
    outputs, inputs = (_largest(energy.sum(dim=dim)) for dim in (1, 0))
    inverse, eigenvalues = (one.view(O, I)[outputs][:, inputs] for one in (region.inverse, region.eigenvalues))
    U, V = low_rank(inverse, eigenvalues, min(RANK, len(outputs), len(inputs)))
    return Factors(place, outputs, inputs, U.to(region.inverse), V.to(region.inverse))


def _coefficients(regions: Sequence[Region], places: Sequence[int], sample: Sequence[Part]) -> tuple[Coefficients, ...]:
    """Keep the coefficients of largest energy over all these regions."""
    if not places:
        return ()
    whole = [sample[place] if regions[place].block is None else None for place in places]
    all_energies = [energies(regions[place], rows) for place, rows in zip(places, whole, strict=True)]
    kept = _largest(torch.cat(all_energies), MOST_COEFFICIENTS)
    found, start = [], 0
    for place, energy in zip(places, all_energies, strict=True):
        own = kept[(kept >= start) & (kept < start + len(energy))] - start
        start += len(energy)
        if len(own):
            found.append(Coefficients(place, own, regions[place].inverse[own].sqrt()))
    return tuple(found)


def _largest(energy: Tensor, most: int | None = None) -> Tensor:
    """Return, in ascending order, the fewest places that hold all but `DROPPED` of the energy; at least one."""
    order = torch.argsort(energy, descending=True, stable=True)
    held = torch.cumsum(energy[order], dim=0)
    count = int((held < (1 - DROPPED) * held[-1]).sum()) + 1
    return order[: min(count, most or count)].sort().values


def _looked_up(rotated: Lookup, kept: Tensor) -> Tensor:
    """Return some coefficients of a table's gradients, (B, k)."""
    E = rotated.deltas.shape[2]
    ids, at_id = torch.unique(kept // E, return_inverse=True)
    where = torch.full((rotated.entries,), len(ids), dtype=torch.int64, device=kept.device)
    where[ids] = torch.arange(len(ids), device=kept.device)
    rows = rotated.deltas.new_zeros(len(rotated), len(ids) + 1, E)
    rows.scatter_add_(1, where[rotated.ids][:, :, None].expand(-1, -1, E), rotated.deltas)
    return rows[:, at_id, kept % E]


def row_numel(regions: Sequence[Region], taps: Taps) -> int:
    """Return the numbers that one row's rotated gradients take at most, with what is made of them."""
    numel = 0
    for region in regions:
        if region.block is None:
            numel += 3 * len(region.inverse)
            continue
        tap = taps.taps[region.block]
        dense = prod(tap.block.shape) if tap.places > 1 or tap.block.kind == "dense" else 0
        numel += 2 * (tap.input_numel + tap.delta_numel + dense)
    return numel
