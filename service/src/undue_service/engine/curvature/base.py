"""The seam between what curves and what solves."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason

from .estimate import Estimate


class Curvature(Protocol):
    """A symmetric operator on the P selected parameters."""

    @property
    def dim(self) -> int:
        """Return P."""

    def matmat(self, V: Tensor) -> Tensor:
        """Return the product with columns V (P, K): (P, K)."""

    def to_dense(self) -> Tensor:
        """Return the matrix, (P, P); the caller does not change it."""


@runtime_checkable
class MeanOfRows(Protocol):
    """A curvature that is a mean over training rows, plus a known diagonal that no row changes."""

    @property
    def rows(self) -> int:
        """Return n."""

    @property
    def diagonal(self) -> Tensor:
        """Return the known diagonal, l2 · mask, (P,)."""

    def mean_eigenvalue(self) -> Estimate:
        """Return the trace over P."""

    def of(self, rows: Sequence[int]) -> Curvature:
        """Return the mean over some rows instead of all, plus the same diagonal."""


def check_dense(dim: int, limit: int, what: str) -> None:
    """Check that a matrix may be written down.

    Raises:
        FailedPrecondition: TOO_MANY_PARAMETERS where P exceeds the limit.
    """
    if dim <= limit:
        return
    text = (
        f"a dense {what} over {dim:,} parameters would take {dim**2 * 8 / 2**30:,.1f} GiB; the limit is {limit:,} "
        'parameters: select fewer with parameters=, such as the last layer\'s, or use method="cg"'
    )
    metadata = {"parameters": str(dim), "limit": str(limit)}
    raise FailedPrecondition(Reason.TOO_MANY_PARAMETERS, text, metadata=metadata)
