"""What a leverage job found, as a frozen value that prints itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import _render, _render_tables
from ._results import Diagnostics, data_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LeverageResult:
    """What each of n training rows does to the fit of a linear head with P coefficients."""

    rows: npt.NDArray[np.int64]
    """(n,) row numbers: all of the training set, in its order."""
    ids: tuple[str, ...]
    leverage: npt.NDArray[np.float64]
    """(n,): how far each row bends the fit towards its own target."""
    cooks_distance: npt.NDArray[np.float64]
    """(n,): how far the whole fit moves without the row."""
    dfbeta: npt.NDArray[np.float64] | None
    """(n, P): the coefficients less those without the row, where it was asked for."""
    coefficients: tuple[str, ...]
    """The P names that `dfbeta` is about, such as "weight[0, 3]"; empty without it."""
    effective_parameters: float
    """The sum of all leverages."""
    variance: float
    """s², in units of which Cook's distance is: of the residuals of a regression, 1 for labels."""
    diagnostics: Diagnostics

    def to_pandas(self) -> "pd.DataFrame":
        """Return a table: one line for each training row.

        Columns: train_row, id, leverage, cooks_distance and, where they were asked for, one "dfbeta NAME" for each
        coefficient.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_tables.leverage_columns(self), _render_tables.leverage_records(self))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        kept = "" if self.dfbeta is None else f", DFBETA of {len(self.coefficients)} coefficients"
        return f"<LeverageResult: {len(self)} training rows{kept}, {_render.method_text(self.diagnostics)}>"

    def __str__(self) -> str:
        return _render_tables.leverage_text(self)

    def _repr_html_(self) -> str:
        return _render_tables.leverage_html(self)
