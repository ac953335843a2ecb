"""What a fidelity job found, as a frozen value that prints itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import _render, _render_tables
from ._fidelity import FidelityFinding, Interval, Stratum
from ._results import Diagnostics, data_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FidelityResult:
    """How well scores foretell what retraining does, and what that is said from: k retrainings, m test rows."""

    rows: tuple[int, ...]
    """The m test rows."""
    without: npt.NDArray[np.int64] | None
    """"loo": (k,) the training row that each retraining went without."""
    stratum: npt.NDArray[np.int64] | None
    """"loo": (k,) the place in `strata` of the one that the row was drawn from; −1 for a row drawn from all."""
    subsets: npt.NDArray[np.int64] | None
    """"lds": (k, s) the training rows that each retraining had."""
    predicted: npt.NDArray[np.float64]
    """(k, m). "loo": the scores. "lds": −(n/s) times the sum of the scores of the subset's rows, which is the change of
    the cost but for a constant of the test row."""
    measured: npt.NDArray[np.float64]
    """(k, m). "loo": the changes of the costs, positive where removal raises them. "lds": the costs."""
    finding: FidelityFinding
    diagnostics: Diagnostics
    """Of the scores."""

    @property
    def kind(self) -> str:
        """Return "loo" or "lds"."""
        return self.finding.kind

    @property
    def pearson(self) -> Interval:
        """Return Pearson's correlation."""
        return self.finding.agreement.pearson

    @property
    def spearman(self) -> Interval:
        """Return Spearman's correlation."""
        return self.finding.agreement.spearman

    @property
    def slope(self) -> Interval:
        """Return the slope of measured on predicted: 1 where the size is right; of no meaning for relative scores."""
        return self.finding.agreement.slope

    @property
    def lds(self) -> Interval | None:
        """Return the linear datamodelling score; None for "loo"."""
        return self.finding.lds

    @property
    def strata(self) -> tuple[Stratum, ...]:
        """Return the agreement on rows with small scores, with larger ones, …; none for "lds"."""
        return self.finding.strata

    @property
    def recipe(self) -> str:
        """Return what was retrained, from where, and with which divisor."""
        return self.finding.recipe

    def to_pandas(self) -> "pd.DataFrame":
        """Return a long table: one line for each retraining and test row.

        Columns: retraining, without, stratum, test_row, predicted, measured; the second and third are empty for "lds".

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_tables.COMPARISON_COLUMNS, _render_tables.comparison_records(self))

    def __len__(self) -> int:
        return len(self.predicted)

    def __repr__(self) -> str:
        name, found = ("LDS", self.lds) if self.lds is not None else ("Pearson", self.pearson)
        counted = f"{len(self)} retrainings, {len(self.rows)} test rows"
        return f"<FidelityResult: {name} {found}, {counted}, {_render.method_text(self.diagnostics)}>"

    def __str__(self) -> str:
        return _render_tables.fidelity_text(self)

    def _repr_html_(self) -> str:
        return _render_tables.fidelity_html(self)
