"""An index from its rows to its answers, as the tasks of a runner."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dataset_tables import Table
from index_bench import Bench, erased
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.results import Questions
from undue_service.domain.specs import ModelSpec
from undue_service.domain.tasks import ExplainCall, HeldIndex
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.index import precision
from undue_service.runner.indexes import changing, parts
from undue_service.runner.opening import Models
from undue_service.runner.tensor_files import read_tensors
from undue_service.wire import attachments

TRAIN = 700


def dense(bench: Bench, spec: IndexSpec, model: ModelSpec, train: Table, test: Table, **how: object):
    """The offline method over the same rows."""
    objective = Models(torch.device("cpu")).objective(
        model, bench.files.paths, bench.folder, parameters=spec.parameters, precision=precision(spec.method)
    )
    rows = [
        TensorRows({name: torch.tensor(values) for name, values in one.inputs.items()}, torch.tensor(one.targets))
        for one in (train, test)
    ]
    return influence(objective, *rows, method=spec.method, damping=spec.damping, keep_scores=True, **how)


def test_answers_are_those_of_the_offline_method(bench, model, spec, digits):
    train, test = digits.part(0, TRAIN), digits.part(TRAIN, TRAIN + 8)
    built = bench.build(spec, model, bench.dataset(train))
    assert built.report.rows == TRAIN
    assert built.report.recall >= 0.999
    assert built.report.recall_queries > 0
    assert built.report.staleness == 0
    assert set(built.held.files) == {"manifest", "fit", "shard-000000"}
    sizes = {role: bench.files.paths[digest].stat().st_size for role, digest in built.held.files.items()}
    assert built.report.bytes == sum(sizes.values())
    assert built.report.bytes_per_row == sizes["shard-000000"] / TRAIN
    assert not bench.ask(built.held, [Questions(test.inputs, test.targets)], [ExplainCall()])[0].resident
    opened = bench.open(built.held).report
    assert (opened.index, opened.resident_bytes) == ("indexes/i", built.report.resident_bytes)
    assert bench.workshop.resident_bytes() > opened.resident_bytes
    report, answers = bench.ask(built.held, [Questions(test.inputs, test.targets)], [ExplainCall(top_k=5)])
    found = dense(bench, spec, model, train, test, top_k=5)
    assert (report.method, report.recall) == ("ekfac", built.report.recall)
    assert report.damping == pytest.approx(0.01)
    assert {"gradient", "screen", "rescore", "instances"} <= report.stage_seconds.keys()
    for at, one in enumerate(answers[0].explanations):
        assert [example.row for example in one.helpful] == found.helpful_rows[at].tolist()
        assert [example.row for example in one.harmful] == found.harmful_rows[at].tolist()
        np.testing.assert_allclose([e.score for e in one.helpful], found.helpful_scores[at], rtol=1e-4)
        assert (one.prediction, one.target) == (found.test.predictions[at], found.test.targets[at])
        assert one.loss == pytest.approx(found.test.losses[at], rel=1e-4)
        first = one.helpful[0]
        assert (first.id, first.target) == (f"digit-{first.row}", train.targets[first.row])
    [shown] = answers[0].instances
    np.testing.assert_array_equal(shown.inputs["image"], train.inputs["image"][list(shown.rows)], strict=True)
    assert shown.dataset_rows == shown.rows


def questions(test: Table, *rows: int) -> Questions:
    return Questions({"": test.inputs["image"][list(rows)]}, test.targets[list(rows)])


def test_each_call_gets_what_it_asks_for_and_only_its_own_failures(bench, model, spec, digits):
    built = bench.build(spec, model, bench.dataset(digits.part(0, TRAIN)))
    bench.open(built.held)
    test = digits.part(TRAIN, 1000)
    batch = [
        (questions(test, 0), ExplainCall()),
        (Questions({"": np.zeros((2, 63), np.float32)}, None), ExplainCall()),
        (questions(test, 1, 2), ExplainCall(top_k=3, with_instances=False)),
        (Questions({"": test.inputs["image"][[3]]}, None), ExplainCall(measurement="logit")),
        (Questions({"": test.inputs["image"][[3]]}, np.array([11])), ExplainCall()),
        (Questions({"": np.full((1, 64), 1e300)}, None), ExplainCall()),
        (questions(test, 4), ExplainCall(exact=True)),
        (Questions({"other": test.inputs["image"][[5]], "image": test.inputs["image"][[5]]}, None), ExplainCall()),
    ]
    report, answers = bench.ask(built.held, *zip(*batch, strict=True))
    assert {place: failure.reason for place, failure in report.failures.items()} == {
        1: "INPUT_MISMATCH",
        4: "TARGET_MISMATCH",
        5: "NON_FINITE_RESULT",
        7: "INPUT_MISMATCH",
    }
    assert sorted(answers) == [0, 2, 3, 6]
    for place in answers:
        alone = bench.ask(built.held, [batch[place][0]], [batch[place][1]])[1][0]
        assert same(alone, answers[place])
    assert [len(one.helpful) for one in answers[2].explanations] == [3, 3]
    assert answers[2].instances == ()
    assert answers[0].explanations[0].helpful[0].row in answers[0].instances[0].rows


def test_answers_that_do_not_fit_together_are_asked_for_alone(bench, model, spec, digits, monkeypatch):
    built = bench.build(spec, model, bench.dataset(digits.part(0, 200)))
    bench.open(built.held)
    calls = [ExplainCall(), ExplainCall(top_k=100, with_instances=False), ExplainCall()]
    asked = [questions(digits, 0), questions(digits, *range(50)), questions(digits, 2)]
    monkeypatch.setattr(attachments, "MAX_ANSWER_BYTES", 50_000)
    report, answers = bench.ask(built.held, asked, calls)
    assert {place: one.reason for place, one in report.failures.items()} == dict.fromkeys(range(3), "TOO_MANY_REQUESTS")
    assert answers == {}
    alone = [bench.ask(built.held, [one], [call]) for one, call in zip(asked, calls, strict=True)]
    assert [len(answers) for _, answers in alone] == [1, 0, 1]
    assert alone[1][0].failures[0].reason == "INVALID_FIELD"
    assert "fewer rows at once" in alone[1][0].failures[0].message


def same(first, second) -> bool:
    """Whether two answers list the same rows for the same reasons, to the rounding of a batch's size."""
    pairs = list(zip(first.explanations, second.explanations, strict=True))
    return [one.rows for one in first.instances] == [one.rows for one in second.instances] and all(
        [e.row for e in side] == [e.row for e in other]
        and np.allclose([e.score for e in side], [e.score for e in other], rtol=1e-4)
        for a, b in pairs
        for side, other in ((a.helpful, b.helpful), (a.harmful, b.harmful))
    )


def shared(first, second) -> float:
    """Share of the rows that two answers list in the same place."""
    lists = [
        {
            (at, side, e.row)
            for at, one in enumerate(answer.explanations)
            for side in ("helpful", "harmful")
            for e in getattr(one, side)
        }
        for answer in (first, second)
    ]
    return len(lists[0] & lists[1]) / len(lists[1])


def test_erased_rows_are_never_listed_again_and_gone_after_compacting(bench, model, spec, digits):
    train, asked = digits.part(0, TRAIN), questions(digits.part(TRAIN, 1000), *range(20))
    built = bench.build(spec, model, bench.dataset(train))
    bench.open(built.held)
    before = bench.ask(built.held, [asked], [ExplainCall()])[1][0]
    listed = {e.row for one in before.explanations for e in (*one.helpful, *one.harmful)}
    held = erased(built.held, sorted(listed)[::2])
    assert not bench.ask(held, [asked], [ExplainCall()])[0].resident
    bench.open(held)
    for exact in (False, True):
        after = bench.ask(held, [asked], [ExplainCall(exact=exact)])[1][0]
        rows = {e.row for one in after.explanations for e in (*one.helpful, *one.harmful)}
        assert not rows & set(held.erased)
        assert rows & listed
        kept = [[e.row for e in one.helpful if e.row not in held.erased] for one in before.explanations]
        assert [
            [e.row for e in one.helpful][: len(some)] for one, some in zip(after.explanations, kept, strict=True)
        ] == kept
    small = bench.compact(held)
    assert small.report.rows == TRAIN - len(held.erased)
    assert small.result.kept == ("fit",)
    bench.open(small.held)
    assert same(bench.ask(small.held, [asked], [ExplainCall(exact=True)])[1][0], after)


def test_compacting_writes_what_it_has_to_and_nothing_of_what_was_erased(bench, model, spec, digits, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 50)
    for module in (parts, changing):
        monkeypatch.setattr(module, "SHARD_ROWS", 200)
    held = bench.build(spec, model, bench.dataset(digits.part(0, 400))).held
    held = bench.extend(held, bench.dataset(digits.part(400, 450), name="datasets/b/versions/1")).held
    held = bench.extend(held, bench.dataset(digits.part(450, 500), name="datasets/c/versions/1")).held
    assert rows_of(bench, held) == [[*range(200)], [*range(200, 400)], [*range(400, 450)], [*range(450, 500)]]
    gone = [*range(210, 230), 405, *range(450, 500)]
    small = bench.compact(erased(held, gone))
    assert set(small.result.kept) == {"fit", "rows-drift", "shard-000000"}
    assert rows_of(bench, small.held) == [
        [*range(200)],
        [row for row in range(200, 400) if row not in gone],
        [row for row in range(400, 450) if row not in gone],
    ]
    written = {role: bench.files.paths[digest] for role, digest in small.held.files.items()}
    before = read_tensors(bench.files.paths[held.files["shard-000001"]])[0]
    after = read_tensors(written["shard-000004"])[0]
    kept = ~torch.isin(before["rows"], torch.tensor(gone))
    assert torch.equal(after["rows"], before["rows"][kept])
    for name in ("keys", "scales"):
        assert torch.equal(after[name], before[name][..., kept])
    assert {name: len(one) * 200 for name, one in after.items() if name.startswith("numbers")} == {
        name: len(one) * 180 for name, one in before.items() if name.startswith("numbers")
    }
    manifest = written["manifest"].read_text()
    assert small.report.rows == 500 - len(gone)
    assert "digit-" not in manifest
    again = bench.compact(small.held)  # nothing is left to do
    assert again.held.files == small.held.files
    assert {file.role for file in again.result.files} == {"manifest"}
    bench.open(small.held)
    assert bench.ask(small.held, [questions(digits, 0)], [ExplainCall()])[0].resident


def rows_of(bench: Bench, held: HeldIndex) -> list[list[int]]:
    """The rows that each shard holds."""
    shards = [role for role in sorted(held.files) if role.startswith("shard-")]
    tensors = [read_tensors(bench.files.paths[held.files[role]])[0] for role in shards]
    return [one["rows"].sort().values.tolist() for one in tensors]


@pytest.mark.parametrize("method", ["exact", "gauss_newton"])
def test_a_linear_head_with_its_leverage_correction(method, bench, model, spec, digits):
    spec = replace(spec, method=method, parameters=("2.*",), damping=None)
    train, test = digits.part(0, 300), digits.part(700, 705)
    built = bench.build(spec, model, bench.dataset(train))
    added = bench.extend(built.held, bench.dataset(digits.part(300, 400), name="datasets/b/versions/1"))
    assert built.report.diagnostics.leverage_correction
    for held in (built.held, added.held):
        bench.open(held)
    bench.restarted()
    bench.open(built.held)
    [answer] = bench.ask(built.held, [Questions(test.inputs, test.targets)], [ExplainCall()])[1].values()
    found = dense(bench, spec, model, train, test, top_k=10)
    for at, one in enumerate(answer.explanations):
        assert [e.row for e in one.helpful] == found.helpful_rows[at].tolist()
        np.testing.assert_allclose([e.score for e in one.harmful], found.harmful_scores[at], rtol=1e-6)


def test_rows_that_are_appended_are_found(bench, model, spec, digits):
    built = bench.build(spec, model, bench.dataset(digits.part(0, 500)))
    added = bench.dataset(digits.part(500, 600), "parquet", "datasets/more/versions/1")
    grown = bench.extend(built.held, added)
    assert set(grown.result.kept) == {"fit", "shard-000000"}
    assert grown.report.rows == 600
    assert grown.report.staleness > 0
    assert grown.report.recall == built.report.recall
    bench.open(grown.held)
    asked = questions(digits.part(500, 600), *range(100))
    [answer] = bench.ask(grown.held, [asked], [ExplainCall()])[1].values()
    exact = bench.ask(grown.held, [asked], [ExplainCall(exact=True)])[1][0]
    assert shared(answer, exact) >= 0.999
    listed = {e.row: e for one in answer.explanations for e in (*one.helpful, *one.harmful)}
    assert {row: e.id for row, e in listed.items()} == {row: f"digit-{row}" for row in listed}
    shown = {one.dataset: one for one in answer.instances}
    assert sorted(row for one in shown.values() for row in one.rows) == sorted(listed)
    assert len(shown[1].rows) > 10
    assert shown[1].dataset_rows == tuple(row - 500 for row in shown[1].rows)
    for one in shown.values():
        np.testing.assert_array_equal(one.inputs["image"], digits.inputs["image"][list(one.rows)], strict=True)
    again = bench.extend(grown.held, bench.dataset(digits.part(600, 700), name="datasets/third/versions/1"))
    assert again.report.staleness > grown.report.staleness
    assert again.report.rows == 700


@pytest.mark.parametrize("form", ["npz", "parquet-three-files", "csv-three-files", "idx"])
def test_every_source_answers_alike(form, bench, model, spec, digits):
    train = replace(digits.part(0, 200), ids=None, targets=digits.targets[:200].astype(np.uint8))
    answers = []
    for one in ("arrays", form):
        held = bench.build(spec, model, bench.dataset(train, one), f"indexes/{one}").held
        bench.open(held)
        answers += bench.ask(held, [questions(digits, 3, 4)], [ExplainCall()])[1].values()
        for shown in answers[-1].instances:
            [values] = shown.inputs.values()
            np.testing.assert_allclose(values, train.inputs["image"][list(shown.rows)], rtol=1e-6)
    assert same(*answers)


def test_rows_of_another_shape_are_not_appended(bench, model, spec, digits):
    built = bench.build(spec, model, bench.dataset(digits.part(0, 200)))
    other = Table({"image": np.zeros((5, 63), np.float32)}, np.zeros(5, np.int64))
    with pytest.raises(InvalidArgument, match=r"datasets/o/versions/1 have the inputs input \(63,\)") as error:
        bench.extend(built.held, bench.dataset(other, name="datasets/o/versions/1"))
    assert error.value.reason is Reason.INPUT_MISMATCH
