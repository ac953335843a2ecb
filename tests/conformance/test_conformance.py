"""A part of the ONNX backend suite, and what the suite's verdicts rest on. `make conformance` runs all of it."""

import zlib

import numpy as np
import pytest

from conformance.cases import KINDS, load
from conformance.outcomes import Outcome, attempt, compare
from conformance.reasons import Reason, read_reasons, reason_of, unexpected
from conformance.rows import attempt_rows

ONE_IN = 8
"""Of the cases of single nodes, this part is run here."""
FEWER_IN = 32
"""Of all cases, this part is run with an open number of rows."""


@pytest.fixture(scope="module")
def suite():
    return {kind: load(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_cases_end_as_they_are_listed(kind, suite):
    chosen = [case for case in suite[kind] if kind != "node" or zlib.crc32(case.name.encode()) % ONE_IN == 0]
    reasons = read_reasons()
    findings = [(case.name, unexpected(attempt(case), reason_of(case, reasons))) for case in chosen]
    assert not [f"{name}: {found}" for name, found in findings if found]
    assert len(chosen) >= {"node": 200, "simple": 23, "pytorch-operator": 35, "pytorch-converted": 82}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_cases_with_an_open_number_of_rows_are_right_or_refused(kind, suite, tmp_path):
    chosen = [case for case in suite[kind] if zlib.crc32(case.name.encode()) % FEWER_IN == 0]
    outcomes = {case.name: attempt_rows(case, tmp_path) for case in chosen if attempt(case).status == "passed"}
    assert not {name: o.says for name, o in outcomes.items() if o is not None and o.status in ("wrong", "broken")}
    assert kind == "simple" or any(o is not None and o.status == "passed" for o in outcomes.values())


def test_every_reason_is_that_of_a_case(suite):
    cases = [case for kind in KINDS for case in suite[kind]]
    for reason in read_reasons():
        covered = [case.name for case in cases if reason.covers(case)]
        assert covered, reason.why
        for pattern in (*reason.operators, *reason.cases):
            part = Reason(reason.why, frozenset([pattern]), (pattern,), reason.but, "", "refused")
            assert any(part.covers(case) for case in cases), pattern


X = np.array([1.0, 2.0], np.float32)


@pytest.mark.parametrize(
    "other",
    [
        [np.array([1.0, 2.01], np.float32)],
        [np.array([1.0, np.nan], np.float32)],
        [X.astype(np.float64)],
        [X[None]],
        [X, X],
        [[X]],
        [None],
    ],
)
def test_other_numbers_types_shapes_and_kinds_are_told_apart(other):
    assert compare([X], other, 1e-3, 1e-5)
    assert compare(other, [X], 1e-3, 1e-5)
    assert not compare(other, other, 1e-3, 1e-5)


def test_texts_and_flags_must_be_the_same():
    texts, flags = np.array(["a", "b"], object), np.array([True, False])
    assert compare([texts], [texts[::-1]], 1e-3, 1e-5)
    assert compare([flags], [~flags], 1e-3, 1e-5)
    assert not compare([texts, flags], [texts, flags], 1e-3, 1e-5)


LISTED = Reason("why", frozenset(), ("*",), (), "strings", "refused")


@pytest.mark.parametrize(
    ("outcome", "reason", "is_expected"),
    [
        (Outcome("passed"), None, True),
        (Outcome("refused", "needs strings"), None, False),
        (Outcome("refused", "needs strings"), LISTED, True),
        (Outcome("refused", "something else"), LISTED, False),
        (Outcome("wrong", "strings"), LISTED, False),
        (Outcome("broken", "strings"), LISTED, False),
        (Outcome("passed"), LISTED, False),
    ],
)
def test_only_what_is_listed_may_not_pass(outcome, reason, is_expected):
    assert bool(unexpected(outcome, reason)) is not is_expected
