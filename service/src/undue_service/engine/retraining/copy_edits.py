"""Training rows as copies of a model see them that are trained in step, each under its own edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.data import Batch
from undue_service.engine.objective import Objective

from .edits import Edit
from .held_rows import HeldRows


@dataclass(frozen=True)
class CopyBatch:
    """Some rows for K copies: what is the same for all of them is there once."""

    inputs: Mapping[str, Tensor]
    """By name, (B, …) each, or (K, B, …)."""
    targets: Tensor
    """(B,) or (B, C), or (K, B) or (K, B, C)."""
    weights: Tensor | None
    """w_i, (B,) or (K, B); None stands for ones."""
    own_inputs: bool
    """Whether inputs have an axis of copies."""
    own_targets: bool
    """Whether targets have one."""


@dataclass(frozen=True)
class _Cells:
    """New values of some pairs of a copy and a row."""

    copies: Tensor
    """(E,) int64."""
    rows: Tensor
    """(E,) int64."""
    values: tuple[Tensor, ...]
    """(E, …) each."""

    def among(self, group: Tensor) -> "_Cells":
        """Return the cells of some copies, which are numbered by their places in the group."""
        copies, here = _places(group, self.copies)
        return _Cells(copies, self.rows[here], tuple(one[here.to(one.device)] for one in self.values))

    def within(self, index: Tensor) -> "_Cells":
        """Return the cells of the rows of an index (B,) or (K, B), with their places in it in place of the rows."""
        if index.dim() == 1:
            places, here = _places(index, self.rows)
        else:
            length = index.shape[1]
            keys = torch.arange(len(index))[:, None] + len(index) * index
            places, here = _places(keys.flatten(), self.copies + len(index) * self.rows)
            places = places % length
        return _Cells(self.copies[here], places, tuple(one[here.to(one.device)] for one in self.values))


@dataclass(frozen=True)
class CopyEdits:
    """What K copies see differently; which rows they leave out is not among it."""

    inputs: _Cells | None = None
    """Of all inputs, in the program's order."""
    targets: _Cells | None = None
    weights: _Cells | None = None

    @classmethod
    def of(cls, objective: Objective, edits: Sequence[Edit], repeats: int = 1) -> "CopyEdits":
        """Return what the copies of edits that `check_edits` has passed see differently.

        Args:
            objective: which says how rows are placed.
            edits: as many as there are sets of copies.
            repeats: how many copies one after the other see the same.
        """
        copies = [range(k * repeats, (k + 1) * repeats) for k in range(len(edits))]

        def cells(rows: Sequence[Sequence[int]], values: Sequence[tuple[Tensor, ...]]) -> _Cells | None:
            owners = [(copy, k) for k in range(len(edits)) if rows[k] for copy in copies[k]]
            if not owners:
                return None
            return _Cells(
                torch.cat([torch.full((len(rows[k]),), copy) for copy, k in owners]),
                torch.cat([torch.tensor(rows[k]) for _, k in owners]),
                tuple(torch.cat(parts) for parts in zip(*(values[k] for _, k in owners), strict=True)),
            )

        placed = [tuple(_placed(objective, edit).values()) for edit in edits]
        targets = [
            () if edit.targets is None else (objective.targets(edit.targets, torch.tensor(edit.relabelled)),)
            for edit in edits
        ]
        weights = [() if edit.weights is None else (edit.weights.to(objective.theta),) for edit in edits]
        return cls(
            cells([edit.replaced for edit in edits], placed),
            cells([edit.relabelled for edit in edits], targets),
            cells([edit.reweighted for edit in edits], weights),
        )

    def among(self, group: Sequence[int]) -> "CopyEdits":
        """Return what some of the copies see differently."""
        which = torch.tensor(group)
        inputs, targets, weights = (
            None if one is None else one.among(which) for one in (self.inputs, self.targets, self.weights)
        )
        return CopyEdits(inputs, targets, weights)


class EditedRows:
    """Training rows by their numbers, for K copies."""

    def __init__(self, held: HeldRows, edits: CopyEdits, copies: int) -> None:
        """Bind rows to what `copies` copies see differently."""
        self._held = held
        self._edits = edits
        self._copies = copies

    def __len__(self) -> int:
        return len(self._held)

    def take(self, index: Tensor) -> CopyBatch:
        """Return the rows of an index, (B,) for all copies or (K, B)."""
        batch = self._held.take(index)
        own = index.dim() == 2
        assert batch.targets is not None  # noqa: S101  training rows have them
        inputs, own_inputs = list(batch.inputs.values()), own
        if (cells := self._changed(self._edits.inputs, index)) is not None:
            inputs, own_inputs = self._written(inputs, cells, own), True
        targets, own_targets = batch.targets, own
        if (cells := self._changed(self._edits.targets, index)) is not None:
            [targets], own_targets = self._written([targets], cells, own), True
        weights = batch.weights
        if (cells := self._changed(self._edits.weights, index)) is not None:
            weights = torch.ones(index.shape).to(cells.values[0]) if weights is None else weights
            [weights] = self._written([weights], cells, own)
        return CopyBatch(dict(zip(batch.inputs, inputs, strict=True)), targets, weights, own_inputs, own_targets)

    def _changed(self, cells: _Cells | None, index: Tensor) -> _Cells | None:
        """Return the cells that lie in the rows of an index, if any do."""
        found = None if cells is None else cells.within(index)
        return found if found is not None and len(found.rows) else None

    def _written(self, tensors: Sequence[Tensor], cells: _Cells, own: bool) -> list[Tensor]:
        """Return (K, B, …) tensors with the values of the cells in their places."""
        found = []
        for tensor, values in zip(tensors, cells.values, strict=True):
            whole = tensor.clone() if own else tensor.expand(self._copies, *tensor.shape).clone()
            whole[cells.copies.to(whole.device), cells.rows.to(whole.device)] = values
            found.append(whole)
        return found


def _placed(objective: Objective, edit: Edit) -> dict[str, Tensor]:
    """Return what replaces rows as the program takes it, in the order of its inputs."""
    if not edit.replaced:
        return {}
    batch = Batch(edit.inputs, None, None, torch.tensor(edit.replaced))
    return dict(objective.place(batch).inputs)


def _places(among: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return where numbers lie in others, none of which is there twice, and which of them, (E',) each."""
    order = torch.argsort(among)
    found = torch.searchsorted(among[order], wanted).clamp(max=len(among) - 1)
    here = (among[order][found] == wanted).nonzero()[:, 0]
    return order[found[here]], here
