"""Training perturbation: how an attack on test predictions through the training inputs is set up."""

import math
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidArgument

Bound = Literal["same_8bit", "linf", "l2"]
"""What a perturbed row may be. "same_8bit": every value rounds to the same 8-bit level; "linf", "l2": a ball."""

SAME_LEVEL = 0.499
"""Largest distance from a level, in levels, at which a value still rounds to it."""

LEVELS = 255


@dataclass(frozen=True, slots=True)
class AttackSettings:
    """How training rows are perturbed (Koh & Liang 2017, section 5.2).

    Lengths are in levels: `level` is the size of one 8-bit level in the input's own unit, 1/255 where the input lies in
    [0, 1], and 1 where it lies in 0…255. Columns are places in a row laid flat.
    """

    input: str | None = None
    """Name of the input that is perturbed; None is the only floating-point one."""
    candidates: int = 1
    """Training rows that each attack perturbs."""
    candidate_rows: tuple[int, ...] = ()
    """Numbers of the rows that every attack perturbs; none means those ranked first by ‖I_pert‖₁."""
    prefilter: int | None = None
    """Rows that are ranked exactly, those of the largest gradient in a linear head's features; None means all."""
    step: float = 0.05
    """Length of one step, in levels: of each value, or for the bound "l2" of the whole row."""
    momentum: float = 0.95
    """μ of the direction that steps follow, v ← μ v + I_pert / ‖I_pert‖₁ (Dong et al. 2018); 0 follows I_pert alone."""
    iterations: int = 100
    """Steps of one attack at most."""
    bound: Bound = "same_8bit"
    radius: float | None = None
    """Of the ball, in levels; None for "same_8bit"."""
    level: float = 1 / LEVELS
    minimum: tuple[float, ...] | None = None
    """Least value, of all columns or of each; None is 0 for "same_8bit", else none."""
    maximum: tuple[float, ...] | None = None
    """Largest value likewise; None is `minimum` + 255 levels for "same_8bit", else none."""
    fixed: tuple[int, ...] = ()
    """Columns that stay as they are: indices, categories."""
    damping: float | None = None
    """λ of the damped Hessian behind I_pert; None resolves as everywhere."""
    control: bool = True
    """Whether the same rows are moved by as much in random directions too."""
    confirm: bool = True
    """Whether each flip has to hold for a head that is fitted from zero; of linear heads."""
    seed: int = 0
    """Of the control's directions."""

    def check(self) -> None:
        """Check what can be checked without the model and its data.

        Raises:
            InvalidArgument: INVALID_FIELD.
        """
        self._check_counts()
        self._check_lengths()
        self._check_range()

    def _check_counts(self) -> None:
        rows = self.candidate_rows
        if self.candidates < 1:
            raise InvalidArgument.at("candidates", f"at least 1 training row is perturbed, not {self.candidates}")
        if rows and len(set(rows)) != len(rows):
            raise InvalidArgument.at("candidate_rows", "names a row twice")
        if rows and self.candidates not in (1, len(rows)):
            text = f"{len(rows)} rows are named, and {self.candidates} asked for: leave candidates out"
            raise InvalidArgument.at("candidates", text)
        if self.prefilter is not None and self.prefilter < self.candidates:
            text = f"keeps at least as many rows as are perturbed, {self.candidates}, not {self.prefilter}"
            raise InvalidArgument.at("prefilter", text)
        if self.iterations < 1:
            raise InvalidArgument.at("iterations", f"is at least 1, not {self.iterations}")

    def _check_lengths(self) -> None:
        if not 0 <= self.momentum < 1:
            raise InvalidArgument.at("momentum", f"is at least 0 and below 1, not {self.momentum}")
        for name in ("step", "level"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidArgument.at(name, f"is a finite length > 0, not {value}")
        if self.bound not in ("same_8bit", "linf", "l2"):
            raise InvalidArgument.at("bound", f"is same_8bit, linf or l2, not {self.bound!r}")
        if self.bound == "same_8bit":
            if self.radius is not None:
                text = f"same_8bit keeps every value within {SAME_LEVEL} of a level: leave radius out, or pass bound="
                raise InvalidArgument.at("radius", text)
            return
        if self.radius is None or not (math.isfinite(self.radius) and self.radius > 0):
            text = f"{self.bound} needs the radius of the ball, a finite number of levels > 0, not {self.radius}"
            raise InvalidArgument.at("radius", text)

    def _check_range(self) -> None:
        for name in ("minimum", "maximum"):
            values = getattr(self, name)
            if values is not None and (not values or any(math.isnan(value) for value in values)):
                raise InvalidArgument.at(name, "holds one number for all columns, or one for each")
        if self.minimum is None or self.maximum is None:
            return
        if len(self.minimum) == len(self.maximum) or 1 in (len(self.minimum), len(self.maximum)):
            width = max(len(self.minimum), len(self.maximum))
            low, high = ((values * width)[:width] for values in (self.minimum, self.maximum))
            wrong = next((j for j, pair in enumerate(zip(low, high, strict=True)) if pair[0] > pair[1]), None)
            if wrong is not None:
                text = f"column {wrong} has the maximum {high[wrong]}, below its minimum {low[wrong]}"
                raise InvalidArgument.at("maximum", text)
            return
        raise InvalidArgument.at("maximum", "holds as many numbers as minimum, or one for all columns")
