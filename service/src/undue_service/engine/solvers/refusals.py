"""The errors of systems that cannot be solved, and a damping with which they can."""

from typing import NoReturn

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Curvature, Damped


def damping_of(curvature: Curvature) -> float:
    """Return the λ that a curvature already holds."""
    return curvature.damping if isinstance(curvature, Damped) else 0.0


def refuse_spectrum(
    smallest: float, largest: float, damping: float, rounding: float, met: float | None = None
) -> NoReturn:
    """Raise the error for a matrix that is not positive definite.

    Args:
        smallest: its smallest eigenvalue, or an estimate from above.
        largest: likewise its largest.
        damping: λ, which both already hold.
        rounding: the eigenvalue that rounding alone can produce.
        met: the curvature pᵀAp/‖p‖² that gave it away, where no eigenvalue is known exactly.

    Raises:
        FailedPrecondition: HESSIAN_NOT_POSITIVE_DEFINITE; HESSIAN_SINGULAR where `smallest` is zero but for rounding.
    """
    scale = max(abs(smallest), abs(largest)) or 1.0
    enough = f"{1.05 * (damping + 2 * max(-smallest, 0.0) + 1e-6 * scale):.1e}"  # 5 % outweighs what .1e rounds down
    metadata = {"smallest_eigenvalue": f"{smallest:.6g}", "sufficient_damping": enough}
    spectrum = f"smallest eigenvalue {smallest:.4g}, largest {largest:.4g}, damping {damping:.2g} included"
    if met is not None:
        metadata["curvature"] = f"{met:.6g}"
        spectrum = (
            f"curvature {met:.4g} met, smallest eigenvalue about {smallest:.4g}, largest about {largest:.4g}, damping "
            f"{damping:.2g} included"
        )
    if smallest < -rounding:
        text = (
            f"the Hessian is not positive definite ({spectrum}): the model is not at a minimum of its objective; "
            f"pass damping={enough} or more, or train the model further"
        )
        raise FailedPrecondition(Reason.HESSIAN_NOT_POSITIVE_DEFINITE, text, metadata=metadata)
    text = (
        f"the Hessian is singular ({spectrum}): some change of the weights leaves the objective as it is; register the "
        f"l2 that the model was trained with, or pass damping={enough} or more"
    )
    raise FailedPrecondition(Reason.HESSIAN_SINGULAR, text, metadata=metadata)


def refuse_not_finite(what: str) -> NoReturn:
    """Raise FailedPrecondition (NON_FINITE_RESULT)."""
    text = f"{what} holds NaN or infinite values; check the model's weights and the range of its inputs"
    raise FailedPrecondition(Reason.NON_FINITE_RESULT, text)
