"""What `explain` answers, as a frozen value that prints itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _render_tables
from ._results import Explanation, data_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExplainResult:
    """Why the model says what it says of some rows: a sequence of explanations.

    [one] = client.explain("fraud-live", inputs=x)
    """

    explanations: tuple[Explanation, ...]
    """One for each row that was asked about, in their order."""
    index: str
    """The index that answered, `indexes/{id}`."""
    recall: float
    """Share of the lists that is expected to be those of a dense scan; 1 with `exact`."""
    method: str
    damping: float
    """λ in H + λI."""

    def to_pandas(self) -> "pd.DataFrame":
        """Return a long table: one line for each row, side and training row.

        Columns: row, side, rank, train_row, id, score, target, prediction, loss; those from train_row on are the
        training row's, whose number is that of the index.

        Raises:
            FailedPrecondition: pandas is not installed.
        """
        return data_frame(_render_tables.LIVE_COLUMNS, _render_tables.live_records(self.explanations))

    def __len__(self) -> int:
        return len(self.explanations)

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.explanations)

    def __getitem__(self, place: int) -> Explanation:
        return self.explanations[place]

    def __repr__(self) -> str:
        return f"<ExplainResult: {len(self)} rows, {_render_tables.live_footer(self)}>"

    def __str__(self) -> str:
        return _render_tables.live_text(self)

    def _repr_html_(self) -> str:
        return _render_tables.live_html(self)
