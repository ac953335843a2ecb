"""Rows as several heads see them at once: the seam between objectives and what is different in each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .block import HeadBlock


class Part(Protocol):
    """B rows as A heads see them."""

    @property
    def features(self) -> Tensor:
        """x̃ of the first head, (B, d)."""

    @property
    def targets(self) -> Tensor:
        """Of the rows' heads laid flat, (B · A,) or (B · A, C)."""

    @property
    def weights(self) -> Tensor:
        """w_ik, (B, A)."""

    def project(self, theta: Tensor) -> Tensor:
        """Return x̃ Θ_k of Θ (d, A, C): (B, A, C)."""

    def outputs(self, theta: Tensor) -> Tensor:
        """Return f of Θ (d, A, C): (B, A, C)."""

    def gather(self, values: Tensor) -> Tensor:
        """Return Σ_i x̃_ik ⊗ v_ik of (B, A, C): (d, A, C)."""


class SeenRows(Protocol):
    """The rows of K objectives."""

    def __len__(self) -> int:
        """Return K."""

    @property
    def rows(self) -> int:
        """Return n."""

    def parts(self, at: Tensor) -> Iterator[Part]:
        """Yield the rows of the objectives `at` (A,) int64."""


@dataclass(frozen=True)
class SharedPart:
    """Rows whose features all heads share."""

    block: HeadBlock
    targets: Tensor
    """See Part."""
    weights: Tensor
    """See Part."""

    @property
    def features(self) -> Tensor:
        """See Part."""
        return self.block.features

    def project(self, theta: Tensor) -> Tensor:
        """See Part."""
        return self.block.project(theta)

    def outputs(self, theta: Tensor) -> Tensor:
        """See Part."""
        return self.block.outputs(theta)

    def gather(self, values: Tensor) -> Tensor:
        """See Part."""
        return self.block.gather(values)
