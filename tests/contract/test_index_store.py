"""One suite for every IndexStore, ErasureStore, AliasStore and RecentIndexes, and what they mean to the others."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from undue_service.adapters.memory import (
    MemoryAliasStore,
    MemoryErasureStore,
    MemoryIndexStore,
    MemoryInventory,
    MemoryJobStore,
    MemoryRecentIndexes,
    MemoryRegistry,
    MemoryUploadStore,
)
from undue_service.adapters.sql.aliases import SqlAliasStore
from undue_service.adapters.sql.database import connect, migrate
from undue_service.adapters.sql.erasures import SqlErasureStore
from undue_service.adapters.sql.indexes import SqlIndexStore
from undue_service.adapters.sql.inventory import SqlInventory
from undue_service.adapters.sql.jobs import SqlJobStore
from undue_service.adapters.sql.recent import SqlRecentIndexes
from undue_service.adapters.sql.registry import SqlRegistry
from undue_service.application.ports import StaleLeaseError
from undue_service.domain.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Reason
from undue_service.domain.index_jobs import IndexBuild, IndexCompact, IndexExtend, IndexSpec
from undue_service.domain.indexes import Alias, Index, IndexState
from undue_service.domain.jobs import Job, JobState
from undue_service.domain.names import new_token
from undue_service.domain.reports import Diagnostics, IndexReport, Stationarity
from undue_service.domain.resources import Registration, RequestKey
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import ArraysSource, ModelSpec, ObjectiveSpec, TensorRef
from undue_service.domain.validations import DatasetValidation, ModelValidation

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SOON = NOW + timedelta(seconds=15)
MODEL, TRAIN, MORE = "models/m/versions/1", "datasets/train/versions/1", "datasets/more/versions/1"
SPEC = IndexSpec(MODEL, TRAIN, "ekfac", 0.5, ("*.weight",), seed=3)
KEYS = [RequestKey(f"6f0c8f1e-0000-4000-8000-00000000000{number}", "a") for number in range(4)]
DIGESTS = [f"{number:02d}" * 32 for number in range(9)]


def report(rows=4):
    stationarity = Stationarity(0.0, 0.0, 1.0)
    found = Diagnostics(
        "e", "removal", "ekfac", 0.1, "given", False, "s", "ok", 0.0, stationarity, "r", 0, "float32", "cpu", {}, 1.0
    )
    return IndexReport(rows, 100, 12.5, 80, 0.999, 10, 0.0, found)


class Stores:
    def __init__(self, jobs, registry, inventory, indexes, erasures, aliases, recent):
        self.jobs, self.registry, self.inventory = jobs, registry, inventory
        self.indexes, self.erasures, self.aliases, self.recent = indexes, erasures, aliases, recent

    def add(self, tenant="default", request=None, spec=SPEC):
        def make():
            index_id = new_token()
            job = Job(tenant, new_token(), IndexBuild(f"indexes/{index_id}"), NOW)
            return Index(tenant, index_id, spec, NOW, (job,))

        return self.indexes.add(tenant, make, request)

    def built(self, results=None, **settings):
        index = self.add(**settings)
        self.end(index.jobs[0], results)
        return self.indexes.get(index.tenant, index.id)

    def extend(self, index, request=None, dataset=MORE):
        spec = IndexExtend(index.name, dataset)
        return self.indexes.change(index.tenant, index.id, lambda _: a_job(spec, index.tenant), request)

    def compact(self, index, request=None):
        spec = IndexCompact(index.name)
        return self.indexes.change(index.tenant, index.id, lambda _: a_job(spec, index.tenant), request)

    def end(self, job, results=None, state=JobState.SUCCEEDED):
        def change(job):
            if state is JobState.CANCELLED:
                return job.cancel(SOON)
            running = job.start(NOW)
            if state is JobState.FAILED:
                return running.fail(SOON, FailedPrecondition(Reason.INDEX_STALE, "no"))
            return running.succeed(SOON, report(), results or {})

        return self.jobs.update(job.tenant, job.id, change)

    def register(self, name, tenant="default"):
        collection, resource_id, _, _ = name.split("/")
        models = collection == "models"
        arrays = ArraysSource({"x": TensorRef("int8", (1,), DIGESTS[8])})
        spec = ModelSpec("pt2", DIGESTS[8], ObjectiveSpec("cross_entropy")) if models else arrays
        check = ModelValidation(name) if models else DatasetValidation(name)

        def make(version):
            return Registration(tenant, collection, resource_id, version, spec, a_job(check, tenant), NOW)

        return self.registry.add(make, tenant, collection, resource_id, None)

    def delete_resource(self, name, check=lambda *_: None, tenant="default"):
        collection, resource_id, _, _ = name.split("/")
        return self.registry.delete(tenant, collection, resource_id, None, check, SOON)

    def users(self, name):
        told = []

        def refuse(_, users):
            told.extend(users)
            raise FailedPrecondition(Reason.RESOURCE_IN_USE, "no")

        with pytest.raises(FailedPrecondition):
            self.delete_resource(name, refuse)
        return told


def a_job(spec, tenant="default"):
    return Job(tenant, new_token(), spec, NOW)


def refusal(call):
    with pytest.raises(FailedPrecondition) as caught:
        call()
    return caught.value.reason


@pytest.fixture(params=["sqlite", "memory"])
def stores(request, tmp_path):
    if request.param == "memory":
        jobs = MemoryJobStore()
        indexes = MemoryIndexStore(jobs)
        registry = MemoryRegistry(jobs, indexes)
        inventory = MemoryInventory(jobs, registry, MemoryUploadStore())
        others = (MemoryErasureStore(indexes), MemoryAliasStore(indexes), MemoryRecentIndexes(indexes))
        yield Stores(jobs, registry, inventory, indexes, *others)
        return
    engine = connect(f"sqlite:///{tmp_path / 'undue.sqlite3'}")
    migrate(engine)
    parts = (SqlJobStore, SqlRegistry, SqlInventory, SqlIndexStore, SqlErasureStore, SqlAliasStore, SqlRecentIndexes)
    yield Stores(*(part(engine) for part in parts))
    engine.dispose()


def test_an_index_is_what_its_jobs_made_of_it(stores):
    index = stores.add()
    assert stores.indexes.get("default", index.id) == index
    assert (index.state, index.report, index.datasets) == (IndexState.BUILDING, None, (TRAIN,))
    build = index.jobs[0]
    assert stores.jobs.get("default", build.id) == build
    assert stores.jobs.lease(NOW, SOON).job.id == build.id, "it waits like any other job"
    build = stores.jobs.update("default", build.id, lambda job: job.succeed(SOON, report(), {"fit": DIGESTS[0]}))
    built = stores.indexes.get("default", index.id)
    assert (built.state, built.current, built.jobs) == (IndexState.READY, build, (build,))
    more = stores.extend(built)
    assert stores.indexes.get("default", index.id).datasets == (TRAIN,), "not before it has succeeded"
    more = stores.end(more, {"fit": DIGESTS[0], "shard-1": DIGESTS[1]})
    extended = stores.indexes.get("default", index.id)
    assert (extended.current, extended.datasets) == (more, (TRAIN, MORE))
    assert len({index.etag, built.etag, extended.etag}) == 3
    assert built.revision != extended.revision


def test_a_change_that_fails_leaves_the_index_as_it_was(stores):
    built = stores.built()
    for state in (JobState.FAILED, JobState.CANCELLED):
        stores.end(stores.extend(built), state=state)
        index = stores.indexes.get("default", built.id)
        assert (index.state, index.current, index.datasets) == (IndexState.READY, built.current, (TRAIN,))
        assert index.revision == built.revision


def test_an_index_that_was_not_built_says_why(stores):
    failed, cancelled = (stores.add() for _ in range(2))
    stores.end(failed.jobs[0], state=JobState.FAILED)
    stores.end(cancelled.jobs[0], state=JobState.CANCELLED)
    found = [stores.indexes.get("default", one.id) for one in (failed, cancelled)]
    assert [one.state for one in found] == [IndexState.FAILED] * 2
    assert [one.failure.reason for one in found] == ["INDEX_STALE", "JOB_CANCELLED"]
    assert {refusal(one.ready) for one in found} == {Reason.RESOURCE_NOT_READY}


def test_a_tenant_sees_its_own_only(stores):
    mine, other = stores.built(), stores.built(tenant="other")
    assert stores.indexes.list("default", 9, None).items == (mine,)
    stores.aliases.set(Alias("default", "live", mine.name, NOW))
    stores.erasures.erase("default", mine.id, (1,), lambda *_: None)
    for look_up in (
        lambda: stores.indexes.get("other", mine.id),
        lambda: stores.indexes.change("other", mine.id, lambda _: a_job(IndexCompact(mine.name)), None),
        lambda: stores.indexes.delete("other", mine.id, lambda *_: None, NOW),
        lambda: stores.erasures.erase("other", mine.id, (1,), lambda *_: None),
        lambda: stores.aliases.set(Alias("other", "live", mine.name, NOW)),
        lambda: stores.aliases.get("other", "live"),
        lambda: stores.aliases.index("other", "live"),
        lambda: stores.aliases.delete("other", "live"),
    ):
        with pytest.raises(NotFound):
            look_up()
    assert stores.erasures.erased("other", mine.id) == ()
    assert stores.aliases.list("other", 9, None) == ((), False)
    assert stores.indexes.get("other", other.id) == other


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pages_hold_every_index_once_newest_first(stores, size):
    made = [stores.built() for _ in range(5)]
    items, before = [], None
    while True:
        page = stores.indexes.list("default", size, before)
        items += page.items
        before = page.next_before
        if before is None:
            break
    assert items == made[::-1]


def test_a_request_that_is_repeated_makes_nothing_new(stores):
    first, again = (stores.add(request=KEYS[0]) for _ in range(2))
    assert again == first
    stores.end(first.jobs[0])
    jobs = [stores.extend(first, KEYS[1]) for _ in range(2)]
    assert jobs[0] == jobs[1]
    stores.end(jobs[0])
    compacted = [stores.compact(first, KEYS[2]) for _ in range(2)]
    assert compacted[0] == compacted[1]
    assert len(stores.indexes.get("default", first.id).jobs) == 3
    with pytest.raises(AlreadyExists):
        stores.compact(first, replace(KEYS[2], fingerprint="b"))
    with pytest.raises(AlreadyExists):
        stores.add(request=replace(KEYS[0], fingerprint="b"))
    stores.indexes.delete("default", first.id, lambda *_: None, SOON)
    for repeat in (lambda: stores.add(request=KEYS[0]), lambda: stores.extend(first, KEYS[1])):
        with pytest.raises(NotFound):
            repeat()


def test_one_job_of_an_index_at_a_time(stores):
    index, other = stores.add(), stores.built()
    assert refusal(lambda: stores.compact(index)) is Reason.INDEX_BUSY
    stores.end(index.jobs[0])
    job = stores.extend(index)
    for change in (stores.extend, stores.compact):
        assert refusal(lambda change=change: change(index)) is Reason.INDEX_BUSY
    stores.compact(other)
    stores.end(job, state=JobState.FAILED)
    stores.compact(index)


def test_threads_never_change_an_index_both(stores):
    index, made, refused = stores.built(), [], []

    def change():
        try:
            made.append(stores.compact(index))
        except FailedPrecondition as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=change) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), refused) == (1, [Reason.INDEX_BUSY] * 5)


def test_a_change_that_is_refused_leaves_no_job(stores):
    index = stores.built()

    def refuse(_):
        raise InvalidArgument.at("dataset", "no")

    with pytest.raises(InvalidArgument):
        stores.indexes.change("default", index.id, refuse, KEYS[0])
    assert stores.indexes.get("default", index.id) == index
    assert stores.compact(index, KEYS[0]).state is JobState.QUEUED, "the request may be made again"


def test_rows_that_are_erased_stay_so(stores):
    index, other = stores.built(), stores.built()
    told = []
    erased = stores.erasures.erase("default", index.id, (7, 3, 3), lambda *told_: told.append(told_))
    assert told == [(index, 2)]
    assert erased.erased == 2
    assert stores.erasures.erased("default", index.id) == (3, 7)
    again = stores.erasures.erase("default", index.id, (3, 1), lambda _, count: told.append(count))
    assert (told[1], again.erased) == (3, 3)
    assert stores.erasures.erased("default", index.id) == (1, 3, 7)
    same = stores.erasures.erase("default", index.id, (7,), lambda _, count: told.append(count))
    assert (told[2], same) == (3, again)
    assert stores.indexes.get("default", index.id) == again
    assert len({index.revision, erased.revision, again.revision}) == 3
    assert len({index.etag, erased.etag, again.etag}) == 3
    assert stores.erasures.erased("default", other.id) == ()
    assert stores.erasures.erased("default", new_token()) == ()


def test_an_erasure_that_is_refused_erases_nothing(stores):
    index = stores.built()

    def refuse(*_):
        raise InvalidArgument.at("rows", "no", Reason.ROW_OUT_OF_RANGE)

    with pytest.raises(InvalidArgument):
        stores.erasures.erase("default", index.id, (1, 2), refuse)
    assert stores.indexes.get("default", index.id) == index
    assert stores.erasures.erased("default", index.id) == ()


def test_very_many_rows_are_erased_at_once(stores):
    index = stores.built()
    assert stores.erasures.erase("default", index.id, tuple(range(0, 60_000, 2)), lambda *_: None).erased == 30_000
    assert stores.erasures.erase("default", index.id, tuple(range(30_000)), lambda *_: None).erased == 45_000
    assert stores.erasures.erased("default", index.id) == (*range(30_000), *range(30_000, 60_000, 2))


def test_an_alias_means_one_index_at_a_time(stores):
    first, second = stores.built(), stores.built()
    for index, time in ((first, NOW), (second, SOON)):
        alias = Alias("default", "live", index.name, time)
        assert stores.aliases.set(alias) == alias
        assert stores.aliases.get("default", "live") == alias
        assert stores.aliases.index("default", "live") == index
    assert stores.aliases.list("default", 9, None) == ((alias,), False)
    with pytest.raises(NotFound):
        stores.aliases.set(Alias("default", "live", f"indexes/{new_token()}", SOON))
    assert stores.aliases.delete("default", "live") == alias
    for gone in (stores.aliases.get, stores.aliases.index, stores.aliases.delete):
        with pytest.raises(NotFound):
            gone("default", "live")
    assert stores.indexes.get("default", second.id) == second


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_aliases_are_listed_by_name(stores, size):
    index = stores.built()
    for name in ("c", "a", "e", "b", "d"):
        stores.aliases.set(Alias("default", name, index.name, NOW))
    names, after, more = [], None, True
    while more:
        found, more = stores.aliases.list("default", size, after)
        names += [one.id for one in found]
        after = names[-1]
    assert names == ["a", "b", "c", "d", "e"]


def test_what_was_explained_from_last_comes_first(stores):
    made = [stores.built(tenant=tenant) for tenant in ("default", "other", "default", "default")]
    assert stores.recent.recent(9) == ()
    for seconds, index in enumerate((made[0], made[1], made[3], made[0])):
        stores.recent.touch(index.tenant, index.id, NOW + timedelta(seconds=seconds))
    stores.recent.touch("default", new_token(), SOON)
    assert stores.recent.recent(9) == (made[0], made[3], made[1])
    assert stores.recent.recent(2) == (made[0], made[3])
    stores.indexes.delete("default", made[0].id, lambda *_: None, SOON)
    assert stores.recent.recent(9) == (made[3], made[1])


def test_a_deleted_index_is_gone_with_all_that_it_had(stores):
    index, kept = stores.built(), stores.built()
    stores.erasures.erase("default", index.id, (1,), lambda *_: None)
    for name, meant in (("b", index), ("a", index), ("c", kept)):
        stores.aliases.set(Alias("default", name, meant.name, NOW))
    running = stores.extend(index)
    lease = stores.jobs.lease(NOW, SOON)
    assert lease.job.id == running.id
    told = []
    gone = stores.indexes.delete("default", index.id, lambda *told_: told.append(told_), SOON)
    assert told[0][0].id == index.id
    assert told[0][1] == gone.aliases == ("aliases/a", "aliases/b")
    assert [job.id for job in gone.index.jobs] == [index.jobs[0].id, running.id]
    assert [job.state for job in gone.index.jobs] == [JobState.SUCCEEDED, JobState.CANCELLED]
    for look_up in (
        lambda: stores.indexes.get("default", index.id),
        lambda: stores.indexes.delete("default", index.id, lambda *_: None, SOON),
        lambda: stores.jobs.get("default", running.id),
        lambda: stores.jobs.get("default", index.jobs[0].id),
        lambda: stores.aliases.get("default", "a"),
    ):
        with pytest.raises(NotFound):
            look_up()
    with pytest.raises(StaleLeaseError):
        stores.jobs.update("default", running.id, lambda job: job, token=lease.token)
    assert stores.erasures.erased("default", index.id) == ()
    assert stores.aliases.list("default", 9, None)[0] == (stores.aliases.get("default", "c"),)
    assert stores.indexes.list("default", 9, None).items == (kept,)
    assert [job.id for job in stores.jobs.list("default", 9, None).items] == [kept.jobs[0].id]
    assert stores.add().erased == 0


def test_a_refused_deletion_deletes_nothing(stores):
    index = stores.built()
    stores.aliases.set(Alias("default", "live", index.name, NOW))

    def refuse(*_):
        raise FailedPrecondition(Reason.RESOURCE_IN_USE, "no")

    assert refusal(lambda: stores.indexes.delete("default", index.id, refuse, SOON)) is Reason.RESOURCE_IN_USE
    assert stores.aliases.index("default", "live") == index


def test_what_an_index_is_made_of_is_in_use_by_it(stores):
    for name in (MODEL, TRAIN, MORE):
        stores.register(name)
    index = stores.built()
    job = stores.jobs.add("default", lambda: a_job(SelfInfluence(MODEL, TRAIN)), None)
    assert stores.users(MODEL) == stores.users(TRAIN) == sorted([index.name, job.name])
    extending = stores.extend(index)
    assert stores.users(MORE) == [index.name], "its jobs go with it, so it is what there is to delete"
    stores.end(extending)
    assert stores.users(MORE) == [index.name]
    stores.indexes.delete("default", index.id, lambda *_: None, SOON)
    told = []
    stores.delete_resource(MORE, lambda _, users: told.append(users))
    assert told == [()]


def test_an_extension_that_failed_needs_its_rows_no_more(stores):
    stores.register(MORE)
    index = stores.built()
    for state in (JobState.FAILED, JobState.CANCELLED):
        stores.end(stores.extend(index), state=state)
    told = []
    stores.delete_resource(MORE, lambda _, users: told.append(users))
    assert told == [()]
    assert stores.indexes.get("default", index.id).ready()


@pytest.mark.parametrize("name", [MODEL, TRAIN, MORE])
def test_an_index_whose_model_or_rows_are_deleted_all_the_same_can_only_be_deleted(stores, name):
    for resource in (MODEL, TRAIN, MORE):
        stores.register(resource)
    index, other = stores.built(), stores.built(spec=replace(SPEC, model="models/n/versions/1", train="datasets/o"))
    stores.end(stores.extend(index))
    changing = stores.compact(index)
    gone = stores.delete_resource(name)
    assert [job.id for job in gone.cancelled] == [changing.id]
    assert stores.jobs.get("default", changing.id).state is JobState.CANCELLED
    found = stores.indexes.get("default", index.id)
    assert (found.state, found.lost) == (IndexState.FAILED, (name,))
    assert found.etag != index.etag
    assert name in found.failure.message
    assert refusal(found.ready) is Reason.RESOURCE_NOT_READY
    stores.indexes.delete("default", index.id, lambda *_: None, SOON)
    assert stores.indexes.get("default", other.id).ready() == other


def test_an_index_that_is_being_built_of_what_is_deleted_is_not_built(stores):
    for resource in (MODEL, TRAIN):
        stores.register(resource)
    index = stores.add()
    assert [job.id for job in stores.delete_resource(MODEL).cancelled] == [index.jobs[0].id]
    assert stores.delete_resource(TRAIN).cancelled == ()
    assert stores.indexes.get("default", index.id).lost == (MODEL, TRAIN)


def test_rows_that_were_not_appended_yet_can_be_deleted_without_harm(stores):
    stores.register(MORE)
    index = stores.built()
    extending = stores.extend(index)
    assert [job.id for job in stores.delete_resource(MORE).cancelled] == [extending.id]
    assert stores.indexes.get("default", index.id).ready().lost == ()


def test_of_an_index_the_newest_files_are_referenced_only(stores):
    index, other = stores.built({"fit": DIGESTS[0], "shard-1": DIGESTS[1]}), stores.built({"fit": DIGESTS[2]})
    referenced = {("default", DIGESTS[number]) for number in (0, 1, 2)}
    assert stores.inventory.referenced() == referenced
    compacting = stores.compact(index)
    assert stores.inventory.referenced() == referenced
    stores.end(compacting, {"fit": DIGESTS[0], "shard-2": DIGESTS[3]})
    referenced = {("default", DIGESTS[number]) for number in (0, 2, 3)}
    assert stores.inventory.referenced() == referenced
    stores.end(stores.compact(index), state=JobState.FAILED)
    assert stores.inventory.referenced() == referenced
    stores.indexes.delete("default", other.id, lambda *_: None, SOON)
    assert stores.inventory.referenced() == referenced - {("default", DIGESTS[2])}


def test_the_inventory_knows_the_jobs_that_have_not_ended(stores):
    index = stores.built()
    other = stores.add(tenant="other")
    changing = stores.compact(index)
    assert stores.inventory.unfinished_jobs() == {changing.id, other.jobs[0].id}
    stores.jobs.lease(NOW, SOON)
    assert stores.inventory.unfinished_jobs() == {changing.id, other.jobs[0].id}
    stores.end(changing, state=JobState.CANCELLED)
    assert stores.inventory.unfinished_jobs() == {other.jobs[0].id}
