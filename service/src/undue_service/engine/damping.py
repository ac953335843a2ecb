"""One scalar λ for the whole model, resolved and reported."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason

from .curvature.estimate import Estimate
from .curvature.trace import SEED
from .objective import Objective

_SHARE_OF_MEAN_EIGENVALUE = 0.1


@dataclass(frozen=True, slots=True)
class Damping:
    """λ, and where it comes from."""

    value: float
    source: Literal["given", "convex", "mean_eigenvalue", "unused"]
    standard_error: float = 0.0
    """Of λ, where the mean eigenvalue was estimated."""
    reason: str = ""
    """Why there is any, where the objective is convex and might have done without."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader should know of it."""
        return (*([self.reason] if self.reason else []), *self._uncertainty())

    def _uncertainty(self) -> tuple[str, ...]:
        if not self.standard_error:
            return ()
        text = (
            f"damping {self.value:.4g} is 0.1 × an estimate of the Hessian's mean eigenvalue from random probes "
            f"(seed {SEED}), with a standard error of {self.standard_error:.1g}; pass damping= to fix it"
        )
        return (text,)


UNUSED = Damping(0.0, "unused")


def check_damping(given: float | None) -> None:
    """Raise InvalidArgument (INVALID_FIELD) where a damping is not a finite number ≥ 0."""
    if given is not None and not (math.isfinite(given) and given >= 0):
        raise InvalidArgument.at(
            "damping", f"damping is a finite number ≥ 0 that is added to the Hessian's diagonal, not {given}"
        )


def resolve_damping(given: float | None, objective: Objective, mean_eigenvalue: Callable[[], Estimate]) -> Damping:
    """Return λ as given, or the default.

    The default is 0 where R is convex in θ with L2 on every selected parameter, else 0.1 × the mean eigenvalue of H.

    Args:
        given: the caller's choice.
        objective: says whether R is convex.
        mean_eigenvalue: returns trace(H) / P; called only where it is needed.

    Raises:
        InvalidArgument: INVALID_FIELD where the given damping is negative or not finite.
        FailedPrecondition: HESSIAN_NOT_POSITIVE_DEFINITE where the mean eigenvalue is not positive.
    """
    check_damping(given)
    if given is not None:
        return Damping(given, "given")
    if objective.convex and bool((objective.l2 > 0).all()):
        return Damping(0.0, "convex")
    mean = mean_eigenvalue()
    if not mean.value > 0:
        text = (
            f"the mean eigenvalue of the Hessian is {mean.value:.4g}, so no damping can be derived from it: pass "
            "damping=, or train the model further"
        )
        raise FailedPrecondition(Reason.HESSIAN_NOT_POSITIVE_DEFINITE, text)
    value = _SHARE_OF_MEAN_EIGENVALUE * mean.value
    reason = ""
    if objective.convex:
        free = ", ".join(repr(one.name) for one in objective.parameters if one.selected and not one.l2)
        reason = (
            f"damping {value:.4g} was chosen because L2 leaves {free} free, so the Hessian may be singular; the scores "
            "are somewhat smaller than what retraining shows: pass damping=0, or a very small one if it is"
        )
    return Damping(value, "mean_eigenvalue", _SHARE_OF_MEAN_EIGENVALUE * mean.standard_error, reason)
