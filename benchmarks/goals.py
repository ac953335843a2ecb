"""What the engine is meant to reach, each as a ratio or a bound that a run passes or falls short of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Records = Mapping[str, Any]
"""Workload to its record."""


@dataclass(frozen=True)
class Goal:
    """One line of the table of goals."""

    workload: str
    text: str
    value: Callable[[Records], float]
    """Raises Unmeasured where a row that it needs is missing."""
    bound: float
    at_least: bool
    unit: str = ""
    """After the number: "×", "s", "MiB"."""


@dataclass(frozen=True)
class Judged:
    """A goal beside what was measured."""

    goal: Goal
    value: float | None
    why: str = ""
    """Where there is no value."""

    @property
    def verdict(self) -> str:
        """Return "pass", "falls short" or "not measured"."""
        if self.value is None:
            return "not measured"
        passes = self.value >= self.goal.bound if self.goal.at_least else self.value <= self.goal.bound
        return "pass" if passes else "falls short"


class Unmeasured(Exception):
    """A row that a goal needs was not measured."""


def judge(records: Records) -> list[Judged]:
    """Return every goal with its value, in order."""
    judged = []
    for goal in GOALS:
        try:
            judged.append(Judged(goal, goal.value(records)))
        except Unmeasured as missing:
            judged.append(Judged(goal, None, str(missing)))
    return judged


def _indexes(records: Records) -> Mapping[str, Any]:
    if "indexes" not in records:
        raise Unmeasured("the index was not measured")
    return records["indexes"]


def _index(part: str, place: int, name: str, factor: float = 1) -> Callable[[Records], float]:
    return lambda records: factor * _indexes(records)[part][place][name]


def _over_index(peer: str) -> Callable[[Records], float]:
    theirs = _seconds("fashion", peer, "query")
    return lambda records: theirs(records) / _index("engine", 0, "p50")(records)


def _calls(place: int, callers: str, name: str) -> Callable[[Records], float]:
    return lambda records: 1000 * _indexes(records)["service"][place]["callers"][callers][name]


def _beside(place: int) -> Callable[[Records], float]:
    def ratio(records: Records) -> float:
        found = _indexes(records)["service"][place]
        return found["beside_batch"]["p99"] / found["callers"]["1"]["p99"]

    return ratio


def _row(records: Records, workload: str, name: str) -> Mapping[str, Any]:
    if workload not in records:
        raise Unmeasured(f"{workload} was not run")
    for row in records[workload]["rows"]:
        if f"{row['peer']} {row['label']}" == name:
            if "seconds" not in row:
                raise Unmeasured(f"{name}: {row.get('missing') or row.get('error')}")
            return row
    raise Unmeasured(f"{name} was not run")


def _seconds(workload: str, name: str, *stages: str) -> Callable[[Records], float]:
    return lambda records: sum(_row(records, workload, name)["seconds"][stage]["median"] for stage in stages)


def _ratio(above: Callable[[Records], float], below: Callable[[Records], float]) -> Callable[[Records], float]:
    return lambda records: above(records) / below(records)


def _least(*of: Callable[[Records], float]) -> Callable[[Records], float]:
    def value(records: Records) -> float:
        found, missing = [], []
        for one in of:
            try:
                found.append(one(records))
            except Unmeasured as why:
                missing.append(str(why))
        if not found:
            raise Unmeasured("; ".join(missing))
        return min(found)

    return value


def _quality(workload: str, name: str, *path: str) -> Callable[[Records], float]:
    def value(records: Records) -> float:
        found: Any = _row(records, workload, name)["quality"]
        for key in path:
            if key not in found:
                raise Unmeasured(f"{name} has no {key}")
            found = found[key]
        return float(found)

    return value


def _difference(workload: str, ours: str, other: str) -> Callable[[Records], float]:
    def value(records: Records) -> float:
        _row(records, workload, ours), _row(records, workload, other)
        return float(records[workload]["differences"][ours][other]["low"])

    return value


def _megabytes(workload: str, name: str) -> Callable[[Records], float]:
    return lambda records: _row(records, workload, name)["peak_bytes"] / 2**20


def _recorded_query(records: Records) -> float:
    found = records.get("recorded", {}).get("pytorch-influence-functions", {})
    if "query_seconds" not in found:
        raise Unmeasured("pytorch-influence-functions was not recorded")
    return float(found["query_seconds"])


_ALL = ("factors", "pairs")
_EXACT = _seconds("convex", "ours exact", *_ALL)
_PEERS_EXACT = _least(
    _seconds("convex", "pydvl Direct", *_ALL),
    _seconds("convex", "dattri Explicit", *_ALL),
    _seconds("convex", "captum Naive", *_ALL),
)
_KRONFLUENCE = "kronfluence EK-FAC"

GOALS = (
    Goal("convex", "exact, factor + pairs: fastest peer's time over ours", _ratio(_PEERS_EXACT, _EXACT), 2, True, "×"),
    Goal(
        "convex",
        "block CG to residual 1e-6: dattri's CG-20 over ours",
        _ratio(_seconds("convex", "dattri CG-20", *_ALL), _seconds("convex", "ours cg 1e-6", *_ALL)),
        5,
        True,
        "×",
    ),
    Goal(
        "convex",
        "LiSSA: Pearson with leave-one-out",
        _quality("convex", "ours lissa", "pearson_loo", "mean"),
        0.999,
        True,
    ),
    Goal(
        "convex",
        "LiSSA: dattri's LiSSA-500 over ours",
        _ratio(_seconds("convex", "dattri LiSSA-500", *_ALL), _seconds("convex", "ours lissa", *_ALL)),
        5,
        True,
        "×",
    ),
    Goal("mlp", "ekfac − kronfluence, LDS: lower bound", _difference("mlp", "ours ekfac", _KRONFLUENCE), -0.01, True),
    Goal(
        "mlp",
        "ekfac factors: kronfluence's time over ours",
        _ratio(_seconds("mlp", _KRONFLUENCE, "factors"), _seconds("mlp", "ours ekfac", "factors")),
        5,
        True,
        "×",
    ),
    Goal(
        "mlp",
        "ekfac pairs: kronfluence's time over ours",
        _ratio(_seconds("mlp", _KRONFLUENCE, "pairs"), _seconds("mlp", "ours ekfac", "pairs")),
        5,
        True,
        "×",
    ),
    Goal("mlp", "gauss_newton: LDS", _quality("mlp", "ours gauss_newton", "lds", "mean"), 0.63, True),
    Goal("mlp", "gauss_newton: factors and 100 queries", _seconds("mlp", "ours gauss_newton", *_ALL), 0.5, False, "s"),
    Goal(
        "mlp",
        "gauss_newton averaged over five models: LDS",
        _quality("mlp", "ours gauss_newton", "lds_averaged", "mean"),
        0.69,
        True,
    ),
    Goal(
        "mlp",
        "one query alone: pytorch-influence-functions (recorded) over gauss_newton",
        _ratio(_recorded_query, _seconds("mlp", "ours gauss_newton", "query")),
        1000,
        True,
        "×",
    ),
    Goal(
        "mlp",
        "one query of a hundred: pytorch-influence-functions (recorded) over gauss_newton",
        _ratio(_recorded_query, lambda records: _seconds("mlp", "ours gauss_newton", "pairs")(records) / 100),
        1000,
        True,
        "×",
    ),
    Goal(
        "fashion",
        "ekfac factors with exact Fisher: curvlinops' sampled time over ours",
        _ratio(_seconds("fashion", "curvlinops EK-FAC", "factors"), _seconds("fashion", "ours ekfac", "factors")),
        1,
        True,
        "×",
    ),
    Goal(
        "fashion",
        "all pairs at rank 4: kronfluence's time over ours",
        _ratio(_seconds("fashion", _KRONFLUENCE, "pairs"), _seconds("fashion", "ours ekfac rank 4", "pairs")),
        20,
        True,
        "×",
    ),
    Goal(
        "fashion",
        "all pairs at rank 8: kronfluence's time over ours",
        _ratio(_seconds("fashion", _KRONFLUENCE, "pairs"), _seconds("fashion", "ours ekfac rank 8", "pairs")),
        15,
        True,
        "×",
    ),
    Goal(
        "fashion",
        "ekfac by default: Pearson with its dense scores",
        _quality("fashion", "ours ekfac", "pearson_dense"),
        0.999,
        True,
    ),
    Goal("fashion", "gauss_newton: factors and pairs", _seconds("fashion", "ours gauss_newton", *_ALL), 5, False, "s"),
    Goal("fashion", "ekfac: peak memory", _megabytes("fashion", "ours ekfac"), 1024, False, "MiB"),
    Goal("fashion", "gauss_newton: peak memory", _megabytes("fashion", "ours gauss_newton"), 1024, False, "MiB"),
    Goal("indexes", "10,000 rows: one query in the engine, p50", _index("engine", 0, "p50", 1000), 8, False, "ms"),
    Goal("indexes", "10,000 rows: one query of kronfluence over ours", _over_index(_KRONFLUENCE), 50, True, "×"),
    Goal("indexes", "10,000 rows: recall of 500 queries", _index("engine", 0, "recall"), 0.999, True),
    Goal("indexes", "60,000 rows: bytes a row", _index("engine", 1, "bytes_per_row"), 1500, False),
    Goal("indexes", "60,000 rows: one query in the engine, p50", _index("engine", 1, "p50", 1000), 12, False, "ms"),
    Goal("indexes", "60,000 rows: recall of 500 queries", _index("engine", 1, "recall"), 0.999, True),
    Goal("indexes", "60,000 rows over gRPC, one caller: p50", _calls(1, "1", "p50"), 20, False, "ms"),
    Goal("indexes", "60,000 rows over gRPC: p99 beside a batch job over p99 alone", _beside(1), 3, False, "×"),
    Goal("cnn", "gauss_newton: LDS", _quality("cnn", "ours gauss_newton", "lds", "mean"), 0.33, True),
    Goal("cnn", "gauss_newton: factors and pairs", _seconds("cnn", "ours gauss_newton", *_ALL), 3, False, "s"),
)
