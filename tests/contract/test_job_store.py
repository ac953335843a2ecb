"""One suite for every JobStore, Registry, UploadStore and Inventory."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from undue_service.adapters.memory import MemoryInventory, MemoryJobStore, MemoryRegistry, MemoryUploadStore
from undue_service.adapters.sql.database import connect, migrate
from undue_service.adapters.sql.inventory import SqlInventory
from undue_service.adapters.sql.jobs import SqlJobStore
from undue_service.adapters.sql.registry import SqlRegistry
from undue_service.adapters.sql.uploads import SqlUploadStore
from undue_service.application.ports import StaleLeaseError
from undue_service.domain.errors import AlreadyExists, FailedPrecondition, NotFound, Reason
from undue_service.domain.influence import Influence
from undue_service.domain.jobs import Job, JobState, Progress
from undue_service.domain.names import new_token
from undue_service.domain.reports import DatasetReport
from undue_service.domain.resources import Registration, RequestKey, ResourceState, Upload
from undue_service.domain.retraining import Retrain
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import (
    ArraysSource,
    FileSource,
    LocatedFile,
    ModelSpec,
    ObjectiveSpec,
    SchemaSpec,
    TensorRef,
    UploadedFile,
)
from undue_service.domain.validations import DatasetValidation, ModelValidation

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SOON = NOW + timedelta(seconds=15)
DIGEST = "ab" * 32
ARRAYS = ArraysSource({"x": TensorRef("float32", (4, 2), DIGEST)}, targets=TensorRef("int64", (4,), DIGEST))
A, B = "datasets/a/versions/1", "datasets/b/versions/1"
REPORT = DatasetReport(4, (), None, has_ids=False, has_weights=False, digest=DIGEST)


class Stores:
    def __init__(self, jobs, registry, uploads, inventory):
        self.jobs, self.registry, self.uploads, self.inventory = jobs, registry, uploads, inventory


@pytest.fixture(params=["sqlite", "memory"])
def stores(request, tmp_path):
    if request.param == "memory":
        jobs, uploads = MemoryJobStore(), MemoryUploadStore()
        registry = MemoryRegistry(jobs)
        yield Stores(jobs, registry, uploads, MemoryInventory(jobs, registry, uploads))
        return
    engine = connect(f"sqlite:///{tmp_path / 'undue.sqlite3'}")
    migrate(engine)
    yield Stores(SqlJobStore(engine), SqlRegistry(engine), SqlUploadStore(engine), SqlInventory(engine))
    engine.dispose()


def a_job(tenant: str = "default", spec=None) -> Job:
    return Job(
        tenant, new_token(), spec or Influence("models/m", "datasets/a", "datasets/b", rows=(3, 1), damping=0.5), NOW
    )


def a_registration(stores, resource_id="d", tenant="default", request=None, spec=ARRAYS) -> Registration:
    collection = "models" if isinstance(spec, ModelSpec) else "datasets"

    def make(version):
        name = f"{collection}/{resource_id}/versions/{version}"
        check = ModelValidation(name) if collection == "models" else DatasetValidation(name)
        return Registration(tenant, collection, resource_id, version, spec, a_job(tenant, check), NOW)

    return stores.registry.add(make, tenant, collection, resource_id, request)


def test_a_job_comes_back_as_it_went_in(stores):
    job = stores.jobs.add("default", a_job, None)
    assert stores.jobs.get("default", job.id) == job


def test_the_state_alone(stores):
    job = stores.jobs.add("default", a_job, None)
    assert stores.jobs.state("default", job.id) is JobState.QUEUED
    stores.jobs.lease(NOW, SOON)
    assert stores.jobs.state("default", job.id) is JobState.RUNNING
    for tenant, job_id in (("other", job.id), ("default", new_token())):
        with pytest.raises(NotFound):
            stores.jobs.state(tenant, job_id)


def test_another_tenant_sees_nothing(stores):
    job = stores.jobs.add("default", a_job, None)
    made = a_registration(stores)
    upload = stores.uploads.add(Upload("default", new_token(), 3, DIGEST, NOW), None)
    for look_up in (
        lambda: stores.jobs.get("other", job.id),
        lambda: stores.jobs.update("other", job.id, lambda job: job.cancel(NOW)),
        lambda: stores.registry.get("other", "datasets", made.id, 1),
        lambda: stores.uploads.get("other", upload.id),
    ):
        with pytest.raises(NotFound) as caught:
            look_up()
        assert caught.value.reason is Reason.RESOURCE_NOT_FOUND
    assert stores.jobs.list("other", 10, None).items == ()
    assert stores.registry.list("other", "datasets", None, 10, None).items == ()


def test_jobs_are_leased_oldest_first_and_each_once(stores):
    added = [stores.jobs.add("default", a_job, None) for _ in range(3)]
    leases = [stores.jobs.lease(NOW, SOON) for _ in range(4)]
    assert [lease and lease.job.id for lease in leases] == [job.id for job in added] + [None]
    assert all(lease.job.state is JobState.RUNNING and lease.job.attempt == 1 for lease in leases[:3])


def test_a_lease_that_ran_out_goes_to_another_and_fences_the_first_off(stores):
    stores.jobs.add("default", a_job, None)
    first = stores.jobs.lease(NOW, SOON)
    assert stores.jobs.lease(SOON - timedelta(seconds=1), SOON) is None
    second = stores.jobs.lease(SOON + timedelta(seconds=1), SOON + timedelta(seconds=16))
    assert second.job.id == first.job.id
    assert second.token > first.token
    assert second.job.attempt == 2
    with pytest.raises(StaleLeaseError):
        stores.jobs.update("default", first.job.id, lambda job: job.succeed(NOW, REPORT, {}), token=first.token)
    done = stores.jobs.update(
        "default", first.job.id, lambda job: job.succeed(NOW, REPORT, {"r": DIGEST}), token=second.token
    )
    assert stores.jobs.get("default", first.job.id) == done
    assert done.report == REPORT


def test_renewing_keeps_the_lease(stores):
    stores.jobs.add("default", a_job, None)
    lease = stores.jobs.lease(NOW, SOON)
    later = SOON + timedelta(seconds=15)
    stores.jobs.update(
        "default", lease.job.id, lambda job: job.advance(Progress("x", 1, 2)), token=lease.token, until=later
    )
    assert stores.jobs.lease(SOON + timedelta(seconds=1), later) is None
    assert stores.jobs.get("default", lease.job.id).progress == Progress("x", 1, 2)


def test_a_cancelled_job_takes_no_result(stores):
    stores.jobs.add("default", a_job, None)
    lease = stores.jobs.lease(NOW, SOON)
    stores.jobs.update("default", lease.job.id, lambda job: job.cancel(NOW))
    with pytest.raises(StaleLeaseError):
        stores.jobs.update("default", lease.job.id, lambda job: job.succeed(NOW, REPORT, {}), token=lease.token)
    assert stores.jobs.get("default", lease.job.id).state is JobState.CANCELLED


def test_a_change_that_is_refused_changes_nothing(stores):
    job = stores.jobs.add("default", a_job, None)
    with pytest.raises(FailedPrecondition):
        stores.jobs.update("default", job.id, lambda job: job.succeed(NOW, REPORT, {}))
    assert stores.jobs.get("default", job.id) == job


def test_a_repeated_request_makes_one_resource_and_another_body_is_refused(stores):
    key, other = (
        RequestKey("6f0c8f1e-0000-4000-8000-000000000000", "a"),
        RequestKey("6f0c8f1e-0000-4000-8000-000000000000", "b"),
    )
    first = stores.jobs.add("default", a_job, key)
    assert stores.jobs.add("default", lambda: pytest.fail("nothing new is made"), key) == first
    with pytest.raises(AlreadyExists) as caught:
        stores.jobs.add("default", a_job, other)
    assert caught.value.reason is Reason.REQUEST_ID_REUSED
    assert len(stores.jobs.list("default", 10, None).items) == 1


def test_a_repeated_registration_is_the_same_version(stores):
    key = RequestKey("6f0c8f1e-0000-4000-8000-000000000001", "a")
    first = a_registration(stores, request=key)
    assert a_registration(stores, request=key) == first
    assert a_registration(stores).version == 2


def test_a_repeated_upload_is_the_same_upload(stores):
    key = RequestKey("6f0c8f1e-0000-4000-8000-000000000002", "a")
    first = stores.uploads.add(Upload("default", new_token(), 3, DIGEST, NOW), key)
    assert stores.uploads.add(Upload("default", new_token(), 3, DIGEST, NOW), key) == first
    assert stores.uploads.finish("default", first.id).finished
    assert stores.uploads.get("default", first.id).finished


def test_versions_count_up_and_the_newest_is_the_default(stores):
    made = [a_registration(stores) for _ in range(3)]
    assert [one.version for one in made] == [1, 2, 3]
    assert stores.registry.get("default", "datasets", "d", None) == made[2]
    assert stores.registry.get("default", "datasets", "d", 2) == made[1]
    with pytest.raises(NotFound):
        stores.registry.get("default", "datasets", "d", 4)
    with pytest.raises(NotFound):
        stores.registry.get("default", "models", "d", 1)


@pytest.mark.parametrize(
    "spec",
    [
        ARRAYS,
        FileSource("npz", (UploadedFile("x.npz", DIGEST),), SchemaSpec({"": ("a", "b")}, target="y")),
        ModelSpec(
            "onnx", DIGEST, ObjectiveSpec("cross_entropy", 1e-3, ("*bias*",)), ("fc*",), sample="datasets/d/versions/1"
        ),
    ],
    ids=["arrays", "file", "model"],
)
def test_a_registration_comes_back_as_it_went_in(stores, spec):
    made = a_registration(stores, spec=spec)
    assert stores.registry.get("default", made.collection, made.id, None) == made


def test_a_registration_is_as_far_as_its_validation(stores):
    made = a_registration(stores)
    assert made.state is ResourceState.VALIDATING
    lease = stores.jobs.lease(NOW, SOON)
    assert lease.job.id == made.validation.id
    stores.jobs.update("default", lease.job.id, lambda job: job.succeed(NOW, REPORT, {}), token=lease.token)
    ready = stores.registry.get("default", "datasets", "d", 1)
    assert ready.state is ResourceState.READY
    assert ready.report == REPORT


def test_a_page_of_long_jobs_is_short_and_still_all_come(stores):
    long = Retrain("models/m", A, B, without=(tuple(range(100_000)),))
    jobs = [stores.jobs.add("default", lambda: a_job(spec=long), None) for _ in range(5)]
    first = stores.jobs.list("default", 100, None)
    assert 1 <= len(first.items) <= 5
    assert [job.id for job in _all(lambda before: stores.jobs.list("default", 100, before))] == [
        job.id for job in reversed(jobs)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pages_hold_everything_once_newest_first(stores, size):
    jobs = [stores.jobs.add("default", a_job, None).id for _ in range(7)]
    versions = [a_registration(stores, name).name for name in ("a", "b", "a", "c", "a")]
    # Validation jobs are jobs too.
    assert [job.id for job in _all(lambda before: stores.jobs.list("default", size, before))][5:] == jobs[::-1]
    assert [
        one.name for one in _all(lambda before: stores.registry.list("default", "datasets", None, size, before))
    ] == versions[::-1]
    only = _all(lambda before: stores.registry.list("default", "datasets", "a", size, before))
    assert [one.version for one in only] == [3, 2, 1]


def test_threads_never_get_the_same_version_or_the_same_lease(stores):
    found, leased, lock = [], [], threading.Lock()

    def work():
        for _ in range(5):
            made = a_registration(stores)
            lease = stores.jobs.lease(NOW, SOON)
            with lock:
                found.append(made.version)
                leased.append(lease.job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 21))
    assert len(set(leased)) == 20


def test_a_deleted_version_is_gone_and_its_number_is_never_given_again(stores):
    made = [a_registration(stores) for _ in range(3)]
    gone = stores.registry.delete("default", "datasets", "d", 3, lambda *_: None, NOW)
    assert gone.registrations == (made[2],)
    assert gone.cancelled == ()
    assert stores.registry.get("default", "datasets", "d", None) == made[1]
    for look_up in (
        lambda: stores.registry.get("default", "datasets", "d", 3),
        lambda: stores.registry.delete("default", "datasets", "d", 3, lambda *_: None, NOW),
        lambda: stores.registry.delete("other", "datasets", "d", 2, lambda *_: None, NOW),
        lambda: stores.registry.delete("default", "models", "d", 2, lambda *_: None, NOW),
        lambda: stores.jobs.get("default", made[2].validation.id),
    ):
        with pytest.raises(NotFound):
            look_up()
    assert a_registration(stores).version == 4
    found = _all(lambda before: stores.registry.list("default", "datasets", None, 2, before))
    assert [one.version for one in found] == [4, 2, 1]


def test_without_a_version_all_go(stores):
    made = tuple(a_registration(stores) for _ in range(2))
    kept = a_registration(stores, "e")
    assert stores.registry.delete("default", "datasets", "d", None, lambda *_: None, NOW).registrations == made
    assert stores.registry.list("default", "datasets", None, 9, None).items == (kept,)
    assert stores.jobs.lease(NOW, SOON).job == kept.validation.start(NOW)


def test_a_refused_deletion_deletes_nothing(stores):
    made = a_registration(stores)
    job = stores.jobs.add("default", a_job, None)

    def refuse(*_):
        raise FailedPrecondition(Reason.RESOURCE_IN_USE, "no")

    with pytest.raises(FailedPrecondition):
        stores.registry.delete("default", "datasets", "d", 1, refuse, NOW)
    with pytest.raises(FailedPrecondition):
        stores.jobs.delete("default", job.id, refuse)
    assert stores.registry.get("default", "datasets", "d", 1) == made
    assert stores.jobs.get("default", job.id) == job


def test_a_deletion_is_told_who_names_it_and_cancels_who_has_not_ended(stores):
    for name in ("a", "b"):
        a_registration(stores, name)
    model = a_registration(stores, "m", spec=ModelSpec("onnx", DIGEST, ObjectiveSpec("cross_entropy"), sample=A))
    spec = Influence("models/m/versions/1", A, B)
    waiting, ended = (stores.jobs.add("default", lambda: a_job(spec=spec), None) for _ in range(2))
    other = stores.jobs.add("default", lambda: a_job(spec=SelfInfluence("models/m/versions/1", B)), None)
    ended = stores.jobs.update("default", ended.id, lambda job: job.cancel(NOW))
    told = []
    gone = stores.registry.delete("default", "datasets", "a", 1, lambda found, users: told.extend(users), SOON)
    assert told == sorted([waiting.name, ended.name, model.name])
    assert gone.cancelled == (waiting.cancel(SOON),)
    assert stores.jobs.get("default", waiting.id) == waiting.cancel(SOON)
    assert stores.jobs.get("default", ended.id) == ended
    assert stores.jobs.get("default", other.id) == other


def test_who_is_deleted_names_nothing_any_more(stores):
    a_registration(stores, "a")
    a_registration(stores, "m", spec=ModelSpec("onnx", DIGEST, ObjectiveSpec("cross_entropy"), sample=A))
    job = stores.jobs.add("default", lambda: a_job(spec=SelfInfluence("models/m/versions/1", A)), None)
    stores.jobs.delete("default", job.id, lambda _: None)
    told = []
    stores.registry.delete("default", "models", "m", None, lambda _, users: told.append(users), SOON)
    stores.registry.delete("default", "datasets", "a", None, lambda _, users: told.append(users), SOON)
    assert told == [(), ()]


def test_a_deleted_job_is_gone_and_what_still_worked_on_it_is_told(stores):
    first, second = (stores.jobs.add("default", a_job, None) for _ in range(2))
    lease = stores.jobs.lease(NOW, SOON)
    assert stores.jobs.delete("default", first.id, lambda _: None) == lease.job
    with pytest.raises(NotFound):
        stores.jobs.delete("default", first.id, lambda _: None)
    with pytest.raises(NotFound):
        stores.jobs.delete("other", second.id, lambda _: None)
    with pytest.raises(StaleLeaseError):
        stores.jobs.update("default", first.id, lambda job: job.succeed(NOW, REPORT, {}), token=lease.token)
    assert stores.jobs.list("default", 9, None).items == (second,)


def test_a_request_whose_resource_was_deleted_makes_no_other(stores):
    key = RequestKey("6f0c8f1e-0000-4000-8000-000000000003", "a")
    other = RequestKey("6f0c8f1e-0000-4000-8000-000000000004", "a")
    a_registration(stores, request=key)
    job = stores.jobs.add("default", a_job, other)
    stores.registry.delete("default", "datasets", "d", None, lambda *_: None, NOW)
    stores.jobs.delete("default", job.id, lambda _: None)
    with pytest.raises(NotFound):
        a_registration(stores, request=key)
    with pytest.raises(NotFound):
        stores.jobs.add("default", a_job, other)


def test_pages_go_on_where_they_were_when_something_is_deleted(stores):
    jobs = [stores.jobs.add("default", a_job, None) for _ in range(5)]
    page = stores.jobs.list("default", 2, None)
    stores.jobs.delete("default", jobs[4].id, lambda _: None)
    stores.jobs.delete("default", jobs[2].id, lambda _: None)
    rest = stores.jobs.list("default", 5, page.next_before)
    assert rest.items == (jobs[1], jobs[0])


def succeed(stores, results):
    lease = stores.jobs.lease(NOW, SOON)
    stores.jobs.update(lease.job.tenant, lease.job.id, lambda job: job.succeed(NOW, REPORT, results), token=lease.token)


def test_the_inventory_knows_every_reference_of_every_tenant(stores):
    assert stores.inventory.referenced() == set()
    names = [f"{number:02d}" * 32 for number in range(12)]
    arrays = ArraysSource(
        {"x": TensorRef("int8", (1,), names[0]), "z": TensorRef("int8", (1,), names[1])},
        *(TensorRef("int8", (1,), name) for name in names[2:5]),
    )
    a_registration(stores, spec=arrays)
    a_registration(stores, spec=FileSource("npz", (UploadedFile("x.npz", names[5]),), SchemaSpec({"": ("a",)})))
    a_registration(stores, spec=ModelSpec("onnx", names[6], ObjectiveSpec("cross_entropy")), tenant="other")
    for number, finished in ((7, False), (8, True)):
        stores.uploads.add(Upload("default", new_token(), 1, names[number], NOW, finished), None)
    for _ in range(3):
        succeed(stores, {})
    stores.jobs.add("other", lambda: a_job("other"), None)
    stores.jobs.add("default", a_job, None)
    succeed(stores, {"explanations": names[9], "scores": names[10]})
    mine = {("default", name) for name in (*names[:6], *names[7:9])}
    assert stores.inventory.referenced() == mine | {("other", name) for name in (names[6], *names[9:11])}


def test_what_a_deleted_version_was_made_of_is_referenced_as_long_as_another_version_is_made_of_it(stores):
    one, two = ("1" * 64, "2" * 64)
    lying = FileSource("csv", (LocatedFile("a.csv", "/data/a.csv", 1, 2, 3, 4),), SchemaSpec({"x": ("a",)}))
    both = ArraysSource({"x": TensorRef("int8", (1,), one), "y": TensorRef("int8", (1,), one)})
    both.inputs["z"] = TensorRef("int8", (1,), two)
    for spec in (both, lying, FileSource("npz", (UploadedFile("x.npz", one),), SchemaSpec({"": ("a",)}))):
        a_registration(stores, spec=spec)
    assert stores.inventory.referenced() == {("default", one), ("default", two)}
    stores.registry.delete("default", "datasets", "d", 1, lambda *_: None, NOW)
    assert stores.inventory.referenced() == {("default", one)}
    stores.registry.delete("default", "datasets", "d", None, lambda *_: None, NOW)
    assert stores.inventory.referenced() == set()
    a_registration(stores, spec=both)
    assert stores.inventory.referenced() == {("default", one), ("default", two)}


def test_many_files_are_given_to_those_who_ask_for_them(stores):
    schema, files = SchemaSpec({"x": ("image",)}), (LocatedFile("a/ä.png", "/data/a/ä.png", 1, 2, 3, 4),) * 2
    images = FileSource("image_folder", files, schema, "file:///data")
    key = RequestKey("6f0c8f1e-0000-4000-8000-000000000003", "a")
    assert a_registration(stores, spec=images, request=key).spec == images
    found = [stores.registry.get("default", "datasets", "d", 1), a_registration(stores, spec=images, request=key)]
    found += stores.registry.list("default", "datasets", None, 9, None).items
    assert [one.spec for one in found] == [replace(images, files=())] * 3
    assert stores.registry.files("default", "d", 1) == files
    a_registration(stores, spec=replace(images, format="csv"))
    assert stores.registry.get("default", "datasets", "d", None).spec.files == files
    a_registration(stores)
    assert [stores.registry.files("default", "d", version) for version in (2, 3)] == [(), ()]
    stores.registry.delete("default", "datasets", "d", 1, lambda *_: None, NOW)
    for tenant, version in (("default", 1), ("other", 2), ("default", 4)):
        with pytest.raises(NotFound):
            stores.registry.files(tenant, "d", version)


def test_a_dropped_upload_is_gone_and_its_request_makes_a_new_one(stores):
    key = RequestKey("6f0c8f1e-0000-4000-8000-000000000003", "a")
    first, other = (
        stores.uploads.add(Upload("default", new_token(), 3, DIGEST, NOW), one)
        for one in (key, RequestKey("6f0c8f1e-0000-4000-8000-000000000004", "a"))
    )
    assert set(stores.inventory.uploads()) == {first, other}
    stores.inventory.drop_upload("other", first.id)
    assert set(stores.inventory.uploads()) == {first, other}
    for _ in range(2):
        stores.inventory.drop_upload("default", first.id)
        assert stores.inventory.uploads() == (other,)
    with pytest.raises(NotFound):
        stores.uploads.get("default", first.id)
    with pytest.raises(NotFound):
        stores.uploads.finish("default", first.id)
    again = stores.uploads.add(Upload("default", new_token(), 3, DIGEST, NOW), key)
    assert again.id != first.id
    assert stores.uploads.get("default", again.id) == again


def test_old_requests_are_forgotten(stores):
    keys = [RequestKey(f"6f0c8f1e-0000-4000-8000-00000000000{n}", "a") for n in (5, 6, 7)]

    def make():
        stores.jobs.add("default", a_job, keys[0])
        a_registration(stores, request=keys[1])
        stores.uploads.add(Upload("default", new_token(), 3, DIGEST, NOW), keys[2])

    def count():
        return (
            len(stores.jobs.list("default", 100, None).items),
            len(stores.registry.list("default", "datasets", None, 100, None).items),
            len(stores.inventory.uploads()),
        )

    make()
    assert stores.inventory.drop_requests(datetime.now(UTC) - timedelta(minutes=1)) == 0
    make()
    assert count() == (2, 1, 1)
    assert stores.inventory.drop_requests(datetime.now(UTC) + timedelta(minutes=1)) == 3
    make()
    assert count() == (4, 2, 2)


def _all(fetch):
    items, before = [], None
    while True:
        page = fetch(before)
        items += page.items
        before = page.next_before
        if before is None:
            return items
