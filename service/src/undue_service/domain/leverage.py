"""Job `leverage`: what each training row does to a linear model, in closed form."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Leverage:
    """Job: leverage, Cook's distance and DFBETA of the training rows of a linear model, in closed form."""

    model: str
    train: str
    damping: float | None = None
    dfbeta: bool = False
    """Whether the (n, P) changes of the coefficients are kept."""
    kind: Literal["leverage"] = "leverage"
