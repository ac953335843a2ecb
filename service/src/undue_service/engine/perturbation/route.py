"""The seam of the attack: how a model is fitted with perturbed rows in place, and what they do to its targets."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .candidates import Candidates


@dataclass(frozen=True)
class Targets:
    """What K attacks aim at."""

    rows: Tensor
    """The distinct test rows of all attacks, (U,) int64."""
    places: Tensor
    """Which of them each attack aims at, (K, T) int64; −1 where an attack has fewer."""

    @classmethod
    def of(cls, sets: list[list[int]]) -> "Targets":
        """Lay out sets of test rows."""
        rows = sorted({row for some in sets for row in some})
        place = {row: u for u, row in enumerate(rows)}
        places = torch.full((len(sets), max(map(len, sets))), -1)
        for k, some in enumerate(sets):
            places[k, : len(some)] = torch.tensor([place[row] for row in some])
        return cls(torch.tensor(rows), places)

    def at(self, attacks: Tensor) -> "Targets":
        """Return those of some attacks (A,)."""
        return Targets(self.rows, self.places[attacks])

    def shares(self, attacked: Tensor) -> Tensor:
        """Return the share of each row in the mean cost over an attack's targets `attacked` (K, T): (U, K) float64."""
        found = torch.zeros(len(self.rows), len(self.places), dtype=torch.float64)
        for k, (places, own) in enumerate(zip(self.places, attacked, strict=True)):
            here = places[own & (places >= 0)]
            found[here, k] = 1 / max(1, len(here))
        return found

    def of_each(self, values: Tensor) -> Tensor:
        """Return values (U, A, …) of the A attacks' own targets, (A, T): A is K, or one for all."""
        K = len(self.places)
        spread = values.expand(-1, K)
        found = spread.T.gather(1, self.places.clamp(min=0).to(values.device))
        return found & (self.places >= 0).to(values.device)


class Route(Protocol):
    """How a model is fitted and differentiated."""

    def baseline(self) -> Tensor:
        """Return θ̂*, the fit on the unperturbed rows, (P,)."""

    def rank(self, theta: Tensor, shares: Tensor) -> Tensor:
        """Return Σ_j |I_pert(i, T_k)_j| · w_i of every training row i and attack k at θ (P,), (K, n)."""

    def fit(self, candidates: Candidates, at: Tensor, inputs: Tensor, start: Tensor, *, back: bool) -> Tensor:
        """Return θ_k (A, P) of the attacks `at` (A,), fitted with inputs (A, M, …) in place, from `start` (A, P).

        `back` says whether `influence` will be asked for at these inputs.
        """

    def influence(
        self, candidates: Candidates, batch: Tensor, inputs: Tensor, at: Tensor, thetas: Tensor, shares: Tensor
    ) -> Tensor:
        """Return I_pert (A, M, …) of the attacks `at`, at θ_k (A, P).

        Args:
            candidates: the rows.
            batch: attacks whose inputs were fitted together last, (A',).
            inputs: of these, (A', M, …): where it is the tensor that `fit` had, what was computed is used again.
            at: some of `batch`, (A,).
            thetas: θ_k, (A, P).
            shares: of the targets in each attack's mean cost, (U, A).
        """

    def measure(self, thetas: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean costs (A,) and which of the U targets θ_k (A, P) predicts wrongly, (U, A)."""
