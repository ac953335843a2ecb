"""Which indexes a runner holds, and what of them it reads again."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataset_tables import Table
from index_bench import Bench, Built, erased
from undue_service.domain.errors import FailedPrecondition, Reason, ResourceExhausted
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.results import Questions
from undue_service.domain.specs import FileSource, ModelSpec
from undue_service.domain.tasks import ExplainCall, HeldIndex
from undue_service.runner.indexes import resident, watch
from undue_service.runner.indexes.files import HeldFiles
from undue_service.runner.indexes.resident import objective_bytes


@pytest.fixture
def asked(digits: Table) -> Questions:
    return Questions({"": digits.inputs["image"][900:901]}, digits.targets[900:901])


def is_held(bench: Bench, held: HeldIndex, asked: Questions) -> bool:
    return bench.ask(held, [asked], [ExplainCall()])[0].resident


def model_bytes(bench: Bench) -> int:
    [one] = bench.workshop._indexes._residents._held.values()
    return objective_bytes(one.objective)


def three(bench: Bench, model: ModelSpec, spec: IndexSpec, digits: Table) -> list[Built]:
    train = bench.dataset(digits.part(0, 300))
    return [bench.build(spec, model, train, f"indexes/{name}") for name in "abc"]


def test_the_one_that_was_asked_least_recently_goes(bench, model, spec, digits, asked):
    a, b, c = three(bench, model, spec, digits)
    bench.open(a.held)
    model_size, each = model_bytes(bench), a.report.resident_bytes
    bench.restarted(serve_bytes=model_size + 2 * each)  # one model for both
    bench.open(a.held)
    bench.open(b.held)
    assert bench.workshop.resident_bytes() == model_size + 2 * each
    assert is_held(bench, a.held, asked)
    bench.open(c.held)
    assert [is_held(bench, one.held, asked) for one in (a, b, c)] == [True, False, True]
    assert bench.workshop.resident_bytes() == model_size + 2 * each
    bench.open(b.held)  # c was asked last
    assert [is_held(bench, one.held, asked) for one in (a, b, c)] == [False, True, True]


def test_an_index_that_does_not_fit_alone_is_refused(bench, model, spec, digits, asked):
    a, b, _ = three(bench, model, spec, digits)
    bench.open(a.held)
    enough = bench.workshop.resident_bytes()
    for budget in (enough - 1, a.report.resident_bytes - 1):
        bench.restarted(serve_bytes=budget)
        with pytest.raises(
            ResourceExhausted, match=r"indexes/b takes 0\.\d MiB of memory .* raise .* serve_bytes"
        ) as error:
            bench.open(b.held)
        assert error.value.reason is Reason.OUT_OF_MEMORY
        assert error.value.metadata["limit"] == str(budget)
        assert bench.workshop.resident_bytes() == 0
    bench.restarted(serve_bytes=enough)
    bench.open(a.held)
    bench.open(b.held)
    assert [is_held(bench, one.held, asked) for one in (a, b)] == [False, True]


def test_another_model_is_held_beside(bench, model, spec, digits, asked):
    train = bench.dataset(digits.part(0, 200))
    both = [bench.build(spec, model, train, "indexes/all").held]
    last = replace(spec, parameters=("2.*",), method="exact")
    both.append(bench.build(last, model, train, "indexes/last").held)
    bench.open(both[0])
    alone = bench.workshop.resident_bytes()
    bench.open(both[1])
    assert bench.workshop.resident_bytes() > alone
    reports = [bench.ask(held, [asked], [ExplainCall()])[0] for held in both]
    assert [report.method for report in reports] == ["ekfac", "exact"]


class Reading:
    """What is read of an index's files and data."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.roles: list[str] = []
        self.sources = self.objectives = 0
        tensors, open_source, index_objective = HeldFiles.tensors, resident.open_source, resident.index_objective

        def read(files, role):
            self.roles.append(role)
            return tensors(files, role)

        def opened(*given, **named):
            self.sources += 1
            return open_source(*given, **named)

        def made(*given):
            self.objectives += 1
            return index_objective(*given)

        monkeypatch.setattr(HeldFiles, "tensors", read)
        monkeypatch.setattr(resident, "open_source", opened)
        monkeypatch.setattr(resident, "index_objective", made)


def test_what_did_not_change_is_not_read_again(bench, model, spec, digits, asked, monkeypatch):
    held = bench.build(spec, model, bench.dataset(digits.part(0, 300))).held
    grown = bench.extend(held, bench.dataset(digits.part(300, 400), name="datasets/more/versions/1")).held
    bench.open(held)
    reading = Reading(monkeypatch)
    some = erased(held, range(100))
    bench.open(some)
    bench.open(some)
    assert (reading.roles, reading.sources, reading.objectives) == ([], 0, 0)
    assert [is_held(bench, one, asked) for one in (held, some)] == [False, True]
    bench.open(grown)
    assert (reading.roles, reading.sources, reading.objectives) == (["shard-000001"], 1, 0)
    assert is_held(bench, grown, asked)


def test_an_index_that_no_longer_opens_is_not_held(bench, model, spec, digits, asked):
    held = bench.build(spec, model, bench.dataset(digits.part(0, 200))).held
    bench.open(held)
    stale = replace(held, revision="2-0", spec=replace(spec, seed=3))
    with pytest.raises(FailedPrecondition):
        bench.open(stale)
    assert bench.workshop.resident_bytes() == 0
    assert not is_held(bench, held, asked)


@pytest.fixture
def from_files(bench, model, spec, digits) -> tuple[HeldIndex, Path]:
    train = bench.dataset(digits.part(0, 200), "parquet-three-files")
    assert isinstance(train.source, FileSource)
    return bench.build(spec, model, train).held, Path(train.source.files[1].path)


def test_data_that_changes_is_no_longer_answered_from(bench, from_files, asked, monkeypatch):
    held, path = from_files
    bench.open(held)
    os.utime(path, ns=(0, 0))
    assert is_held(bench, held, asked)  # looked at a moment ago
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 0.0)
    bench.restarted()
    with pytest.raises(FailedPrecondition) as error:
        bench.open(held)
    assert error.value.reason is Reason.DATASET_CHANGED


def test_the_change_is_seen_when_it_is_time_to_look(bench, from_files, asked, monkeypatch):
    held, path = from_files
    monkeypatch.setattr(watch, "PERIOD_SECONDS", 0.0)
    monkeypatch.setattr(watch, "_SHARE", np.inf)
    bench.open(held)
    assert is_held(bench, held, asked)
    os.utime(path, ns=(0, 0))
    with pytest.raises(FailedPrecondition, match=r"'part-1\.parquet' has changed") as error:
        is_held(bench, held, asked)
    assert error.value.reason is Reason.DATASET_CHANGED
    assert bench.workshop.resident_bytes() == 0


def test_looking_takes_a_bounded_share_of_the_time(monkeypatch):
    clock, looked = [100.0], []
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])

    def check(source: object) -> None:
        looked.append(clock[0])
        clock[0] += 1.0  # a million files

    monkeypatch.setattr(watch, "check_unchanged", check)
    seen = watch.Watch([FileSource("parquet", (), None)])
    for _ in range(200):
        seen.check()
        clock[0] += 1.0
    assert looked == [100.0, 151.0, 202.0, 253.0]


def test_rows_of_parquet_files_are_found_without_decoding(bench, from_files, asked):
    held, _ = from_files
    bench.open(held)
    [one] = bench.workshop._indexes._residents._held.values()
    [named] = one.sources.values()
    assert type(named.source).__name__ == "TableSource"
