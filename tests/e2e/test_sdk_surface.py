"""What a platform calls beside the scores: estimates, instances, streams, deletion, time limits."""

import asyncio
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import torch

import undue
from conftest import fit_softmax
from undue.v1 import jobs_pb2, jobs_pb2_grpc


@pytest.fixture(scope="module")
def small(client):
    """Three blobs with ids and groups, and a softmax regression on them."""
    rng = np.random.default_rng(5)
    y = np.arange(90) % 3
    X = rng.normal(size=(90, 4)) + 2 * np.eye(3, 4)[y]
    ids, sites = [f"row-{i}" for i in range(90)], np.where(y > 0, "north", "south")
    arrays = undue.Arrays(inputs=X, targets=y, ids=ids, weights=np.full(90, 2.0), groups={"site": sites})
    train = client.datasets.register("blobs", arrays)
    objective = undue.Objective("cross_entropy", l2=1e-2)
    net = fit_softmax(X, y, 5e-3, 3)  # every weight is 2, so this is the minimum of the objective at l2 = 1e-2
    model = client.models.register(
        "blobs", net, objective=objective, sample=train, example_inputs=torch.as_tensor(X[:2])
    )
    assert model.report.stationarity.relative < 1e-6
    return SimpleNamespace(X=X, y=y, sites=sites, train=train, model=model)


def test_instances_come_on_demand(client, small):
    found = client.influence(small.model, train=small.train, test=small.train, rows=[7], top_k=3).result()
    [explanation] = found.explanations
    assert explanation.example.id == "row-7"
    for scored in (*explanation.helpful, *explanation.harmful):
        example = scored.example
        np.testing.assert_array_equal(example.input, small.X[scored.row])
        assert (example.row, example.id, example.target) == (scored.row, scored.id, scored.target)
        assert (example.weight, dict(example.groups)) == (2.0, {"site": small.sites[scored.row]})
        assert scored.example is example
    ranked = client.self_influence(small.model, train=small.train, top_k=1).result()
    assert ranked.examples[0].example.row == ranked.examples[0].row
    [one, other] = client.datasets.read(small.train, [89, 3])
    assert (one.row, other.row) == (89, 3)
    lanes = {runner.lane for runner in client.server_info().runners}
    assert lanes == {"batch", "serve"}


def test_instances_with_asyncio(client, small):
    async def ask():
        async with undue.AsyncClient(client.address) as connected:
            job = await connected.influence(small.model.name, train=small.train.name, test=small.train.name, rows=[1])
            found = await job.result()
            return await found.explanations[0].helpful[0].example

    assert asyncio.run(ask()).id.startswith("row-")


def test_many_instances_come_in_blocks_in_the_order_asked_for(client):
    images = np.random.default_rng(0).integers(0, 255, size=(1500, 3, 32, 32), dtype=np.uint8)
    data = client.datasets.register("images", undue.Arrays(inputs=images, targets=np.arange(1500) % 2))
    rows = np.random.default_rng(1).permutation(1500).tolist()
    found = client.datasets.read(data, rows)
    assert [one.row for one in found] == rows
    assert all((one.input == images[one.row]).all() and one.input.dtype == np.uint8 for one in found)


def test_an_estimate_costs_nothing_and_checks_everything(client, small):
    before = [job.name for job in client.jobs.list()]
    few = client.estimate(small.model, train=small.train, test=small.train, rows=[0])
    many = client.estimate(small.model, train=small.train, test=small.train, rows=[0], method="cg")
    own = client.estimate(small.model, train=small.train)
    fits = client.estimate(small.model, train=small.train, test=small.train, without=[[i] for i in range(90)])
    assert few.rows == 91
    assert (own.rows, fits.rows) == (90, 180)
    assert all(0 < one.seconds < 60 and 1 << 26 < one.peak_bytes < 1 << 34 for one in (few, many, own, fits))
    with pytest.raises(undue.InvalidArgument) as caught:
        client.estimate(small.model, train=small.train, test=small.train, rows=[90])
    assert caught.value.reason == "ROW_OUT_OF_RANGE"
    assert [job.name for job in client.jobs.list()] == before


def test_a_result_as_a_stream_is_the_result_in_pages(client, small):
    influence = client.influence(small.model, train=small.train, test=small.train, top_k=2)
    ranking = client.self_influence(small.model, train=small.train)
    fits = client.retrain(small.model, train=small.train, test=small.train, rows=[0, 4], without=[[1], [2, 3]])
    explanations, examples = influence.result().explanations, ranking.result().examples
    counterfactuals = fits.result().counterfactuals
    with grpc.insecure_channel(client.address) as channel:
        jobs = jobs_pb2_grpc.JobServiceStub(channel)
        sent = list(jobs.ReadExplanations(jobs_pb2.ReadExplanationsRequest(name=influence.name)))
        assert [(one.row, one.helpful[0].score) for one in sent] == [
            (one.row, one.helpful[0].score) for one in explanations
        ]
        ranked = list(jobs.ReadSelfInfluences(jobs_pb2.ReadSelfInfluencesRequest(name=ranking.name)))
        assert [(one.row, one.score) for one in ranked] == [(one.row, one.score) for one in examples]
        measured = list(jobs.ReadCounterfactuals(jobs_pb2.ReadCounterfactualsRequest(name=fits.name)))
        assert [list(one.changes) for one in measured] == [list(one.changes) for one in counterfactuals]


def test_a_watch_says_once_what_was_asked(client, small):
    job = client.self_influence(small.model, train=small.train)
    with grpc.insecure_channel(client.address) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        sent = list(stub.WatchJob(jobs_pb2.WatchJobRequest(name=job.name)))
    assert len(sent) > 1  # it was queued, and then it had ended
    assert [message.HasField("self_influence") for message in sent] == [True] + [False] * (len(sent) - 1)
    *_, last = job.watch()
    assert last.state == "SUCCEEDED"
    assert job.spec["train"] == small.train.name


def test_the_service_says_what_each_method_takes(client):
    methods = {one.name: one for one in client.server_info().methods}
    exact, cg, tracin = methods["exact"], methods["cg"], methods["tracin"]
    assert (exact.parameter_limit, exact.has_leverage_correction, exact.rank) == (12_000, True, "")
    assert (cg.parameter_limit, cg.is_iterative, cg.uses_damping) == (None, True, True)
    assert (tracin.needs_checkpoints, tracin.scale, tracin.uses_damping) == (True, "relative", False)
    assert not methods["representation"].has_self_influence
    assert methods["gauss_newton"].rank
    assert methods["ekfac"].draws_at_random


def test_a_setting_that_a_method_lacks_is_refused_before_anything_runs(client, small):
    asked = {"train": small.train, "test": small.train}
    for settings, said in (
        ({"method": "exact", "rank": 2}, "truncates nothing"),
        ({"rank": 2}, "exact truncates nothing"),
        ({"method": "gauss_newton", "normalization": "loss"}, "one normalization only"),
        ({"parameters": ["body.*"]}, "there are weight, bias"),
    ):
        for ask in (client.influence, client.estimate):
            with pytest.raises(undue.InvalidArgument, match=said):
                ask(small.model, **asked, **settings)


def test_progress_has_a_rate(client, small):
    steps = list(client.self_influence(small.model, train=small.train).watch())
    assert all(step.rate >= 0 for step in steps)
    assert all(step.seconds_left is None for step in steps if step.rate == 0 or step.total == 0)


def test_a_job_past_its_limit_fails(client, small):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 400), torch.nn.Tanh(), torch.nn.Linear(400, 3)).double()
    objective = undue.Objective("cross_entropy", l2=1e-2)
    slow = client.models.register("slow", net, objective=objective, example_inputs=torch.zeros(2, 4).double())
    job = client.influence(slow, train=small.train, test=small.train, method="exact", damping=1.0, timeout_seconds=0.05)
    with pytest.raises(undue.JobFailed) as caught:
        job.result(timeout=60)
    assert caught.value.reason == "JOB_DEADLINE"


def test_what_is_deleted_is_named_first_and_gone_then(client):
    X, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    train = client.datasets.register("fleeting", undue.Arrays(inputs=X, targets=y))
    again = client.datasets.register("fleeting", undue.Arrays(inputs=X, targets=y))
    assert (train.version, again.version) == (1, 2)
    objective = undue.Objective("cross_entropy", l2=1e-2)
    net = fit_softmax(X, y, 1e-2, 2)
    model = client.models.register("fleeting", net, objective=objective, sample=train, example_inputs=X[:2])
    job = client.influence(model, train=train, test=train, rows=[0])
    found = job.result()
    with pytest.raises(undue.FailedPrecondition) as caught:
        client.datasets.delete(train)
    assert caught.value.reason == "RESOURCE_IN_USE"
    assert job.name in str(caught.value)
    assert model.name in str(caught.value)
    client.datasets.delete(again, etag=again.etag)  # nobody names that one
    client.datasets.delete(train, force=True)
    with pytest.raises(undue.NotFound):
        client.datasets.get(train.name)
    assert client.jobs.get(job.name).result().explanations == found.explanations  # what has ended stays
    with pytest.raises(undue.NotFound):
        _ = found.explanations[0].helpful[0].example
    client.jobs.delete(job)
    with pytest.raises(undue.NotFound):
        client.jobs.get(job.name)
    client.models.delete("fleeting")
    assert client.datasets.register("fleeting", undue.Arrays(inputs=X, targets=y)).version == 3
