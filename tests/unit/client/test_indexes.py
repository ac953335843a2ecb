"""Indexes and explanations from them: what is sent, and what is made of the answers."""

import asyncio
import time
import warnings

import grpc
import numpy as np
import pytest

import undue
from undue._questions import questions
from undue._tensors import decode
from undue.v1 import jobs_pb2
from unit.client.index_calls import tensor

KIB = 1 << 10


def sent(fake, kind):
    return [request for request in fake.requests if type(request).__name__ == f"{kind}Request"]


def test_a_build_sends_what_was_asked_and_ends_in_the_index(fake, client) -> None:
    job = client.indexes.build(
        "m",
        train="d",
        method="gauss_newton",
        damping=0.5,
        parameters=["fc.*"],
        leverage_correction=False,
        seed=np.int64(7),
    )
    assert isinstance(job, undue.IndexJob)
    assert (job.kind, job.spec["index"], job.state) == ("index_build", "indexes/made-1", "QUEUED")
    index = job.result()
    [asked] = sent(fake, "CreateIndex")
    assert (asked.index.model, asked.index.train, asked.index.method) == ("models/m", "datasets/d", "gauss_newton")
    assert (asked.index.damping, list(asked.index.parameters), asked.index.seed) == (0.5, ["fc.*"], 7)
    assert asked.index.HasField("leverage_correction")
    assert len(asked.request_id) == 36
    assert (index.name, index.state, index.method) == ("indexes/made-1", undue.IndexState.READY, "gauss_newton")
    assert (index.damping, index.parameters, index.leverage_correction, index.seed) == (0.5, ("fc.*",), False, 7)
    report = index.report
    assert (report.rows, report.bytes, report.bytes_per_row, report.resident_bytes) == (4, 4096, 1024, 8192)
    assert (report.recall, report.recall_queries, report.staleness) == (0.9995, 64, 0.0)
    assert report.diagnostics.damping == 0.25
    assert index.warnings == ("the fit is poor",)


def test_what_is_left_out_of_a_build_stays_unset(fake, client) -> None:
    client.indexes.build("m", train="d")
    [asked] = sent(fake, "CreateIndex")
    assert not any(asked.index.HasField(name) for name in ("damping", "leverage_correction"))
    assert (asked.index.method, list(asked.index.parameters), asked.index.seed) == ("", [], 0)
    assert client.indexes.get("indexes/held").damping is None
    assert client.indexes.get("indexes/held").leverage_correction is None


def test_a_build_whose_answer_was_lost_makes_one_index(fake, client) -> None:
    fake.unavailable["CreateIndex"] = 2
    assert client.indexes.build("m", train="d").result().name == "indexes/made-1"
    assert sorted(fake.indexes) == ["indexes/held", "indexes/made-1"]


def test_an_estimate_makes_nothing(fake, client) -> None:
    found = client.indexes.estimate("m", train="d", method="ekfac")
    assert (found.rows, found.peak_bytes, found.seconds) == (4, 1 << 20, 0.5)
    [asked] = sent(fake, "CreateIndex")
    assert asked.validate_only
    assert list(fake.indexes) == ["indexes/held"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"train": "models/m"}, "train"),
        ({"damping": -1}, "damping"),
        ({"parameters": "fc.*"}, "parameters"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_of_a_build_never_leave(fake, client, wrong, field) -> None:
    for call in (client.indexes.build, client.indexes.estimate):
        with pytest.raises(undue.InvalidArgument) as caught:
            call("m", **({"train": "d"} | wrong))
        assert caught.value.violations[0].field == field
    assert not fake.calls


def test_indexes_are_found_by_name_and_by_alias(fake, client) -> None:
    names = [client.indexes.get(name).name for name in ("indexes/held", "aliases/live", "live")]
    assert names == ["indexes/held"] * 3
    assert [request.name for request in sent(fake, "GetIndex")] == ["indexes/held", "aliases/live", "aliases/live"]
    client.indexes.build("m", train="d")
    assert [index.name for index in client.indexes.list()] == ["indexes/held", "indexes/made-1"]
    assert fake.calls["ListIndexes"] == 2
    client.indexes.delete(client.indexes.get("live"), force=True, etag="e1")
    [gone] = sent(fake, "DeleteIndex")
    assert (gone.name, gone.force, gone.etag) == ("indexes/held", True, "e1")
    assert "indexes/held" not in fake.indexes
    with pytest.raises(undue.NotFound):
        client.indexes.get("indexes/held")
    with pytest.raises(undue.InvalidArgument, match="neither with 'indexes/' nor with 'aliases/'"):
        client.indexes.get("models/m")


def test_a_failed_build_says_why(fake, client, status) -> None:
    fake.end_state = jobs_pb2.Job.STATE_FAILED
    fake.job_error = status(grpc.StatusCode.FAILED_PRECONDITION, "HESSIAN_SINGULAR", "use damping")
    with pytest.raises(undue.JobFailed, match="use damping") as caught:
        client.indexes.build("m", train="d").result()
    assert caught.value.reason == "HESSIAN_SINGULAR"
    broken = fake.indexes["indexes/held"]
    broken.state = broken.STATE_FAILED
    broken.error.CopyFrom(fake.job_error)
    [failed] = [index for index in client.indexes.list() if index.name == "indexes/held"]
    assert (failed.state, failed.failure.reason, failed.report) == ("FAILED", "HESSIAN_SINGULAR", None)


def test_rows_of_a_data_set_are_appended(fake, client) -> None:
    job = client.indexes.extend("indexes/held", rows="more")
    assert (job.kind, job.spec) == ("index_extend", {"index": "indexes/held", "dataset": "datasets/more"})
    assert job.result().datasets == ("datasets/d/versions/1", "datasets/more")
    assert fake.calls["CreateDataset"] == 0


def test_arrays_are_registered_before_they_are_appended(fake, client) -> None:
    index = client.indexes.extend("held", rows=undue.Arrays(np.zeros((4, 2)), targets=[0, 1, 0, 1])).result()
    assert sent(fake, "CreateDataset")[0].dataset_id == "index-held-rows"
    assert index.datasets[1] == "datasets/d/versions/1"  # whatever is registered, the service in memory calls it this
    assert [fake.calls[name] for name in ("CreateDataset", "DeleteDataset")] == [1, 0]


def test_arrays_of_an_extension_that_is_refused_go_again(fake, client) -> None:
    arrays = undue.Arrays(np.zeros((4, 2)), targets=[0, 1, 0, 1])
    with pytest.raises(undue.NotFound):
        client.indexes.extend("gone", rows=arrays)
    assert [request.name for request in sent(fake, "DeleteDataset")] == ["datasets/d/versions/1"]
    with pytest.raises(undue.FailedPrecondition):
        client.indexes.extend("held", rows="bad")  # whose own it is
    fake.unavailable["ExtendIndex"] = 100
    with pytest.raises(undue.Unavailable):
        client.indexes.extend("held", rows=arrays)  # it may have been queued
    assert fake.calls["DeleteDataset"] == 1


def test_a_stale_index_warns_when_it_is_changed(fake, client) -> None:
    fake.staleness = 0.0999
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.indexes.extend("held", rows="more").result()
    fake.staleness = 0.125
    with pytest.warns(undue.ModelWarning, match=r"indexes/held: .*staleness 0\.12: build it anew"):
        index = client.indexes.extend("held", rows="more").result()
    assert len(index.warnings) == 2
    assert "build it anew" in index.warnings[0]


def test_erased_rows_are_sent_in_parts_that_a_message_holds(fake, client) -> None:
    index = client.indexes.erase(client.indexes.get("live"), rows=np.arange(250_001))
    assert index.erased_rows == 250_001
    asked = sent(fake, "EraseRows")
    assert [len(request.rows) for request in asked] == [100_000, 100_000, 50_001]
    assert max(request.ByteSize() for request in asked) < 1 << 20
    assert [row for request in asked for row in request.rows] == list(range(250_001))
    for wrong in ([-1], 5, [0.5], [True, False], [2**63]):
        with pytest.raises(undue.InvalidArgument):
            client.indexes.erase("held", rows=wrong)
    with pytest.raises(undue.InvalidArgument, match="name the rows"):  # leaving them out erases nothing
        client.indexes.erase("held", rows=[])
    assert fake.calls["EraseRows"] == 3


def test_a_compaction_ends_in_the_index(fake, client) -> None:
    job = client.indexes.compact("held")
    assert (job.kind, job.result().name) == ("index_compact", "indexes/held")
    assert isinstance(client.jobs.get(job.name), undue.IndexJob)


def test_aliases(fake, client) -> None:
    made = client.indexes.build("m", train="d").result()
    set_one = client.indexes.set_alias("fraud-live", made)
    assert (set_one.name, set_one.index) == ("aliases/fraud-live", "indexes/made-1")
    assert [alias.name for alias in client.indexes.aliases()] == ["aliases/fraud-live", "aliases/live"]
    assert client.indexes.alias("fraud-live").index == "indexes/made-1"
    assert client.indexes.get("fraud-live").name == "indexes/made-1"
    client.indexes.delete_alias(set_one)
    with pytest.raises(undue.NotFound):
        client.indexes.alias("fraud-live")
    for wrong in (lambda: client.indexes.set_alias("indexes/held", made), lambda: client.indexes.set_alias("a", "x/y")):
        with pytest.raises(undue.InvalidArgument):
            wrong()


def test_a_row_is_explained(fake, client) -> None:
    x = np.arange(3, dtype=np.float32)[None]
    [one] = client.explain("live", inputs=x, targets=[3])
    assert (one.row, one.prediction, one.target, one.loss, one.recall) == (0, 3, 3, 0.5, 0.9995)
    [helpful], [harmful] = one.helpful, one.harmful
    assert (helpful.row, helpful.id, helpful.score, helpful.target, helpful.loss) == (1, "one", 0.5, 3, 0.1)
    assert (harmful.row, harmful.score) == (3, -0.75)
    [asked] = sent(fake, "Explain")
    assert (asked.index, asked.top_k, asked.exact, asked.without_instances) == ("aliases/live", 10, False, False)
    assert asked.measurement == jobs_pb2.MEASUREMENT_LOSS
    np.testing.assert_array_equal(decode(asked.inputs[""]), x)
    np.testing.assert_array_equal(decode(asked.targets), [3])


def test_the_instances_come_with_the_answer(fake, client) -> None:
    fake.indexes["indexes/held"].datasets.append("datasets/more/versions/2")
    x = np.arange(6, dtype=np.float64).reshape(2, 3)
    found = client.explain("live", inputs={"x": x}, targets=np.array([[0.5, 1.5], [2.5, 3.5]]))
    for place, one in enumerate(found):
        near, far = one.helpful[0].example, one.harmful[0].example
        assert (near.row, near.dataset, near.id, near.target) == (1, "datasets/d/versions/1", "one", 3)
        assert (far.row, far.dataset, far.id, far.target) == (3, "datasets/more/versions/2", "last", 5)
        assert (near.input.tolist(), far.input.tolist()) == ([1.0], [7.0])
        assert one.helpful[0].example is near
        np.testing.assert_array_equal(one.example.inputs["x"], x[place])
        np.testing.assert_array_equal(one.example.target, [[0.5, 1.5], [2.5, 3.5]][place])
        assert (one.example.row, one.example.dataset) == (place, "")
    assert dict(fake.calls) == {"Explain": 1}


def test_without_instances_they_are_read_from_the_data_set_that_each_lies_in(fake, client) -> None:
    fake.indexes["indexes/held"].datasets.append("datasets/more/versions/2")
    [one] = client.explain("live", inputs=[[1.0]], with_instances=False)
    assert sent(fake, "Explain")[0].without_instances
    assert dict(fake.calls) == {"Explain": 1}
    near, far = one.helpful[0].example, one.harmful[0].example
    assert (near.row, near.dataset, near.id) == (1, "datasets/d/versions/1", "row-1")
    assert (far.row, far.dataset, far.id) == (3, "datasets/more/versions/2", "row-3")  # 7 of the index
    assert one.harmful[0].example is far
    assert [fake.calls[name] for name in ("GetIndex", "GetDataset", "ReadRows")] == [1, 2, 2]


def test_what_is_asked_for_is_sent(fake, client) -> None:
    index = client.indexes.get("live")
    client.explain(index, inputs=[[1]], measurement="margin", top_k=np.int64(3), exact=True)
    [asked] = sent(fake, "Explain")
    assert (asked.index, asked.top_k, asked.exact) == ("indexes/held", 3, True)
    assert asked.measurement == jobs_pb2.MEASUREMENT_MARGIN
    assert not asked.HasField("targets")
    assert client.explain(client.indexes.alias("live"), inputs=[[1]], exact=True).recall == 1.0


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"index": "models/m"}, "index"),
        ({"index": None}, "index"),
        ({"inputs": 3.0}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": {"a": [[1]], "b": [[1], [2]]}}, "inputs['b']"),
        ({"inputs": np.zeros((0, 3))}, "inputs"),
        ({"inputs": [["a"]]}, "inputs"),
        ({"targets": [1, 2]}, "targets"),
        ({"targets": 1}, "targets"),
        ({"inputs": np.zeros((2, (4 << 20) + 1), np.uint8)}, "inputs"),
        ({"measurement": "vibes"}, "measurement"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": None}, "top_k"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_wrong_questions_never_leave(fake, client, wrong, field) -> None:
    arguments = {"index": "live", "inputs": [[1.0]]} | wrong
    with pytest.raises(undue.InvalidArgument) as caught:
        client.explain(arguments.pop("index"), **arguments)
    assert caught.value.violations[0].field == field
    assert not fake.calls


def test_more_rows_than_a_call_takes_go_in_several(fake, client) -> None:
    x = np.random.default_rng(0).normal(size=(600, 3))
    found = client.explain("live", inputs=x, targets=np.arange(600), top_k=1)
    asked = sent(fake, "Explain")
    assert [request.inputs[""].shape[0] for request in asked] == [256, 256, 88]
    np.testing.assert_array_equal(np.concatenate([decode(request.inputs[""]) for request in asked]), x)
    np.testing.assert_array_equal(np.concatenate([decode(request.targets) for request in asked]), np.arange(600))
    assert {request.top_k for request in asked} == {1}
    assert [one.row for one in found] == list(range(600))
    np.testing.assert_array_equal(found[300].example.input, x[300])
    assert found[599].example.target == 599


@pytest.mark.parametrize(
    ("rows", "row_bytes", "parts"),
    [
        (9, 512 * KIB, [8, 1]),
        (3, 4096 * KIB, [1, 1, 1]),
        (3, 4096 * KIB - 1, [1, 1, 1]),
        (256, 16 * KIB, [256]),
        (257, 16 * KIB, [256, 1]),
        (300, 1, [256, 44]),
        (2, 0, [2]),
    ],
)
def test_a_call_holds_256_rows_and_4_mebibytes(rows, row_bytes, parts) -> None:
    asked = list(questions({"a": np.zeros((rows, row_bytes), np.uint8)}, None))
    assert [one.inputs["a"].shape[0] for one in asked] == parts
    assert [one.first for one in asked] == np.cumsum([0, *parts[:-1]]).tolist()


def test_one_answer_comes_from_one_index_although_the_alias_moves_on(fake, client) -> None:
    made = client.indexes.build("m", train="d").result()
    fake.swapped = made.name
    found = client.explain("live", inputs=np.zeros((600, 1)))
    assert {one.index for one in found} == {"indexes/held"}
    assert [request.index for request in sent(fake, "Explain")] == ["aliases/live", "indexes/held", "indexes/held"]
    assert client.explain("live", inputs=[[0.0]]).index == "indexes/made-1"


def test_a_time_limit_holds_over_all_attempts(fake, client, monkeypatch) -> None:
    client.explain("live", inputs=[[1.0]], timeout=5.0)
    assert 3 < fake.seconds_left[0] <= 6
    client.explain("live", inputs=[[1.0]])
    assert 30 < fake.seconds_left[1] < 65
    fake.unavailable["Explain"] = 2
    client.explain("live", inputs=[[1.0]], timeout=5.0)
    assert fake.calls["Explain"] == 5
    fake.unavailable["Explain"] = 100
    monkeypatch.setattr("undue._sync.connection.CALL", undue._retry.Backoff(retries=100, first=0.2, longest=0.2))
    start = time.monotonic()
    with pytest.raises(undue.Unavailable):
        client.explain("live", inputs=[[1.0]], timeout=0.5)
    assert time.monotonic() - start < 1.5


def test_explanations_with_asyncio(fake) -> None:
    async def use() -> None:
        async with undue.AsyncClient(fake.address) as client:
            job = await client.indexes.build("m", train="d")
            index = await job.result()
            await client.indexes.set_alias("live", index)
            [one] = await client.explain("live", inputs=[[1.0]])
            near = await one.helpful[0].example
            assert (near.row, near.input.tolist()) == (1, [1.0])
            assert (await one.example).input.tolist() == [1.0]
            [other] = await client.explain("live", inputs=[[1.0]], with_instances=False)
            assert (await other.harmful[0].example).id == "row-3"
            assert [each.name async for each in client.indexes.list()] == ["indexes/held", "indexes/made-1"]
            assert [each.index async for each in client.indexes.aliases()] == ["indexes/made-1"]

    asyncio.run(use())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda block: block.rows.append(2),
        lambda block: block.rows.__setitem__(0, 2),
        lambda block: block.dataset_rows.pop(),
        lambda block: block.inputs.clear() or block.inputs["x"].MergeFrom(tensor(np.zeros((1, 1), "<f4"))),
    ],
)
def test_instances_that_do_not_fit_their_lists_are_a_fault_of_the_service(fake, client, spoil) -> None:
    fake.spoil = lambda answer: spoil(answer.instances[0])
    with pytest.raises(undue.Internal, match="do not fit its lists"):
        client.explain("live", inputs=[[1.0]])


def test_a_long_table_and_texts(fake, client) -> None:
    found = client.explain("live", inputs=np.zeros((12, 1)))
    frame = found.to_pandas()
    columns = ["row", "side", "rank", "train_row", "id", "score", "target", "prediction", "loss"]
    assert list(frame.columns) == columns
    assert frame[frame.row == 11][["side", "rank", "train_row", "score"]].values.tolist() == [
        ["helpful", 1, 1, 0.5],
        ["harmful", 1, 3, -0.75],
    ]
    assert (len(found), len(frame), found[0].row) == (12, 24, 0)
    text, page = str(found), found._repr_html_()
    footer = "indexes/held, method ekfac, damping 0.25, recall 0.9995"
    assert text.startswith("row 0: predicted 3, target 3, loss 0.5\n")
    assert text.endswith(footer)
    assert "… and 2 more rows" in text
    assert page.count("<table>") == 10
    assert footer in page
    assert repr(found) == f"<ExplainResult: 12 rows, {footer}>"
