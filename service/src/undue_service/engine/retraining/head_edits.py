"""What K edits do to the rows that a linear head sees, kept as few numbers as were edited.

A row that is left out has the weight 0 in its objective. So has one that is replaced, and what replaces it is one row
more, whose weight is 0 in every other objective. A row that is relabelled or reweighted has another target or weight.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undue_service.engine.data import Rows, TensorRows
from undue_service.engine.heads.block import HeadBlock, joined, repeated
from undue_service.engine.heads.parts import SharedPart
from undue_service.engine.heads.rows import HeadRows
from undue_service.engine.objective import Objective

from .edits import Edit, values_of_replaced
from .training import Divisor

_FEW = 0.25
"""Share of the rows that may be edited, of K objectives together."""


@dataclass(frozen=True)
class _Cells:
    """Values of some pairs of a row and an objective, ordered by row."""

    rows: Tensor
    """(E,) int64."""
    heads: Tensor
    """(E,) int64."""
    values: Tensor
    """(E,) or (E, C)."""

    @classmethod
    def ordered(cls, rows: Sequence[Tensor], heads: Sequence[Tensor], values: Sequence[Tensor]) -> "_Cells":
        joint, of, new = torch.cat(list(rows)), torch.cat(list(heads)), torch.cat(list(values))
        order = torch.argsort(joint, stable=True)
        there = order.to(new.device)
        return cls(joint[order], of.to(new.device)[there], new[there])

    def of(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places in `index` (B,), the objectives and the values of the cells of these rows.

        Args:
            index: ascending row numbers, without a gap in which there is a cell.
        """
        first, last = torch.searchsorted(self.rows, torch.stack([index[0], index[-1] + 1])).tolist()
        places = torch.searchsorted(index, self.rows[first:last]).to(self.heads.device)
        return places, self.heads[first:last], self.values[first:last]


class HeadEdits:
    """The rows of K objectives, each under its own edit, as `HeadObjectives` sees them."""

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        features: HeadRows,
        edits: Sequence[Edit],
        *,
        divisor: Divisor = "kept_n",
    ) -> None:
        """Bind edits that `check_edits` has passed; what lies below the head runs for what replaces rows only."""
        self._features = features
        self._count = len(edits)
        self._like = objective.theta
        self._extra = _replacing(objective, train, edits, len(features))
        self._weights = self._new_weights(edits)
        if self._extra is not None:
            self._extra = replace(self._extra, weights=torch.zeros_like(self._extra.weights))
        self._targets = _new_targets(objective, edits)
        rows = self._weights.rows if self._targets is None else torch.cat([self._weights.rows, self._targets.rows])
        self._touched = torch.unique(rows[rows < self.rows])
        self._own: HeadBlock | None = None
        removed = self._like.new_tensor([len(set(edit.without)) if divisor == "subset" else 0 for edit in edits])
        self.divisors = (self.rows - removed).clamp(min=1)
        """n_k, (K,)."""

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> int:
        """Return n."""
        return len(self._features)

    def parts(self, at: Tensor) -> Iterator[SharedPart]:
        """Yield all rows in order, and then those that replace some, as the objectives `at` (A,) see them."""
        for block in self._blocks():
            yield SharedPart(block, self.targets(block, at), (self.weights(block) / self.divisors)[:, at])

    def unedited(self) -> Iterator[HeadBlock]:
        """Yield all rows in order, as they are without any edit."""
        return self._features.blocks()

    def edited(self) -> Iterator[HeadBlock]:
        """Yield the rows of which some objective has another weight or target, in order, and those that replace some.

        They are kept: ask where they are `few`.
        """
        if self._own is None and len(self._touched):
            self._own = self._features.take(self._touched)
        if self._own is not None:
            yield self._own
        if self._extra is not None:
            yield self._extra

    @property
    def few(self) -> bool:
        """Whether so few rows are edited that what they change is less work than what all rows give."""
        touched = len(self._touched) + (0 if self._extra is None else len(self._extra.index))
        return touched <= _FEW * self.rows

    def total_weights(self) -> Tensor:
        """Return Σ_i w_ik, (K,)."""
        return sum(self.weights(block).sum(dim=0) for block in self._blocks())

    def weights(self, block: HeadBlock) -> Tensor:
        """Return w_ik, (B, K)."""
        B, K = len(block.index), self._count
        own = self._like.new_ones(B) if block.weights is None else block.weights
        found = own[:, None].expand(B, K).clone()
        places, heads, values = self._weights.of(block.index)
        found[places, heads] = values
        return found

    def targets(self, block: HeadBlock, at: Tensor) -> Tensor:
        """Return the targets of the objectives `at` (K',) laid flat, (B · K',) or (B · K', C)."""
        found = repeated(block.targets, len(at))
        if self._targets is None:
            return found
        places, heads, values = self._targets.of(block.index)
        if len(places):
            column = torch.full((self._count,), -1, device=at.device)
            column[at] = torch.arange(len(at), device=at.device)
            here = column[heads] >= 0
            found[(places * len(at) + column[heads])[here]] = values[here]
        return found

    def _blocks(self) -> Iterator[HeadBlock]:
        yield from self._features.blocks()
        if self._extra is not None:
            yield self._extra

    def _new_weights(self, edits: Sequence[Edit]) -> _Cells:
        rows, heads, values = [], [], []
        for k, edit in enumerate(edits):
            replaced = set(edit.replaced)
            gone = torch.tensor(sorted({*edit.without, *replaced}), dtype=torch.int64)
            stays = [place for place, row in enumerate(edit.reweighted) if row not in replaced]
            rows += [gone, torch.tensor([edit.reweighted[place] for place in stays], dtype=torch.int64)]
            values += [self._like.new_zeros(len(gone)), self._like.new_zeros(len(stays))]
            if edit.weights is not None:
                values[-1] = edit.weights[stays].to(self._like)
            heads.append(torch.full((len(gone) + len(stays),), k))
        if self._extra is not None:
            rows.append(self._extra.index)
            counts = torch.tensor([len(edit.replaced) for edit in edits])
            heads.append(torch.repeat_interleave(torch.arange(len(edits)), counts))
            values.append(self._extra.weights)
        return _Cells.ordered(rows, heads, values)


def _replacing(objective: Objective, train: Rows, edits: Sequence[Edit], n: int) -> HeadBlock | None:
    """Return what replaces rows, edit after edit, with the targets and weights that they have under it."""
    blocks = []
    for edit in edits:
        if edit.replaced:
            rows = TensorRows(edit.inputs, *values_of_replaced(edit, train))
            blocks += list(HeadRows(objective, rows).blocks())
    if not blocks:
        return None
    return joined(blocks, n + torch.arange(sum(len(block.index) for block in blocks)))


def _new_targets(objective: Objective, edits: Sequence[Edit]) -> _Cells | None:
    rows, heads, values = [], [], []
    for k, edit in enumerate(edits):
        replaced = set(edit.replaced)
        stays = [place for place, row in enumerate(edit.relabelled) if row not in replaced]
        if edit.targets is not None and stays:
            rows.append(torch.tensor([edit.relabelled[place] for place in stays]))
            heads.append(torch.full((len(stays),), k))
            values.append(objective.targets(edit.targets[stays], rows[-1]))
    return _Cells.ordered(rows, heads, values) if rows else None
