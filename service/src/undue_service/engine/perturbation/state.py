"""Where an attack is: plain tensors from which it goes on bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class Trajectories:
    """K attacks after some iterations, each perturbing M rows for up to T targets."""

    iterations: Tensor
    """Steps taken by the attacks that still run, () int64."""
    taken: Tensor
    """Steps that each attack took, (K,) int64."""
    running: Tensor
    """Whether an attack still runs, (K,) bool."""
    batch: Tensor
    """Attacks whose features were computed together last, (A,) int64."""
    inputs: Tensor
    """The perturbed rows, (K, M, …), in the program's dtype."""
    velocity: Tensor
    """The direction that steps follow, likewise; 0 before the first."""
    thetas: Tensor
    """θ_k fitted with them in place, (K, P)."""
    wrong: Tensor
    """Which targets θ_k predicts wrongly, (K, T) bool; False where an attack has fewer."""
    costs: Tensor
    """Mean cost of each attack's targets after 0, 1, … iterations, (iterations + 1, K) float64; an attack that has
    ended keeps its last."""
    flips: Tensor
    """Targets that were predicted rightly before and are not after 0, 1, … iterations, over all attacks, (…,) int64."""


@dataclass(frozen=True)
class AttackState:
    """An attack and its control between two iterations."""

    candidates: Tensor
    """Training rows that each attack perturbs, (K, M) int64."""
    baseline: Tensor
    """θ̂*, fitted on the unperturbed rows, (P,)."""
    products: Tensor
    """Products with Hessians that solves have taken so far, () int64."""
    attack: Trajectories
    control: Trajectories | None
    """None before it has begun, or where there is none."""

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name."""
        found = {"candidates": self.candidates, "baseline": self.baseline, "products": self.products}
        for name in ("attack", "control"):
            part = getattr(self, name)
            if part is not None:
                found |= {f"{name}.{one.name}": getattr(part, one.name) for one in fields(Trajectories)}
        return found

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "AttackState":
        """Return the state that `tensors` laid out.

        Raises:
            KeyError: something is missing.
        """

        def part(name: str) -> Trajectories:
            return Trajectories(**{one.name: tensors[f"{name}.{one.name}"] for one in fields(Trajectories)})

        has_control = any(key.startswith("control.") for key in tensors)
        return cls(
            tensors["candidates"],
            tensors["baseline"],
            tensors["products"],
            part("attack"),
            part("control") if has_control else None,
        )

    @property
    def flipped(self) -> int:
        """Return how many targets the attack has flipped so far."""
        return int(self.attack.flips[-1])

    @property
    def iteration(self) -> int:
        """Return the steps that were taken so far, the control's included."""
        return int(self.attack.iterations) + (0 if self.control is None else int(self.control.iterations))
