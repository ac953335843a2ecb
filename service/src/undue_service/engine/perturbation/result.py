"""What an attack through the training inputs has found."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.perturbation import AttackSettings
from undue_service.engine.diagnostics import EngineDiagnostics


@dataclass(frozen=True)
class Outcome:
    """Where one attack, or its control, ended. T targets."""

    iterations: int
    flipped: NDArray[np.bool_]
    """Whether each target was predicted rightly before and is not at the end, (T,)."""
    confirmed: NDArray[np.bool_] | None
    """Whether that holds for a head fitted from zero to ‖∇R‖ ≤ 1e-8, (T,); None where it was not tried."""
    costs: NDArray[np.float64]
    """Mean cost of the targets after 0, 1, … iterations, (iterations + 1,)."""
    test_loss: float
    """Mean loss of all test rows at the end."""

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Return the flips that count: those confirmed, where that was tried."""
        return self.flipped if self.confirmed is None else self.confirmed


@dataclass(frozen=True)
class Attack:
    """One attack: M training rows, moved to flip T test rows."""

    targets: NDArray[np.int64]
    """Test rows, (T,)."""
    already_wrong: NDArray[np.bool_]
    """Whether each was predicted wrongly before, (T,): those are not attacked."""
    rows: NDArray[np.int64]
    """Training rows, (M,); empty where every target was wrong already."""
    linf: NDArray[np.float64]
    """Largest move of a value of each row, in levels, (M,)."""
    l2: NDArray[np.float64]
    """Euclidean length of each row's move, in levels, (M,)."""
    attack: Outcome
    control: Outcome | None


@dataclass(frozen=True)
class Share:
    """Flips among the targets that were predicted rightly before, with Wilson's interval of 95 %."""

    flips: int
    of: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Return flips / of; 0 of none."""
        return self.flips / self.of if self.of else 0.0

    @classmethod
    def among(cls, flips: int, of: int) -> "Share":
        """Return the share with its interval (Wilson 1927): of nothing it is 0…1."""
        if of == 0:
            return cls(0, 0, 0.0, 1.0)
        z = NormalDist().inv_cdf(0.975)
        p, spread = flips / of, z * z / of
        middle = (p + spread / 2) / (1 + spread)
        half = z / (1 + spread) * (p * (1 - p) / of + spread / (4 * of)) ** 0.5
        return cls(flips, of, middle - half if flips else 0.0, middle + half if flips < of else 1.0)


@dataclass(frozen=True)
class AttackResult:
    """K attacks."""

    settings: AttackSettings
    input: str
    """Name of the input that was perturbed."""
    attacks: tuple[Attack, ...]
    inputs: Tensor
    """The perturbed rows, (K, M, …), in the program's dtype; unchanged ones where nothing was attacked."""
    originals: Tensor
    """What they were, (K, M, …)."""
    attacked: Share
    """Counted flips."""
    controlled: Share | None
    """Those of the control."""
    flips: NDArray[np.int64]
    """Flips of all attacks after 0, 1, … iterations, not confirmed."""
    costs: NDArray[np.float64]
    """Mean cost of the targets likewise, over the attacks."""
    test_loss: float
    """Mean loss of all test rows before."""
    test_loss_after: float
    """Likewise, the mean over the attacks at their ends."""
    distance: float
    """‖θ̂ − θ̂*‖ from the registered weights to the fit on the unperturbed rows, at which everything before is measured;
    of a model trained by its recipe 0, as that goes on from the registered weights."""
    diagnostics: EngineDiagnostics
