"""Job `self_influence`: training rows by their influence on their own loss."""

from dataclasses import dataclass
from typing import Literal

from .choices import Normalization


@dataclass(frozen=True, slots=True)
class SelfInfluence:
    """Job: rank training rows by their influence on their own loss."""

    model: str
    train: str
    method: str = "exact"
    damping: float | None = None
    top_k: int | None = None
    """How many rows to keep; None keeps all."""
    leverage_correction: bool | None = None
    tolerance: float | None = None
    max_iterations: int | None = None
    parameters: tuple[str, ...] = ()
    """fnmatch patterns of the parameters that the scores run over; none means those that the model registered."""
    rank: int | None = None
    """What a method truncates to (docs/scores.md says what for each); None is the method's own."""
    normalization: Normalization | None = None
    """Of `relatif`; None is "theta"."""
    ensemble: bool = False
    """Whether scores are averaged over the registered checkpoints."""
    seed: int = 0
    """Of whatever a method draws at random."""
    kind: Literal["self_influence"] = "self_influence"
