"""What a perturb job found, as frozen values that print themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from . import _render_perturbations
from ._errors import FailedPrecondition, InvalidArgument
from ._results import Diagnostics, data_frame

if TYPE_CHECKING:
    import pandas as pd


class PoisonedRows(Protocol):
    """Where poisoned rows can be read."""

    def get(self, attack: int) -> Any:
        """Return those of an attack, or what can be awaited for them."""


@dataclass(frozen=True, slots=True)
class FlipShare:
    """Which part of some rows flipped, with the Wilson interval of 95 % around it."""

    count: int
    total: int
    value: float
    """count / total; 0 of no rows."""
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.count} of {self.total} ({self.value:.1%}, {self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True, slots=True)
class AttackedRow:
    """What became of a test row."""

    row: int
    already_wrong: bool
    """Whether the model was wrong about it before: it was not attacked."""
    flipped: bool
    """Whether its prediction flipped."""
    confirmed: bool | None
    """Whether training from nothing on the perturbed rows flips it too; None where that was not tried."""
    control_flipped: bool | None
    """Whether random signs flip it, confirmed where flips are; None without the control."""


@dataclass(frozen=True, slots=True)
class PerturbedRow:
    """How far a training row was moved."""

    row: int
    linf: float
    """Largest move of one number, in levels."""
    l2: float
    """Euclidean norm of the move, in levels."""


@dataclass(frozen=True, slots=True)
class Attack:
    """What one attack did."""

    index: int
    """Position among the attacks that were asked for."""
    targets: tuple[AttackedRow, ...]
    """The test rows whose mean cost it raised."""
    rows: tuple[PerturbedRow, ...]
    """The training rows that it moved."""
    iterations: int
    costs: tuple[float, ...]
    """Mean cost of its test rows after 0, 1, … iterations."""
    control_costs: tuple[float, ...]
    """The same with random signs; empty without the control."""
    test_loss: float
    """Mean loss of the test set after training again on what it moved."""

    @property
    def flipped(self) -> bool:
        """Whether every test row that it was against flipped."""
        attacked = [each for each in self.targets if not each.already_wrong]
        return bool(attacked) and all(each.flipped and each.confirmed is not False for each in attacked)


@dataclass(frozen=True, slots=True, eq=False)
class Poisoned:
    """The training rows that one attack moved, as it left them."""

    attack: int
    rows: tuple[int, ...]
    """Rows of the training set."""
    input: str
    """The input that was perturbed; other inputs and targets stayed."""
    values: npt.NDArray[Any]
    """(rows, …): the input of each."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PerturbResult:
    """How susceptible test rows are to small changes of a few training rows."""

    attacks: tuple[Attack, ...]
    """One for each that was asked for, in that order."""
    flipped: FlipShare
    """Of the attacked test rows, those whose prediction flipped; confirmed, where that was asked for."""
    control: FlipShare | None
    """The same with random signs; None without the control."""
    already_wrong: int
    """Test rows that the model was wrong about before: they were not attacked."""
    unconfirmed: int
    """Flips that training from nothing did not confirm: they do not count."""
    test_loss_before: float
    """Mean over the test set."""
    test_loss_after: float
    """Averaged over the attacks."""
    flips: tuple[int, ...]
    """Test rows that had flipped after 0, 1, … iterations, confirmed or not."""
    diagnostics: Diagnostics
    _poisoned: PoisonedRows

    @property
    def share_flipped(self) -> float:
        """Part of the attacked test rows whose prediction flipped."""
        return self.flipped.value

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson interval of 95 % around `share_flipped`."""
        return self.flipped.low, self.flipped.high

    def poisoned(self, attack: int) -> Any:
        """Return the training rows that an attack moved, a `Poisoned`, read on demand; `await` it with an AsyncClient.

        Raises:
            InvalidArgument: there is no such attack.
            FailedPrecondition: it moved none, as its test rows were wrong already.
            NotFound: the job has been deleted.
            Unavailable: the service cannot be reached.
        """
        if not 0 <= attack < len(self.attacks):
            text = f"attack: there is no attack {attack}; there are {len(self.attacks):,}, numbered from 0"
            raise InvalidArgument(text, reason="ROW_OUT_OF_RANGE")
        if not self.attacks[attack].rows:
            text = f"attack {attack} moved no training row: the model was wrong about its test rows already"
            raise FailedPrecondition(text, reason="NOTHING_PERTURBED")
        return self._poisoned.get(attack)

    def to_pandas(self) -> "pd.DataFrame":
        """Return a long table: one line for each attack and test row.

        Columns: attack, test_row, already_wrong, flipped, confirmed, control_flipped, cost_before, cost_after,
        iterations, train_rows, linf, l2. The costs are those of the attack, the mean over its test rows; the last two
        columns are the largest moves among its training rows, in levels.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_perturbations.ATTACKED_COLUMNS, _render_perturbations.attacked_records(self.attacks))

    def __len__(self) -> int:
        return len(self.attacks)

    def __iter__(self) -> Iterator[Attack]:
        return iter(self.attacks)

    def __repr__(self) -> str:
        return f"<PerturbResult: {len(self)} attacks, flipped {self.flipped}>"

    def __str__(self) -> str:
        return _render_perturbations.perturb_text(self)

    def _repr_html_(self) -> str:
        return _render_perturbations.perturb_html(self)


def joined(attack: int, rows: list[tuple[int, str, npt.NDArray[Any]]]) -> Poisoned:
    """Return the rows of one attack, which came one by one as (row, input, values)."""
    numbers, names, values = zip(*rows, strict=True)
    return Poisoned(attack, tuple(numbers), names[0], np.stack(values))
