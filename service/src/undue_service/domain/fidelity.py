"""Job `fidelity`: how well a method's scores foretell what retraining does."""

from dataclasses import dataclass, field
from typing import Literal

from .choices import Measurement, Normalization
from .fidelity_settings import FidelitySettings
from .influence import Influence


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Job: hold a method's scores against retraining."""

    model: str
    train: str
    test: str
    settings: FidelitySettings = field(default_factory=FidelitySettings)
    rows: tuple[int, ...] = ()
    """Test rows; none means all."""
    method: str = "exact"
    measurement: Measurement = "loss"
    damping: float | None = None
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
    kind: Literal["fidelity"] = "fidelity"

    def test_rows(self, of_set: int) -> int:
        """Return how many test rows are measured, of a test set of so many rows."""
        return len(self.rows) or of_set

    def scoring(self) -> Influence:
        """Return the job that makes the scores, all of them."""
        return Influence(
            model=self.model,
            train=self.train,
            test=self.test,
            rows=self.rows,
            method=self.method,
            measurement=self.measurement,
            damping=self.damping,
            top_k=None,
            leverage_correction=self.leverage_correction,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            parameters=self.parameters,
            rank=self.rank,
            normalization=self.normalization,
            ensemble=self.ensemble,
            seed=self.seed,
        )
