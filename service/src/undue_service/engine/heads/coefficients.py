"""Numbers over θ, in θ's order, as coefficients of linear heads, and back."""

from torch import Tensor

from undue_service.engine.head import LinearHead
from undue_service.engine.objective import Objective


def coefficients_of(head: LinearHead, thetas: Tensor) -> Tensor:
    """Return Θ (d, K, C) of θ_k (K, P)."""
    return head.from_theta(thetas.T).permute(1, 2, 0).contiguous()


def thetas_of(head: LinearHead, coefficients: Tensor) -> Tensor:
    """Return θ_k (K, P) of Θ (d, K, C)."""
    return head.to_theta(coefficients.permute(2, 0, 1).contiguous()).T.contiguous()


def registered(objective: Objective) -> Tensor:
    """Return the coefficients of the registered weights, (d, C)."""
    return objective.head.from_theta(objective.theta).T.contiguous()


def l2_of(objective: Objective) -> Tensor:
    """Return l2 · mask for each coefficient, (d, C)."""
    return objective.head.from_theta(objective.l2).T.contiguous()
