"""`make conformance`: the whole suite, what is not passed by reason, and one line per kind."""

import argparse
import collections
import sys

from .cases import KINDS, load
from .outcomes import attempt
from .reasons import read_reasons, reason_of, unexpected

PEER = {"node": 341, "simple": 6, "pytorch-operator": 25, "pytorch-converted": 54}
"""What onnx2torch 1.5.15 passes of the same cases, at rtol 1e-3 and atol 1e-5."""


def main() -> int:
    """Run the suite; 1 where a case ends otherwise than the list of reasons says."""
    parser = argparse.ArgumentParser(prog="make conformance")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--show", action="store_true", help="print how every case that is not passed ended")
    options = parser.parse_args()
    reasons = read_reasons()
    counts, findings, by_reason = {}, [], collections.Counter()
    for kind in KINDS:
        cases = [case for case in load(kind) if options.only in case.name]
        passed = 0
        for case in cases:
            outcome = attempt(case)
            passed += outcome.status == "passed"
            reason = reason_of(case, reasons)
            found = unexpected(outcome, reason)
            findings += [f"{kind} {case.name}: {found}"] if found else []
            if outcome.status != "passed":
                by_reason[reason.why if reason else "NOT LISTED"] += 1
                if options.show:
                    print(f"{kind} {case.name} {outcome.status}: {outcome.says[:300]}")
        counts[kind] = (passed, len(cases))
    for finding in findings:
        print(finding)
    for why, count in by_reason.most_common():
        print(f"{count:5} not passed: {why}")
    for kind, (passed, total) in counts.items():
        print(f"{kind} {passed}/{total} (onnx2torch 1.5.15: {PEER[kind]})")
    print(f"{len(findings)} cases ended otherwise than tests/conformance/reasons.toml says")
    return 1 if findings else 0


sys.exit(main())
