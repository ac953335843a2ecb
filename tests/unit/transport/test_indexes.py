"""IndexService over gRPC, but for Explain: a real server, with the stores in memory behind it."""

import asyncio
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from undue.v1 import errors_pb2, indexes_pb2, jobs_pb2
from undue.v1.indexes_pb2_grpc import IndexServiceStub
from undue.v1.jobs_pb2_grpc import JobServiceStub
from undue_service.adapters.memory import NoMetrics
from undue_service.application.jobs import Jobs
from undue_service.transport.server import start_server
from unit.application.indexing import Bench

FILES = {"manifest": b"the manifest", "fit": b"the fit", "shard-0": b"rows"}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr("undue_service.transport.servicers.indexes.tenant", lambda _: "t")
    monkeypatch.setattr("undue_service.transport.servicers.jobs.tenant", lambda _: "t")
    return Bench(tmp_path)


def talk(bench, story):
    jobs = Jobs(bench.jobs, bench.registrations, SimpleNamespace(queued=lambda: None), bench.metrics, bench.clock)
    cases = SimpleNamespace(
        indexes=bench.indexes,
        jobs=jobs,
        deletions=bench.deletions,
        registrations=bench.registrations,
        uploads=bench.uploads,
        results=None,
        perturbations=None,
        instances=None,
        explainer=None,
        pool=None,
    )

    async def main():
        server, address = await start_server(cases, NoMetrics(), "127.0.0.1:0", with_reflection=True)
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                await story(IndexServiceStub(channel), JobServiceStub(channel))
        finally:
            await server.stop(None)

    asyncio.run(main())


async def refused(call, code, reason):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    for one in status_pb2.Status.FromString(details).details:
        if one.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            one.Unpack(info)
    assert info.reason == reason
    assert f"ERROR_REASON_{reason}" in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
    return caught.value


def asked(**settings):
    return indexes_pb2.Index(**{"model": "models/m", "train": "datasets/train"} | settings)


def test_an_index_is_made_looked_up_changed_and_deleted(bench):
    async def story(indexes, jobs):
        request = indexes_pb2.CreateIndexRequest(index=asked(damping=0.0, parameters=["w"], seed=5))
        made = await indexes.CreateIndex(request)
        assert made.state == indexes_pb2.Index.STATE_BUILDING
        assert (made.model, made.train, made.method) == ("models/m/versions/1", "datasets/train/versions/1", "ekfac")
        assert (made.HasField("damping"), made.damping, list(made.parameters), made.seed) == (True, 0.0, ["w"], 5)
        assert not made.HasField("leverage_correction")
        assert not made.HasField("report")
        job = await jobs.GetJob(jobs_pb2.GetJobRequest(name=made.job))
        assert job.index_build.index == made.name
        bench.succeed(bench.jobs.get("t", job.name.removeprefix("jobs/")), FILES)
        job = await jobs.GetJob(jobs_pb2.GetJobRequest(name=made.job))
        assert job.diagnostics.method == "ekfac"

        ready = await indexes.GetIndex(indexes_pb2.GetIndexRequest(name=made.name))
        assert ready.state == indexes_pb2.Index.STATE_READY
        assert (ready.report.rows, ready.report.recall, ready.report.staleness) == (4, 0.999, 0.25)
        assert ready.report.diagnostics.damping == 0.1
        assert ready.etag != made.etag

        alias = indexes_pb2.Alias(name="aliases/live", index=made.name)
        assert (await indexes.SetAlias(indexes_pb2.SetAliasRequest(alias=alias))).HasField("update_time")
        by_alias = await indexes.GetIndex(indexes_pb2.GetIndexRequest(name="aliases/live"))
        assert by_alias == ready
        assert (await indexes.GetAlias(indexes_pb2.GetAliasRequest(name="aliases/live"))).index == made.name

        extend = indexes_pb2.ExtendIndexRequest(name=made.name, dataset="datasets/more")
        job = await indexes.ExtendIndex(extend)
        assert (job.index_extend.index, job.index_extend.dataset) == (made.name, "datasets/more/versions/1")
        await refused(indexes.ExtendIndex(extend), grpc.StatusCode.FAILED_PRECONDITION, "INDEX_BUSY")
        bench.succeed(bench.jobs.get("t", job.name.removeprefix("jobs/")), FILES)
        erased = await indexes.EraseRows(indexes_pb2.EraseRowsRequest(name=made.name, rows=[0, 5]))
        assert (erased.erased_rows, len(erased.datasets), erased.job) == (2, 2, job.name)
        wrong = indexes.EraseRows(indexes_pb2.EraseRowsRequest(name=made.name, rows=[6]))
        await refused(wrong, grpc.StatusCode.INVALID_ARGUMENT, "ROW_OUT_OF_RANGE")
        job = await indexes.CompactIndex(indexes_pb2.CompactIndexRequest(name=made.name))
        assert job.index_compact.index == made.name

        delete = indexes_pb2.DeleteIndexRequest(name=made.name, etag=erased.etag, force=True)
        await refused(indexes.DeleteIndex(delete), grpc.StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH")
        delete = indexes_pb2.DeleteIndexRequest(name=made.name)
        await refused(indexes.DeleteIndex(delete), grpc.StatusCode.FAILED_PRECONDITION, "RESOURCE_IN_USE")
        await indexes.DeleteIndex(indexes_pb2.DeleteIndexRequest(name=made.name, force=True))
        for name in (made.name, "aliases/live"):
            gone = indexes.GetIndex(indexes_pb2.GetIndexRequest(name=name))
            await refused(gone, grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")

    talk(bench, story)


def test_pages_go_on_where_the_last_one_ended(bench):
    async def story(indexes, _):
        made = [bench.built().name for _ in range(5)]
        for name in ("c", "a", "e", "b", "d"):
            alias = indexes_pb2.Alias(name=f"aliases/{name}", index=made[0])
            await indexes.SetAlias(indexes_pb2.SetAliasRequest(alias=alias))
        found, names, token = [], [], ""
        while True:
            page = await indexes.ListIndexes(indexes_pb2.ListIndexesRequest(page_size=2, page_token=token))
            found += [one.name for one in page.indexes]
            token = page.next_page_token
            if not token:
                break
        assert found == made[::-1]
        while True:
            page = await indexes.ListAliases(indexes_pb2.ListAliasesRequest(page_size=2, page_token=token))
            names += [one.name for one in page.aliases]
            token = page.next_page_token
            if not token:
                break
        assert names == [f"aliases/{name}" for name in "abcde"]
        first = await indexes.ListAliases(indexes_pb2.ListAliasesRequest(page_size=2))
        for other in (
            indexes.ListIndexes(indexes_pb2.ListIndexesRequest(page_token=first.next_page_token)),
            indexes.ListAliases(indexes_pb2.ListAliasesRequest(page_token="YWxpYXNlcyDvv70=")),
        ):
            await refused(other, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")

    talk(bench, story)


def test_a_request_that_is_repeated_gives_the_same(bench):
    async def story(indexes, _):
        request_id = "6f0c8f1e-0000-4000-8000-000000000003"
        request = indexes_pb2.CreateIndexRequest(index=asked(), request_id=request_id)
        first, again = [await indexes.CreateIndex(request) for _ in range(2)]
        assert first == again
        other = indexes_pb2.CreateIndexRequest(index=asked(seed=1), request_id=request_id)
        await refused(indexes.CreateIndex(other), grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        name = bench.built().name
        ids = [request_id.replace("3", digit) for digit in "45"]
        for call, repeated in (
            (
                indexes.ExtendIndex,
                indexes_pb2.ExtendIndexRequest(name=name, dataset="datasets/more", request_id=ids[0]),
            ),
            (indexes.CompactIndex, indexes_pb2.CompactIndexRequest(name=name, request_id=ids[1])),
        ):
            jobs = [await call(repeated) for _ in range(2)]
            assert jobs[0].name == jobs[1].name
            bench.succeed(bench.jobs.get("t", jobs[0].name.removeprefix("jobs/")), FILES)

    talk(bench, story)


def test_an_estimate_builds_nothing(bench):
    async def story(indexes, _):
        estimated = await indexes.CreateIndex(indexes_pb2.CreateIndexRequest(index=asked(), validate_only=True))
        assert (estimated.name, estimated.method) == ("", "ekfac")
        assert estimated.estimate.rows == 4
        assert estimated.estimate.seconds > 0
        assert len((await indexes.ListIndexes(indexes_pb2.ListIndexesRequest())).indexes) == 0

    talk(bench, story)


def test_what_a_request_breaks_is_said_by_its_field(bench):
    async def story(indexes, jobs):
        code = grpc.StatusCode.INVALID_ARGUMENT
        for reason, call in (
            ("INVALID_FIELD", indexes.CreateIndex(indexes_pb2.CreateIndexRequest(index=asked(model="")))),
            ("INVALID_FIELD", indexes.CreateIndex(indexes_pb2.CreateIndexRequest(index=asked(method="trak")))),
            ("METHOD_UNKNOWN", indexes.CreateIndex(indexes_pb2.CreateIndexRequest(index=asked(method="magic")))),
            ("INVALID_FIELD", indexes.CreateIndex(indexes_pb2.CreateIndexRequest(index=asked(damping=-1.0)))),
            ("INVALID_NAME", indexes.GetIndex(indexes_pb2.GetIndexRequest(name="indexes/live"))),
            ("INVALID_FIELD", indexes.EraseRows(indexes_pb2.EraseRowsRequest(name=f"indexes/{'0' * 32}"))),
            (
                "INVALID_NAME",
                indexes.SetAlias(
                    indexes_pb2.SetAliasRequest(alias=indexes_pb2.Alias(name="live", index=f"indexes/{'0' * 32}"))
                ),
            ),
        ):
            await refused(call, code, reason)
        spec = jobs_pb2.Job(index_build=jobs_pb2.IndexBuildSpec(index="indexes/x"))
        error = await refused(jobs.CreateJob(jobs_pb2.CreateJobRequest(job=spec)), code, "INVALID_FIELD")
        assert "CreateIndex" in error.details()

    talk(bench, story)


def test_a_deleted_model_is_said_by_the_index(bench):
    async def story(indexes, _):
        name = bench.built().name
        bench.deletions.registration("t", "models", "models/m", "", force=True)
        found = await indexes.GetIndex(indexes_pb2.GetIndexRequest(name=name))
        assert found.state == indexes_pb2.Index.STATE_FAILED
        assert "models/m/versions/1" in found.error.message

    talk(bench, story)
