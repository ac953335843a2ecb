"""Perturb jobs into the domain and back, and what they found out to the SDK."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue import _convert_perturbing
from undue.v1 import jobs_pb2, perturbation_pb2
from undue_service.application.perturbations import Perturbations
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.jobs import Job
from undue_service.domain.perturb_jobs import (
    AttackedRow,
    FlipShare,
    Perturb,
    Perturbation,
    PerturbationSummary,
    PerturbedRow,
    PoisonedRow,
)
from undue_service.domain.perturbation import AttackSettings
from undue_service.transport import job_responses, perturbing, requests
from undue_service.transport.servicers import JobServicer
from undue_service.transport.validation import check
from undue_service.wire.perturbations import SafetensorsPerturbations, write_perturbations, write_poisoned

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.text(min_size=1, max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
LENGTHS = st.floats(0, 1e300, exclude_min=True)
COUNTS = st.integers(1, 100_000)
ROWS = st.lists(st.integers(0, 2**62), min_size=1, max_size=3, unique=True).map(tuple)
LIMITS = st.none() | st.lists(FLOATS, min_size=1, max_size=3).map(tuple)
SETTINGS = st.builds(
    AttackSettings,
    input=st.none() | NAMES,
    candidates=COUNTS,
    candidate_rows=st.just(()) | ROWS,
    prefilter=st.none() | COUNTS,
    step=LENGTHS,
    momentum=st.floats(0, 1, exclude_max=True),
    iterations=COUNTS,
    bound=st.sampled_from(["same_8bit", "linf", "l2"]),
    radius=st.none() | LENGTHS,
    level=LENGTHS,
    minimum=LIMITS,
    maximum=LIMITS,
    fixed=st.just(()) | ROWS,
    damping=st.none() | st.floats(0, 1e300),
    control=st.booleans(),
    confirm=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
JOBS = st.builds(Perturb, NAMES, NAMES, NAMES, st.lists(ROWS, max_size=3).map(tuple), SETTINGS, kind=st.just("perturb"))
SHARES = st.builds(FlipShare, st.integers(0, 2**62), st.integers(0, 2**62), FLOATS, FLOATS, FLOATS)
SUMMARIES = st.builds(
    PerturbationSummary,
    flipped=SHARES,
    control=st.none() | SHARES,
    already_wrong=st.integers(0, 2**62),
    unconfirmed=st.integers(0, 2**62),
    test_loss_before=FLOATS,
    test_loss_after=FLOATS,
    flips=st.lists(st.integers(0, 2**62), max_size=4).map(tuple),
)
TRIED = st.none() | st.booleans()
COSTS = st.lists(FLOATS, max_size=4).map(tuple)
PERTURBATIONS = st.builds(
    Perturbation,
    index=st.integers(0, 2**62),
    targets=st.lists(st.builds(AttackedRow, st.integers(0, 2**62), st.booleans(), st.booleans(), TRIED, TRIED)).map(
        tuple
    ),
    rows=st.lists(st.builds(PerturbedRow, st.integers(0, 2**62), FLOATS, FLOATS)).map(tuple),
    iterations=st.integers(0, 2**31 - 1),
    costs=COSTS,
    control_costs=COSTS,
    test_loss=FLOATS,
)


@given(JOBS, st.floats(0, 1e8))
def test_a_job_round_trips(spec, timeout):
    request = jobs_pb2.CreateJobRequest(job=job_responses.job(Job("t", "j", spec, NOW, timeout)))
    check(request)
    assert requests.job_spec(request) == (spec, timeout)


def test_what_is_unset_is_at_its_default():
    bare = perturbation_pb2.PerturbSpec(model="m", train="a", test="b")
    assert perturbing.read_spec(bare) == Perturb("m", "a", "b", (), AttackSettings())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": ""}, "model"),
        ({"test": ""}, "test"),
        ({"attacks": [{"rows": []}]}, "attacks[0].rows"),
        ({"attacks": [{"rows": [3, 3]}]}, "attacks[0].rows"),
        ({"attacks": [{"rows": [1]}, {"rows": [-1]}]}, "attacks[1].rows[0]"),
        ({"candidates": 0}, "candidates"),
        ({"candidate_rows": [4, 4]}, "candidate_rows"),
        ({"prefilter": 0}, "prefilter"),
        ({"step": 0.0}, "step"),
        ({"momentum": 1.0}, "momentum"),
        ({"iterations": 0}, "iterations"),
        ({"bound": 9}, "bound"),
        ({"radius": 0.0}, "radius"),
        ({"radius": float("inf")}, "radius"),
        ({"level": -1.0}, "level"),
        ({"minimum": [float("nan")]}, "minimum[0]"),
        ({"fixed": [-1]}, "fixed[0]"),
        ({"damping": -1.0}, "damping"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_a_request_breaks_is_said_by_its_field(change, field):
    fields = {"model": "m", "train": "a", "test": "b", **change}
    with pytest.raises(InvalidArgument) as caught:
        check(jobs_pb2.CreateJobRequest(job={"perturb": fields}))
    assert [one.field for one in caught.value.violations] == [f"job.perturb.{field}"]


def test_attacks_may_not_be_against_more_rows_than_can_be_worked_on():
    rows = range(10_000)
    message = perturbation_pb2.PerturbSpec(attacks=[perturbation_pb2.AttackTargets(rows=rows)] * 101)
    with pytest.raises(InvalidArgument, match="more than 1,000,000 rows"):
        perturbing.read_spec(message)


@given(SUMMARIES, PERTURBATIONS)
def test_what_was_found_reaches_the_client(summary, one):
    attack = _convert_perturbing.attack(perturbing.write_perturbation(one))
    assert asdict(attack) == asdict(one)
    found = _convert_perturbing.perturb_result(perturbing.write_summary(summary), [attack], None, None)
    assert {
        name: asdict(value) if name in ("flipped", "control") and value else value
        for name, value in ((name, getattr(found, name)) for name in summary.__slots__)
    } == asdict(summary)


@given(st.integers(0, 9), st.sampled_from(["float16", "float32", "float64"]))
def test_a_poisoned_row_reaches_the_client(row, dtype):
    values = np.arange(6, dtype=dtype).reshape(2, 3)
    sent = [perturbing.write_poisoned(PoisonedRow(4, row + place, "x", values + place)) for place in (0, 1)]
    found = _convert_perturbing.poisoned("jobs/j", 4, sent)
    assert (found.attack, found.rows, found.input) == (4, (row, row + 1), "x")
    assert found.values.dtype == dtype
    assert found.values.tolist() == [values.tolist(), (values + 1).tolist()]


@pytest.fixture
def servicer(tmp_path):
    """A servicer over the result of three attacks, the second of which moved nothing."""
    attacks = [
        Perturbation(k, (AttackedRow(k, k == 1, k != 1, None, None),), (), k, (0.5, 1.0), (), 0.25) for k in range(3)
    ]
    write_perturbations(tmp_path / "perturbations", attacks)
    write_poisoned(tmp_path / "poisoned", "x", [[5], [], [6]], np.eye(2, 3, dtype=np.float32))
    results = SimpleNamespace(file=lambda tenant, name, role: tmp_path / role)
    perturbations = Perturbations(results, SafetensorsPerturbations())
    return JobServicer(SimpleNamespace(jobs=None, results=None, perturbations=perturbations, deletions=None))


def test_pages_and_rows_of_a_result(servicer):
    async def read(attacks=()):
        pages, token = [], None
        while token is None or token:
            request = perturbation_pb2.ListPerturbationsRequest(parent="jobs/x", page_size=2, page_token=token or "")
            pages.append(await servicer.ListPerturbations(request, None))
            token = pages[-1].next_page_token
        stream = servicer.ReadPoisonedRows(
            perturbation_pb2.ReadPoisonedRowsRequest(name="jobs/x", attacks=attacks), None
        )
        return [len(page.perturbations) for page in pages], [(one.attack, one.row) async for one in stream]

    assert asyncio.run(read()) == ([2, 1], [(0, 5), (2, 6)])
    assert asyncio.run(read([2, 1])) == ([2, 1], [(2, 6)])
    with pytest.raises(InvalidArgument, match="attack 3") as caught:
        asyncio.run(read([3]))
    assert caught.value.reason is Reason.ROW_OUT_OF_RANGE
