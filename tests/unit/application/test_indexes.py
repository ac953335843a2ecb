"""Indexes: what is refused, what is queued, what names mean, what a deletion leaves."""

from datetime import timedelta

import pytest

from undue_service.application.indexes import TOUCH_EVERY
from undue_service.application.retention import RELEASE_GRACE
from undue_service.domain.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from undue_service.domain.index_jobs import IndexBuild, IndexCompact, IndexExtend, IndexSpec
from undue_service.domain.indexes import IndexState
from undue_service.domain.jobs import JobState
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT, INDEX_GAUSS_NEWTON_LIMIT, METHODS
from undue_service.domain.names import new_token
from undue_service.domain.reports import ColumnSchema
from undue_service.domain.resources import RequestKey
from unit.application.indexing import Bench, X, Y

KEY = RequestKey("6f0c8f1e-0000-4000-8000-000000000003", "a")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def refused(error, reason, call):
    with pytest.raises(error) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    return caught.value


def test_an_index_is_of_the_versions_that_are_newest_when_it_is_asked_for(bench):
    index = bench.create(damping=0.5, parameters=("w",), seed=7)
    expected = IndexSpec("models/m/versions/1", "datasets/train/versions/1", "ekfac", 0.5, ("w",), None, 7)
    assert (index.spec, index.state) == (expected, IndexState.BUILDING)
    assert index.jobs[0].spec == IndexBuild(index.name)
    assert bench.metrics.submitted == ["index_build"]


def test_a_request_that_is_repeated_gives_its_index_whatever_came_after(bench):
    spec = IndexSpec("models/m", "datasets/train", "")
    first = bench.indexes.create("t", spec, KEY)
    bench.data("train", target=None)
    assert bench.indexes.create("t", spec, KEY) == first
    assert bench.metrics.submitted.count("index_build") == 1
    refused(InvalidArgument, Reason.TARGETS_MISSING, lambda: bench.indexes.create("t", spec, None))


@pytest.mark.parametrize(
    ("head", "dim", "method"),
    [(True, 30, "exact"), (True, DENSE_PARAMETER_LIMIT + 1, "ekfac"), (False, 30, "ekfac")],
)
def test_the_method_of_an_index_that_names_none(bench, head, dim, method):
    bench.model("n", dim=dim, head=head)
    assert bench.create(model="models/n").spec.method == method


def test_only_some_methods_can_be_indexed(bench):
    for method in METHODS.keys() - {"exact", "gauss_newton", "ekfac"}:
        error = refused(InvalidArgument, Reason.INVALID_FIELD, lambda method=method: bench.create(method=method))
        assert error.violations[0].field == "index.method"
        assert all(repr(name) in error.message for name in (method, "exact", "gauss_newton", "ekfac"))
    refused(InvalidArgument, Reason.METHOD_UNKNOWN, lambda: bench.create(method="magic"))


@pytest.mark.parametrize(
    ("method", "head", "limit"),
    [
        ("exact", True, DENSE_PARAMETER_LIMIT),
        ("exact", False, DENSE_PARAMETER_LIMIT),
        ("gauss_newton", True, DENSE_PARAMETER_LIMIT),
        ("gauss_newton", False, INDEX_GAUSS_NEWTON_LIMIT),
    ],
)
def test_a_matrix_that_would_be_too_large_is_refused_with_a_way_out(bench, method, head, limit):
    for dim in (limit, limit + 1):
        bench.model("n", dim=dim, head=head)
        ask = lambda: bench.create(model="models/n", method=method)  # noqa: E731
        if dim == limit:
            assert ask().spec.method == method
            continue
        error = refused(FailedPrecondition, Reason.TOO_MANY_PARAMETERS, ask)
        assert f"{limit:,}" in error.message
        assert 'method="ekfac"' in error.message
        assert bench.create(model="models/n", method="ekfac").spec.method == "ekfac"


def test_the_leverage_correction_is_that_of_a_linear_head(bench):
    bench.model("head", head=True)
    assert bench.create(model="models/head", leverage_correction=True).spec.leverage_correction is True
    assert bench.create(leverage_correction=False).spec.leverage_correction is False
    for settings in ({"method": "ekfac"}, {"method": "exact"}, {"method": ""}):
        ask = lambda settings=settings: bench.create(leverage_correction=True, **settings)  # noqa: E731
        refused(InvalidArgument, Reason.LEVERAGE_UNAVAILABLE, ask)


def test_what_cannot_be_scored_cannot_be_indexed(bench):
    bench.data("bare", target=None)
    bench.data("same", targets_vary=False)
    refused(InvalidArgument, Reason.TARGETS_MISSING, lambda: bench.create(train="datasets/bare"))
    refused(InvalidArgument, Reason.DATASET_DEGENERATE, lambda: bench.create(train="datasets/same"))
    refused(InvalidArgument, Reason.PARAMETERS_NOT_FOUND, lambda: bench.create(parameters=("z*",)))
    refused(NotFound, Reason.RESOURCE_NOT_FOUND, lambda: bench.create(model="models/none"))
    assert "index_build" not in bench.metrics.submitted


def test_an_estimate_grows_with_what_it_is_of(bench):
    def estimate(model="models/m", train="datasets/train", method="ekfac"):
        return bench.indexes.estimate("t", IndexSpec(model, train, method))

    bench.data("many", rows=40_000)
    bench.model("large", dim=3000)
    bench.model("head", dim=3000, head=True)
    spec, small = estimate(method="")
    assert (spec.method, spec.model) == ("ekfac", "models/m/versions/1")
    assert small.rows == 4
    more = estimate(train="datasets/many")[1]
    assert more.seconds > 1000 * small.seconds
    assert more.rows == 40_000
    for method in ("exact", "gauss_newton", "ekfac"):
        narrow, wide = (estimate(model, "datasets/many", method)[1] for model in ("models/m", "models/large"))
        assert wide.seconds > narrow.seconds
        assert wide.peak_bytes > narrow.peak_bytes
    assert estimate("models/head", "datasets/many", "exact")[1].peak_bytes > 3000 * 3000 * 8
    assert "index_build" not in bench.metrics.submitted
    bench.model("slow", speed=None)
    refused(FailedPrecondition, Reason.RESOURCE_NOT_READY, lambda: estimate("models/slow"))


def test_a_name_and_an_alias_mean_an_index_that_is_ready(bench):
    building, built = bench.create(), bench.built()
    refused(FailedPrecondition, Reason.RESOURCE_NOT_READY, lambda: bench.indexes.resolve("t", "index", building.name))
    refused(
        FailedPrecondition,
        Reason.RESOURCE_NOT_READY,
        lambda: bench.indexes.set_alias("t", "aliases/live", building.name),
    )
    alias = bench.indexes.set_alias("t", "aliases/live", built.name)
    assert (alias.name, alias.index) == ("aliases/live", built.name)
    assert bench.indexes.alias("t", "aliases/live") == alias
    for name in (built.name, "aliases/live"):
        assert bench.indexes.get("t", "name", name) == built
        assert bench.indexes.resolve("t", "index", name) == built
    second = bench.built()
    bench.indexes.set_alias("t", "aliases/live", second.name)
    assert bench.indexes.resolve("t", "index", "aliases/live") == second
    assert bench.indexes.aliases("t", 9, None) == ((bench.indexes.alias("t", "aliases/live"),), False)
    bench.indexes.delete_alias("t", "aliases/live")
    refused(NotFound, Reason.RESOURCE_NOT_FOUND, lambda: bench.indexes.resolve("t", "index", "aliases/live"))


@pytest.mark.parametrize("name", ["", "live", "indexes/x", "aliases/", "aliases/A", "models/m", f"jobs/{'0' * 32}"])
def test_a_name_of_something_else_is_refused_with_its_field(bench, name):
    error = refused(InvalidArgument, Reason.INVALID_NAME, lambda: bench.indexes.resolve("t", "index", name))
    assert error.violations[0].field == "index"


def test_rows_are_appended_to_an_index_that_is_ready_and_idle(bench):
    index = bench.create()
    extend = lambda: bench.indexes.extend("t", index.name, "datasets/more", None)  # noqa: E731
    refused(FailedPrecondition, Reason.INDEX_BUSY, extend)
    bench.succeed(index.jobs[0], {"manifest": b"m", "fit": b"f"})
    job = extend()
    assert job.spec == IndexExtend(index.name, "datasets/more/versions/1")
    assert bench.metrics.submitted == ["index_build", "index_extend"]
    refused(FailedPrecondition, Reason.INDEX_BUSY, lambda: bench.indexes.compact("t", index.name, None))
    bench.succeed(job, {"manifest": b"n", "fit": b"f"})
    assert bench.indexes.get("t", "name", index.name).datasets[1] == "datasets/more/versions/1"
    assert bench.indexes.compact("t", index.name, None).spec == IndexCompact(index.name)


def test_rows_are_not_appended_to_what_was_never_built(bench):
    index = bench.create()
    bench.jobs.update("t", index.jobs[0].id, lambda job: job.cancel(bench.clock.now()))
    for change in (
        lambda: bench.indexes.extend("t", index.name, "datasets/more", None),
        lambda: bench.indexes.compact("t", index.name, None),
        lambda: bench.indexes.erase("t", index.name, (0,)),
    ):
        refused(FailedPrecondition, Reason.RESOURCE_NOT_READY, change)


def test_rows_that_do_not_fit_are_not_appended(bench):
    index = bench.built()
    other = ColumnSchema("z", "float64", (3,))
    for reason, settings in (
        (Reason.TARGETS_MISSING, {"target": None}),
        (Reason.INPUT_MISMATCH, {"inputs": (ColumnSchema("x", "float32", (4,)),)}),
        (Reason.INPUT_MISMATCH, {"inputs": (other, ColumnSchema("w", "float64", (3,)))}),
        (Reason.TARGET_MISMATCH, {"target": ColumnSchema("y", "float32", ())}),
        (Reason.TARGET_MISMATCH, {"target": ColumnSchema("y", "int64", (2,))}),
    ):
        bench.data("odd", **settings)
        error = refused(InvalidArgument, reason, lambda: bench.indexes.extend("t", index.name, "datasets/odd", None))
        assert error.violations[0].field == "dataset"
    refused(
        InvalidArgument,
        Reason.INVALID_FIELD,
        lambda: bench.indexes.extend("t", index.name, "datasets/train/versions/1", None),
    )
    bench.data("renamed", inputs=(other,), target=ColumnSchema("label", "uint8", ()))  # one column is one input
    assert bench.indexes.extend("t", index.name, "datasets/renamed", None).state is JobState.QUEUED


def test_what_a_model_does_not_read_may_differ(bench):
    bench.model("two", inputs=(X, ColumnSchema("w", "float32", ())))
    extra, w = ColumnSchema("note", "int8", (9,)), ColumnSchema("w", "float32", ())
    bench.data("wide", inputs=(X, w, extra), target=Y)
    index = bench.built(model="models/two", train="datasets/wide")
    bench.data("slim", inputs=(w, X), target=Y)
    assert bench.indexes.extend("t", index.name, "datasets/slim", None).state is JobState.QUEUED
    bench.data("slimmer", inputs=(X,), target=Y)
    bench.succeed(bench.store.get("t", index.id).unfinished, {"manifest": b"n", "fit": b"f"})
    refused(
        InvalidArgument,
        Reason.INPUT_MISMATCH,
        lambda: bench.indexes.extend("t", index.name, "datasets/slimmer", None),
    )


def test_rows_are_erased_by_their_numbers_over_all_data_sets(bench):
    index = bench.built()
    erase = lambda *rows: bench.indexes.erase("t", index.name, rows)  # noqa: E731
    error = refused(InvalidArgument, Reason.ROW_OUT_OF_RANGE, lambda: erase(0, 4))
    assert "row 4" in error.message
    assert erase(0).erased == 1
    bench.succeed(bench.indexes.extend("t", index.name, "datasets/more", None), {"manifest": b"n", "fit": b"f"})
    assert erase(0, 4, 5).erased == 3
    refused(InvalidArgument, Reason.ROW_OUT_OF_RANGE, lambda: erase(6))
    refused(InvalidArgument, Reason.INVALID_FIELD, lambda: erase(1, 2, 3))
    assert bench.erasures.erased("t", index.id) == (0, 4, 5)
    bench.succeed(bench.indexes.compact("t", index.name, None), {"manifest": b"o", "fit": b"f"})
    assert erase(1, 2).erased == 5, "numbers stay what they were"


def test_rows_are_erased_while_a_job_changes_the_index(bench):
    index = bench.built()
    job = bench.indexes.compact("t", index.name, None)
    assert bench.indexes.erase("t", index.name, (1,)).erased == 1
    assert bench.jobs.get("t", job.id).state is JobState.QUEUED


def test_a_deletion_is_refused_for_an_alias_or_an_etag_that_is_old(bench):
    index = bench.built()
    bench.indexes.set_alias("t", "aliases/live", index.name)
    seen = index.etag
    error = refused(
        FailedPrecondition,
        Reason.RESOURCE_IN_USE,
        lambda: bench.indexes.delete("t", index.name, seen, force=False),
    )
    assert error.metadata == {"users": "aliases/live", "count": "1"}
    bench.indexes.erase("t", index.name, (1,))
    refused(FailedPrecondition, Reason.ETAG_MISMATCH, lambda: bench.indexes.delete("t", index.name, seen, force=True))
    bench.indexes.delete("t", index.name, bench.store.get("t", index.id).etag, force=True)
    refused(NotFound, Reason.RESOURCE_NOT_FOUND, lambda: bench.indexes.alias("t", "aliases/live"))


def test_a_deletion_takes_jobs_workspaces_and_files_with_it(bench):
    index = bench.built({"manifest": b"the manifest", "fit": b"the fit", "shard-0": b"rows"})
    job = bench.indexes.compact("t", index.name, None)
    (bench.staging.workspace(job.id) / "part").write_bytes(b"half")
    bench.clock.ahead = 2 * RELEASE_GRACE
    bench.indexes.delete("t", index.name, "", force=False)
    assert bench.metrics.finished == [(job.id, JobState.CANCELLED)]
    assert list(bench.staging.workspaces()) == []
    assert not any(bench.has(digest) for digest in index.current.results.values())
    refused(NotFound, Reason.RESOURCE_NOT_FOUND, lambda: bench.indexes.get("t", "name", index.name))


def test_a_job_of_an_index_goes_with_it(bench):
    index = bench.built()
    for force in (False, True):
        error = refused(
            FailedPrecondition,
            Reason.RESOURCE_IN_USE,
            lambda force=force: bench.deletions.job("t", index.jobs[0].name, "", force=force),
        )
        assert error.metadata == {"users": index.name, "count": "1"}


@pytest.mark.parametrize(("collection", "name"), [("models", "models/m"), ("datasets", "datasets/train")])
def test_what_an_index_is_made_of_is_deleted_by_force_only_and_then_it_is_of_no_use(bench, collection, name):
    index = bench.built()
    error = refused(
        FailedPrecondition,
        Reason.RESOURCE_IN_USE,
        lambda: bench.deletions.registration("t", collection, name, "", force=False),
    )
    assert error.metadata == {"users": index.name, "count": "1"}
    assert "indexes that can only be deleted" in error.message
    bench.deletions.registration("t", collection, name, "", force=True)
    for use in (
        lambda: bench.indexes.resolve("t", "index", index.name),
        lambda: bench.indexes.extend("t", index.name, "datasets/more", None),
        lambda: bench.indexes.compact("t", index.name, None),
        lambda: bench.indexes.erase("t", index.name, (0,)),
        lambda: bench.indexes.set_alias("t", "aliases/live", index.name),
    ):
        assert name in refused(FailedPrecondition, Reason.RESOURCE_NOT_READY, use).message
    bench.indexes.delete("t", index.name, "", force=False)


def test_indexes_that_were_explained_from_are_known_after_a_restart(bench):
    first, second = bench.built(), bench.built()
    bench.indexes.touch(first)
    bench.clock.ahead += timedelta(seconds=1)
    bench.indexes.touch(second)
    assert bench.indexes.recent(9) == (second, first)
    bench.clock.ahead += TOUCH_EVERY - timedelta(seconds=2)
    bench.indexes.touch(first)
    assert bench.indexes.recent(9) == (second, first), "not noted every time"
    bench.clock.ahead += timedelta(seconds=2)
    bench.indexes.touch(first)
    assert bench.indexes.recent(9) == (first, second)
    bench.deletions.registration("t", "models", "models/m", "", force=True)
    assert bench.indexes.recent(9) == (), "nothing can be explained from them"


def test_deleting_what_is_not_there(bench):
    refused(
        NotFound,
        Reason.RESOURCE_NOT_FOUND,
        lambda: bench.indexes.delete("t", f"indexes/{new_token()}", "", force=True),
    )
