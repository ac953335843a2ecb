"""What a job found, as frozen values that print themselves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from . import _render
from ._errors import FailedPrecondition
from ._fidelity import FidelityFinding
from ._resources import Stationarity

if TYPE_CHECKING:
    import pandas as pd

Value = int | float | tuple[float, ...] | None
"""A class, a number, several numbers, or nothing."""


class Instances(Protocol):
    """Where rows can be read."""

    def get(self, row: int) -> Any:
        """Return a row, or what can be awaited for it."""


@dataclass(frozen=True, slots=True)
class ScoredExample:
    """A training row with its score."""

    row: int
    """Row of the training set; of an index, the number that the row has in it."""
    id: str
    score: float
    """Positive: removing the row raises the cost, so it is helpful."""
    target: Value
    prediction: Value
    loss: float
    _instances: "Instances | None" = field(default=None, repr=False, compare=False)

    @property
    def example(self) -> Any:
        """The instance itself, an `undue.Example`, read from the service on demand; `await` it with an AsyncClient.

        Raises:
            NotFound: the training set has been deleted.
            Unavailable: the service cannot be reached.
        """
        return _read(self._instances, self.row)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the model said what it said of one test row, or of several together."""

    row: int
    """Row of the test set; of several, the first; in an answer of `explain`, of its inputs."""
    id: str
    prediction: Value
    target: Value
    """The target that was explained; the prediction where the test set has no targets."""
    loss: float
    """The test row's loss, whichever measurement the scores are about; of several, the mean."""
    helpful: tuple[ScoredExample, ...]
    """Training rows whose removal would raise the cost, largest score first."""
    harmful: tuple[ScoredExample, ...]
    """Training rows whose removal would lower the cost, most negative score first."""
    rows: tuple[int, ...] = ()
    """The rows that are explained together (`aggregate="mean"`), with neither prediction nor target; else empty."""
    recall: float = 1.0
    """Share of the lists that is expected to be those of a dense scan: 1 where every training row was scored, else as
    it was measured when the index was built."""
    index: str = ""
    """The index that answered, `indexes/{id}`; empty in the result of a job."""
    _instances: "Instances | None" = field(default=None, repr=False, compare=False)

    @property
    def example(self) -> Any:
        """The test row itself, an `undue.Example`, read from the service on demand; `await` it with an AsyncClient.

        Raises:
            NotFound: the test set has been deleted.
            Unavailable: the service cannot be reached.
        """
        return _read(self._instances, self.row)

    def __str__(self) -> str:
        return _render.explanation_text(self)


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What a score is an estimate of, and how far to trust it."""

    estimand: str
    """What is estimated, in one sentence."""
    scale: str
    """"removal": a score is a change of the cost, in its unit; "relative": only order and relative size count."""
    method: str
    damping: float
    """λ in H + λI."""
    damping_source: str
    """"given", "convex", "mean_eigenvalue" or "unused"."""
    leverage_correction: bool
    solver: str
    """Empty where nothing was solved."""
    solver_status: str
    residual: float
    """Largest ‖(H+λI)s − v‖ / ‖v‖ of the solves."""
    stationarity: Stationarity
    """How near the weights are to a minimum of the objective on the training set."""
    recipe: str
    """What "removal" stands for: how retraining would have to be done to measure the same thing."""
    seed: int
    dtype: str
    """Arithmetic of the scores."""
    device: str
    digests: Mapping[str, str]
    """sha256 of model, train, test and code, and of checkpoints where the model has any."""
    seconds: float
    """Seconds of computing."""
    warnings: tuple[str, ...]
    matvecs: int = 0
    """Products of the damped Hessian with one vector that the solves took."""
    fidelity: FidelityFinding | None = None
    """How well the scores foretell what retraining does; None where that was not asked for."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InfluenceResult:
    """What an influence job found."""

    explanations: tuple[Explanation, ...]
    """One for each test row that was asked for, in that order; one of all of them with `aggregate="mean"`."""
    scores: npt.NDArray[np.float32] | None
    """(explanations, training rows), where the job was asked with top_k=None."""
    diagnostics: Diagnostics

    def to_pandas(self) -> "pd.DataFrame":
        """Return a long table: one line for each test row, side and training row.

        Columns: test_row, test_id, side, rank, train_row, id, score, target, prediction, loss; all from train_row on
        are the training row's. The first two are empty where rows are explained together.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render.EXPLANATION_COLUMNS, _render.explanation_records(self.explanations))

    def __len__(self) -> int:
        return len(self.explanations)

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.explanations)

    def __repr__(self) -> str:
        scored = sum(len(each.helpful) + len(each.harmful) for each in self.explanations)
        kept = f"{scored} scored rows" if self.scores is None else "all scores"
        of_rows = sum(len(each.rows) or 1 for each in self.explanations)
        return f"<InfluenceResult: {of_rows} test rows, {kept}, {_render.method_text(self.diagnostics)}>"

    def __str__(self) -> str:
        return _render.influence_text(self)

    def _repr_html_(self) -> str:
        return _render.influence_html(self)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SelfInfluenceResult:
    """What a self-influence job found."""

    examples: tuple[ScoredExample, ...]
    """Training rows, most self-influential first."""
    diagnostics: Diagnostics

    def to_pandas(self) -> "pd.DataFrame":
        """Return the ranking as a table with columns rank, train_row, id, score, target, prediction, loss.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render.EXAMPLE_COLUMNS, _render.example_records(self.examples))

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[ScoredExample]:
        return iter(self.examples)

    def __repr__(self) -> str:
        return f"<SelfInfluenceResult: {len(self.examples)} training rows, {_render.method_text(self.diagnostics)}>"

    def __str__(self) -> str:
        return _render.self_influence_text(self)

    def _repr_html_(self) -> str:
        return _render.self_influence_html(self)


@dataclass(frozen=True, slots=True, eq=False)
class Counterfactual:
    """What was measured without some training rows, or with edited ones."""

    index: int
    """Position among the counterfactuals that were asked for."""
    without: tuple[int, ...]
    """The training rows that the fit went without."""
    changes: npt.NDArray[np.float64]
    """Cost of the fit minus cost of the fit on all rows as they are, for each test row; positive: it rose."""
    gradient_norm: float
    """‖∇R‖ of the fit's objective at its end."""
    iterations: int
    """Steps that it took: of Newton's method, or of the recipe's optimiser."""
    replaced: tuple[int, ...] = ()
    """The training rows that had other inputs."""
    relabelled: tuple[int, ...] = ()
    """The training rows that had another target."""
    reweighted: tuple[int, ...] = ()
    """The training rows that had another weight."""


@dataclass(frozen=True, eq=False, repr=False)
class RetrainResult:
    """What a retrain job measured."""

    rows: tuple[int, ...]
    """The m test rows on which the change was measured."""
    costs: npt.NDArray[np.float64]
    """(m,): their costs with all training rows: at the minimum, or after training by the recipe."""
    counterfactuals: tuple[Counterfactual, ...]
    """One for each set of rows that was asked for, in that order."""
    diagnostics: Diagnostics

    @cached_property
    def changes(self) -> npt.NDArray[np.float64]:
        """The change of each cost without each set of rows, (counterfactuals, m)."""
        found = [each.changes for each in self.counterfactuals]
        return np.stack(found) if found else np.zeros((0, len(self.rows)))

    def to_pandas(self) -> "pd.DataFrame":
        """Return a long table: one line for each set of rows and test row.

        Columns: counterfactual, without, test_row, cost, change; cost is the one before.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render.CHANGE_COLUMNS, _render.change_records(self))

    def __len__(self) -> int:
        return len(self.counterfactuals)

    def __iter__(self) -> Iterator[Counterfactual]:
        return iter(self.counterfactuals)

    def __repr__(self) -> str:
        return f"<RetrainResult: {len(self)} fits, {len(self.rows)} test rows>"

    def __str__(self) -> str:
        return _render.retrain_text(self)

    def _repr_html_(self) -> str:
        return _render.retrain_html(self)


def data_frame(columns: tuple[str, ...], records: list[tuple[object, ...]]) -> "pd.DataFrame":
    """Return a table.

    Raises:
        FailedPrecondition: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        text = "to_pandas() needs pandas: pip install 'undue[pandas]'"
        raise FailedPrecondition(text, reason="PANDAS_MISSING") from None
    return pandas.DataFrame.from_records(records, columns=list(columns))


def _read(instances: Instances | None, row: int) -> Any:
    if instances is None:
        raise FailedPrecondition("this row did not come from a service that it could be read from", reason="NO_SERVICE")
    return instances.get(row)
