"""Why cases of the suite are not passed: `reasons.toml`, and how an outcome is held against it."""

import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .cases import Case
from .outcomes import Outcome


@dataclass(frozen=True)
class Reason:
    """One entry of the list."""

    why: str
    operators: frozenset[str]
    """Cases with any of these operators are meant, …"""
    cases: tuple[str, ...]
    """… and those whose name matches one of these patterns."""
    but: tuple[str, ...]
    """Except for names that match one of these."""
    says: str
    """A regular expression that the refusal must match."""
    status: str
    """How such a case ends: by default `refused`. `wrong` is for outputs that are drawn at random."""

    def covers(self, case: Case) -> bool:
        """Return whether the entry is about a case."""
        if any(fnmatchcase(case.name, pattern) for pattern in self.but):
            return False
        return bool(self.operators & case.operators) or any(fnmatchcase(case.name, name) for name in self.cases)


def read_reasons() -> list[Reason]:
    """Return the list, in its order; the first entry that covers a case counts."""
    with (Path(__file__).parent / "reasons.toml").open("rb") as file:
        entries = tomllib.load(file).get("reason", [])
    return [
        Reason(
            entry["why"],
            frozenset(entry.get("operators", ())),
            tuple(entry.get("cases", ())),
            tuple(entry.get("but", ())),
            entry.get("says", ""),
            entry.get("status", "refused"),
        )
        for entry in entries
    ]


def reason_of(case: Case, reasons: list[Reason]) -> Reason | None:
    """Return the first entry that covers a case."""
    return next((reason for reason in reasons if reason.covers(case)), None)


def unexpected(outcome: Outcome, reason: Reason | None) -> str:
    """Return what is wrong with how a case ended, "" where it passed or failed as it is listed."""
    ended = f"{outcome.status}: {outcome.says}"
    if reason is None:
        return "" if outcome.status == "passed" else ended
    if outcome.status == "passed":
        return f"passed, though it is listed ({reason.why})"
    if outcome.status != reason.status or not re.search(reason.says, outcome.says):
        return f"{ended}, where the list says {reason.status} ({reason.why}) with {reason.says!r}"
    return ""
