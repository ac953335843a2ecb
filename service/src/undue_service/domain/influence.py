"""Job `influence`: which training rows made a model say what it says of test rows."""

from dataclasses import dataclass
from typing import Literal

from .choices import Measurement, Normalization
from .fidelity_settings import FidelitySettings


@dataclass(frozen=True, slots=True)
class Influence:
    """Job: score training rows for test rows. Positive = removal raises the test row's cost."""

    model: str
    train: str
    test: str
    rows: tuple[int, ...] = ()
    """Test rows; none means all."""
    method: str = "exact"
    measurement: Measurement = "loss"
    damping: float | None = None
    """λ of the damped Hessian; None resolves to one reported scalar."""
    top_k: int | None = 10
    """How many rows a side; None keeps the whole score matrix."""
    leverage_correction: bool | None = None
    """None: on where the method has one and the model is a linear head."""
    tolerance: float | None = None
    """Relative residual at which an iterative solver stops; None is its own."""
    max_iterations: int | None = None
    """Of one solve; None is the solver's own limit."""
    aggregate: Literal["mean"] | None = None
    """None explains each row by itself; "mean" the mean of the rows' costs."""
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
    fidelity: FidelitySettings | None = None
    """Whether the scores are held against retraining, and how."""
    kind: Literal["influence"] = "influence"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are explained, of a test set of so many rows."""
        return len(self.rows) or of_set
