"""Job `compare`: two models side by side on the same predictions, influence against distance, influence in parts."""

from dataclasses import dataclass
from typing import Literal

from .choices import Measurement, Normalization


@dataclass(frozen=True, slots=True)
class Compare:
    """Job: hold what one model, or two, say of the same test rows against each other and against what is near."""

    model: str
    train: str
    test: str
    other: str | None = None
    """Another model on the same data sets."""
    rows: tuple[int, ...] = ()
    """Test rows; none means all."""
    method: str = ""
    """Empty: that which suits each model."""
    other_method: str = ""
    """Of the other model; empty: as `method`."""
    measurement: Measurement = "loss"
    damping: float | None = None
    top_k: int = 10
    leverage_correction: bool | None = None
    tolerance: float | None = None
    max_iterations: int | None = None
    parameters: tuple[str, ...] = ()
    """Of `model`; the other's are those that it registered."""
    rank: int | None = None
    normalization: Normalization | None = None
    ensemble: bool = False
    ablation: bool = True
    """Whether the scores are held against those without parts of them."""
    distance: bool = True
    """Whether the scores are held against distances in the space of the inputs."""
    distance_inputs: tuple[str, ...] = ()
    """Names of the inputs that distances are over; none means all that the models take as numbers."""
    scatter: int = 1000
    """Training rows drawn at random whose scores and distances are kept, beside those that are listed."""
    seed: int = 0
    kind: Literal["compare"] = "compare"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are explained, of a test set of so many rows."""
        return len(self.rows) or of_set
