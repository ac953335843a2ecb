"""`make conformance`: the whole suite, what is not passed by reason, and one line per kind."""

import argparse
import collections
import logging
import sys
import tempfile
from pathlib import Path

from .cases import KINDS, Case, load
from .outcomes import attempt
from .reasons import read_reasons, reason_of, unexpected
from .rows import attempt_rows

PEER = {"node": 341, "simple": 6, "pytorch-operator": 25, "pytorch-converted": 54}
"""What onnx2torch 1.5.15 passes of the same cases, at rtol 1e-3 and atol 1e-5."""


def main() -> int:
    """Run the suite; 1 where a case ends otherwise than the list of reasons says."""
    parser = argparse.ArgumentParser(prog="make conformance")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--show", action="store_true", help="print how every case that is not passed ended")
    parser.add_argument("--no-rows", action="store_true", help="leave out the part with an open number of rows")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # torch.export logs each size that it fixes
    run = _Run(options.show)
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            for case in load(kind):
                if options.only in case.name and run.fixed(case) and not options.no_rows:
                    run.rows(case, Path(folder))
    return run.report()


class _Run:
    """What has been counted so far."""

    def __init__(self, show: bool) -> None:
        self._reasons = read_reasons()
        self._show = show
        self._findings: list[str] = []
        self._by_reason: collections.Counter[str] = collections.Counter()
        self._ended: collections.Counter[tuple[str, str]] = collections.Counter()
        self._opened: collections.Counter[str] = collections.Counter()

    def fixed(self, case: Case) -> bool:
        """Run a case as it is; return whether it passed."""
        outcome, reason = attempt(case), reason_of(case, self._reasons)
        found = unexpected(outcome, reason)
        self._findings += [f"{case.kind} {case.name}: {found}"] if found else []
        self._ended[case.kind, outcome.status] += 1
        if outcome.status != "passed":
            self._by_reason[reason.why if reason else "NOT LISTED"] += 1
            self._tell(case, outcome.status, outcome.says)
        return outcome.status == "passed"

    def rows(self, case: Case, folder: Path) -> None:
        """Run a case with an open number of rows."""
        outcome = attempt_rows(case, folder)
        if outcome is None:
            return
        self._opened[outcome.status] += 1
        if outcome.status in ("wrong", "broken"):
            self._findings.append(f"{case.kind} {case.name} with an open number of rows: {outcome.says}")
        if outcome.status != "passed":
            self._tell(case, f"with an open number of rows {outcome.status}", outcome.says)

    def report(self) -> int:
        """Print all of it; return 1 where anything was unexpected."""
        for finding in self._findings:
            print(finding)
        for why, count in self._by_reason.most_common():
            print(f"{count:5} not passed: {why}")
        for kind in KINDS:
            total = sum(count for (one, _), count in self._ended.items() if one == kind)
            print(f"{kind} {self._ended[kind, 'passed']}/{total} (onnx2torch 1.5.15: {PEER[kind]})")
        if self._opened:
            passed, refused = self._opened["passed"], self._opened["refused"]
            print(f"with an open number of rows: {passed} exported and equal, {refused} refused")
        print(f"{len(self._findings)} cases ended otherwise than tests/conformance/reasons.toml says")
        return 1 if self._findings else 0

    def _tell(self, case: Case, status: str, says: str) -> None:
        if self._show:
            print(f"{case.kind} {case.name} {status}: {says[:300]}")


sys.exit(main())
