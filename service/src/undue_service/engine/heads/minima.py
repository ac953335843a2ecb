"""Where fits of heads have ended, and the error for one that is not at its minimum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason

CONVERGED = "converged"


@dataclass(frozen=True)
class Minima:
    """Where K fits ended."""

    coefficients: Tensor
    """Θ_k, (d, K, C)."""
    gradient_norms: Tensor
    """‖∇R_k‖, (K,)."""
    iterations: Tensor
    """Steps, (K,) int64."""
    status: list[str]
    """CONVERGED, or in words why not."""
    products: int
    """Products of a Hessian with one vector."""

    def with_those(self, places: Sequence[int], others: "Minima") -> "Minima":
        """Return these, some of them taken over by fits that went on from where they ended."""
        coefficients, norms, iterations = (
            tensor.clone() for tensor in (self.coefficients, self.gradient_norms, self.iterations)
        )
        coefficients[:, places], norms[places] = others.coefficients, others.gradient_norms
        iterations[places] += others.iterations
        status = list(self.status)
        for place, said in zip(places, others.status, strict=True):
            status[place] = said
        return Minima(coefficients, norms, iterations, status, self.products + others.products)

    def check(
        self, tolerance: float, name: Callable[[int], str], *, advice: str = "", first: int | None = None
    ) -> None:
        """Hold every fit to have converged.

        Args:
            tolerance: of ‖∇R‖.
            name: what the error calls a fit of these.
            advice: what else the reader may do.
            first: number of the first fit among a request's counterfactuals; None where they are none.

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED.
        """
        k = next((k for k, status in enumerate(self.status) if status != CONVERGED), None)
        if k is None:
            return
        size, steps = float(self.gradient_norms[k]), int(self.iterations[k])
        text = (
            f"{name(k)} did not converge: {self.status[k]} (‖∇R‖ = {size:.2g} after {steps} steps, tolerance "
            f"{tolerance:.1g}); register the model with l2 > 0 on every selected parameter, which makes the minimum "
            f"one and finite{advice}"
        )
        metadata = {"gradient_norm": f"{size:.6g}", "tolerance": f"{tolerance:g}", "iterations": str(steps)}
        if first is not None:
            metadata["counterfactual"] = str(first + k)
        raise FailedPrecondition(Reason.SOLVER_NOT_CONVERGED, text, metadata=metadata)
