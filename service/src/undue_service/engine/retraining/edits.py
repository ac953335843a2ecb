"""What is different about the training data: rows that are left out, or have other inputs, targets or weights."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.engine.data import Batch, Rows
from undue_service.engine.objective import Objective


@dataclass(frozen=True)
class Edit:
    """One counterfactual. 1/n stays; what is not named stays as it is, a replaced row's target and weight, too."""

    without: tuple[int, ...] = ()
    """Rows that are left out; a row that is named twice is left out once."""
    replaced: tuple[int, ...] = ()
    """q rows with other inputs."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """(q, …) each, by the names and in the shapes that the data set has."""
    relabelled: tuple[int, ...] = ()
    """r rows with another target."""
    targets: Tensor | None = None
    """(r,) or (r, C), as the data set has them."""
    reweighted: tuple[int, ...] = ()
    """u rows with another weight."""
    weights: Tensor | None = None
    """w_i, (u,): in place of the registered weight, which is 1 where there are none."""

    @classmethod
    def of(
        cls,
        without: Iterable[int] = (),
        replace: Mapping[int, Mapping[str, Any]] | None = None,
        relabel: Mapping[int, Any] | None = None,
        reweight: Mapping[int, float] | None = None,
    ) -> "Edit":
        """Return an edit from values by row: inputs by name without a row axis, a target, a weight."""
        replace, relabel, reweight = replace or {}, relabel or {}, reweight or {}
        names = dict.fromkeys(name for one in replace.values() for name in one)
        return cls(
            without=tuple(without),
            replaced=tuple(replace),
            inputs={name: _stack(one[name] for one in replace.values()) for name in names},
            relabelled=tuple(relabel),
            targets=_stack(relabel.values()) if relabel else None,
            reweighted=tuple(reweight),
            weights=torch.tensor(list(reweight.values()), dtype=torch.float64) if reweight else None,
        )

    @property
    def removes_only(self) -> bool:
        """Whether rows are left out and nothing else is different."""
        return not (self.replaced or self.relabelled or self.reweighted)

    def __str__(self) -> str:
        """Return in words what is different."""
        parts = [
            (self.without, "without {}"),
            (self.replaced, "with {} replaced"),
            (self.relabelled, "with {} relabelled"),
            (self.reweighted, "with {} reweighted"),
        ]
        return ", ".join(how.format(named(rows)) for rows, how in parts if rows)


def removing(sets: Iterable[Sequence[int]]) -> tuple[Edit, ...]:
    """Return the edits that leave out sets of rows."""
    return tuple(Edit(without=tuple(int(row) for row in some)) for some in sets)


def check_edits(edits: Sequence[Edit], objective: Objective, train: Rows, fields: Sequence[str]) -> None:
    """Hold edits against the data and the model, before anything is fitted.

    Args:
        edits: what is to be different.
        objective: of the model.
        train: the n rows.
        fields: what the caller calls each edit.

    Raises:
        InvalidArgument: ROW_OUT_OF_RANGE; INVALID_FIELD for an edit that changes nothing, for a row that is named
            twice, or left out and changed, and for a weight that is not ≥ 0; INPUT_MISMATCH; TARGET_MISMATCH.
    """
    first = next(iter(train.batches(1)))
    for edit, at in zip(edits, fields, strict=True):
        _check_rows(edit, len(train), at)
        if edit.replaced:
            _check_inputs(edit, objective, first, f"{at}.replace")
        if edit.relabelled:
            count = 0 if edit.targets is None else len(edit.targets)
            if count != len(edit.relabelled):
                text = f"there are {count} targets for {len(edit.relabelled)} rows"
                raise InvalidArgument.at(f"{at}.relabel", text, Reason.TARGET_MISMATCH)
            with _named(f"{at}.relabel"):
                index = torch.as_tensor(edit.relabelled, dtype=torch.int64)
                objective.targets(edit.targets, index)
        if edit.reweighted:
            _check_weights(edit, f"{at}.reweight")


def values_of_replaced(edit: Edit, train: Rows) -> tuple[Tensor, Tensor]:
    """Return the targets and the weights of an edit's replaced rows, as the data set has them: its own, or new ones."""
    blocks = list(train.batches(len(edit.replaced), edit.replaced))
    targets = torch.cat([block.targets for block in blocks])
    targets = targets.double() if targets.is_floating_point() else targets
    weights = torch.cat(
        [
            torch.ones(len(block.index), dtype=torch.float64) if block.weights is None else block.weights.double()
            for block in blocks
        ]
    )
    place = {row: at for at, row in enumerate(edit.replaced)}
    for rows, values, into in ((edit.relabelled, edit.targets, targets), (edit.reweighted, edit.weights, weights)):
        for at, row in enumerate(rows):
            if row in place:
                into[place[row]] = values[at].reshape(into.shape[1:])
    return targets, weights


def _check_rows(edit: Edit, n: int, at: str) -> None:
    parts = {
        "without": edit.without,
        "replace": edit.replaced,
        "relabel": edit.relabelled,
        "reweight": edit.reweighted,
    }
    if not any(parts.values()):
        raise InvalidArgument.at(at, "names no training row")
    gone = set(edit.without)
    for name, rows in parts.items():
        where = at if edit.removes_only else f"{at}.{name}"
        wrong = next((row for row in rows if not 0 <= row < n), None)
        if wrong is not None:
            text = f"there is no training row {wrong}; there are rows 0…{n - 1}"
            raise InvalidArgument.at(where, text, Reason.ROW_OUT_OF_RANGE)
        if name == "without":
            continue
        if len(set(rows)) < len(rows):
            twice = next(row for place, row in enumerate(rows) if row in rows[:place])
            raise InvalidArgument.at(where, f"names row {twice} twice")
        both = next((row for row in rows if row in gone), None)
        if both is not None:
            text = f"row {both} is left out by without, so nothing else of it can be different: name it in one of them"
            raise InvalidArgument.at(where, text)


def _check_inputs(edit: Edit, objective: Objective, first: Batch, at: str) -> None:
    if set(edit.inputs) != set(first.inputs):
        have, want = (", ".join(repr(name) for name in sorted(names)) for names in (edit.inputs, first.inputs))
        text = f"a replaced row has the inputs {have or 'none'}; the data set's rows have {want}"
        raise InvalidArgument.at(at, text, Reason.INPUT_MISMATCH)
    for name, tensor in edit.inputs.items():
        want = (len(edit.replaced), *first.inputs[name].shape[1:])
        if tuple(tensor.shape) != want:
            text = f"the new values of {name!r} have the shape {tuple(tensor.shape)}; {want} is needed, rows first"
            raise InvalidArgument.at(at, text, Reason.INPUT_MISMATCH)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            row = edit.replaced[int((~torch.isfinite(tensor)).flatten(1).any(dim=1).nonzero()[0, 0])]
            raise InvalidArgument.at(at, f"a new value of {name!r} of row {row} is not a finite number")
    with _named(at):
        objective.place(Batch(edit.inputs, None, None, torch.as_tensor(edit.replaced, dtype=torch.int64)))


def _check_weights(edit: Edit, at: str) -> None:
    if edit.weights is None or edit.weights.shape != (len(edit.reweighted),):
        raise InvalidArgument.at(at, f"one weight is needed for each of {len(edit.reweighted)} rows")
    bad = ~(torch.isfinite(edit.weights) & (edit.weights >= 0))
    if bool(bad.any()):
        k = int(bad.nonzero()[0, 0])
        text = f"row {edit.reweighted[k]} would have the weight {edit.weights[k].item()}; a weight is finite and ≥ 0"
        raise InvalidArgument.at(at, text)


@contextmanager
def _named(at: str) -> Iterator[None]:
    """Let what the objective refuses bear the name of the field that it came in."""
    try:
        yield
    except InvalidArgument as error:
        text = error.violations[0].description if error.violations else error.message
        found = InvalidArgument.at(at, text, error.reason)
        found.metadata.update(error.metadata)
        raise found from error


def _stack(values: Iterable[Any]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(value) for value in values]))


def named(rows: Sequence[int]) -> str:
    """Return some rows in words."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    listed = ", ".join(map(str, rows[:5]))
    return f"rows {listed}" + (f" and {len(rows) - 5:,} more" if len(rows) > 5 else "")
