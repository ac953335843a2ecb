"""A perturb job: what is asked, how susceptible the attacked rows are, and what each attack did, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .perturbation import AttackSettings

Array = Any
"""One of NumPy's, which the domain does not import."""


@dataclass(frozen=True, slots=True)
class Perturb:
    """Job: find out how little training rows must change for the model to say something else of test rows."""

    model: str
    train: str
    test: str
    attacks: tuple[tuple[int, ...], ...] = ()
    """The test rows of each attack, whose mean cost it raises; none means an attack for each row."""
    settings: AttackSettings = field(default_factory=AttackSettings)
    kind: Literal["perturb"] = "perturb"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are attacked, of a test set of so many rows."""
        return sum(map(len, self.attacks)) or of_set

    def targets(self, test_rows: int) -> Sequence[Sequence[int]]:
        """Return the test rows of each attack, of a test set of so many rows."""
        return self.attacks or tuple((row,) for row in range(test_rows))


@dataclass(frozen=True, slots=True)
class FlipShare:
    """Which part of some rows flipped, with the Wilson interval of 95 % around it."""

    count: int
    total: int
    value: float
    """0 of no rows."""
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PerturbationSummary:
    """How susceptible the attacked test rows are."""

    flipped: FlipShare
    """Of the rows that were attacked, those whose prediction flipped; confirmed, where that was asked for."""
    control: FlipShare | None
    """The same with random signs; None without the control."""
    already_wrong: int
    """Test rows that the model was wrong about before anything was perturbed: they were not attacked."""
    unconfirmed: int
    """Flips that training from nothing did not confirm: they do not count."""
    test_loss_before: float
    """Mean over the test set."""
    test_loss_after: float
    """Averaged over the attacks."""
    flips: tuple[int, ...]
    """Test rows that had flipped after 0, 1, … iterations, confirmed or not."""


@dataclass(frozen=True, slots=True)
class AttackedRow:
    """What became of a test row."""

    row: int
    already_wrong: bool
    flipped: bool
    confirmed: bool | None
    """None where that was not tried."""
    control_flipped: bool | None
    """Confirmed, where flips are; None without the control."""


@dataclass(frozen=True, slots=True)
class PerturbedRow:
    """How far a training row was moved, in levels."""

    row: int
    linf: float
    l2: float


@dataclass(frozen=True, slots=True)
class Perturbation:
    """What one attack did."""

    index: int
    """Position among the job's attacks."""
    targets: tuple[AttackedRow, ...]
    rows: tuple[PerturbedRow, ...]
    iterations: int
    costs: tuple[float, ...]
    """Mean cost of its test rows after 0, 1, … iterations."""
    control_costs: tuple[float, ...]
    """The same with random signs; none without the control."""
    test_loss: float
    """Mean over the test set, after training again on what it perturbed."""


@dataclass(frozen=True, slots=True)
class PoisonedRow:
    """A training row as an attack left it."""

    attack: int
    """Position among the job's attacks."""
    row: int
    input: str
    """Which of its inputs was perturbed; the others stayed, as did its target."""
    values: Array
    """Of one row."""
