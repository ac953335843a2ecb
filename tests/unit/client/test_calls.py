"""Retries, idempotency, uploads and paging against a server that fails."""

import asyncio
import hashlib
import threading
import warnings

import grpc
import numpy as np
import pytest

import undue
from undue._blobs import blob_of_file
from undue._sync.uploads import send

MIB = 1 << 20


def onnx(folder, size=10):
    path = folder / "model.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(size))
    return path


OBJECTIVE = undue.Objective("cross_entropy")


def test_calls_are_made_again_while_the_service_is_unavailable(fake, client) -> None:
    fake.unavailable["GetServerInfo"] = 3
    assert client.server_info().version == "9.9"
    assert fake.calls["GetServerInfo"] == 4


def test_but_not_for_ever(fake, client) -> None:
    fake.unavailable["GetServerInfo"] = 100
    with pytest.raises(undue.Unavailable, match=fake.address):
        client.server_info()
    assert fake.calls["GetServerInfo"] == 6


def test_a_create_whose_answer_was_lost_makes_one_thing(fake, client, tmp_path) -> None:
    for method in ("CreateUpload", "CreateModel", "CreateDataset", "CreateJob"):
        fake.unavailable[method] = 2
    client.models.register("m", onnx(tmp_path), objective=OBJECTIVE, wait=False)
    client.datasets.register("d", undue.Arrays([[1.0]]), wait=False)
    client.influence("m", train="d", test="d")
    assert [fake.calls[m] for m in ("CreateUpload", "CreateModel", "CreateDataset", "CreateJob")] == [3, 3, 3, 3]
    assert len(fake.created) == 4
    for kind in ("CreateModelRequest", "CreateJobRequest"):
        ids = {request.request_id for request in fake.requests if type(request).__name__ == kind}
        assert len(ids) == 1
        assert len(ids.pop()) == 36


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_files_arrive_whole_in_chunks_of_a_mebibyte(fake, client, tmp_path, size) -> None:
    path = onnx(tmp_path, size)
    client.models.register("m", path, objective=OBJECTIVE, wait=False)
    [content] = fake.content.values()
    assert bytes(content) == path.read_bytes()
    assert [len(chunk.data) for chunk in fake.chunks] == [MIB] * (size // MIB) + [size % MIB] * (size % MIB > 0)
    assert [chunk.offset for chunk in fake.chunks] == list(range(0, size, MIB))


@pytest.mark.parametrize("drops", [[2], [1, 1, 1], [0, 0, 3]])
def test_a_broken_upload_goes_on_where_it_stopped(fake, client, tmp_path, drops) -> None:
    path = onnx(tmp_path, 4 * MIB + 1)
    fake.drop_after = list(drops)
    client.models.register("m", path, objective=OBJECTIVE, wait=False)
    [content] = fake.content.values()
    assert bytes(content) == path.read_bytes()
    assert len(fake.chunks) == 5  # none was sent twice
    assert fake.calls["WriteUpload"] == len(drops) + 1


def test_an_upload_that_never_moves_gives_up(fake, client, tmp_path) -> None:
    fake.drop_after = [0] * 100
    with pytest.raises(undue.Unavailable):
        client.models.register("m", onnx(tmp_path), objective=OBJECTIVE)
    assert fake.calls["WriteUpload"] == 6


def test_known_bytes_are_not_sent_again(fake, client, tmp_path) -> None:
    path = onnx(tmp_path, MIB)
    for _ in range(2):
        client.models.register("m", path, objective=OBJECTIVE, wait=False)
    assert fake.calls["CreateUpload"] == 2
    assert fake.calls["WriteUpload"] == 1


def test_a_file_that_shrinks_meanwhile_is_noticed(fake, client, tmp_path) -> None:
    path = onnx(tmp_path, 2 * MIB)
    blob = blob_of_file(path, "source")
    path.write_bytes(b"short")
    with pytest.raises(undue.FailedPrecondition, match="changed while"):
        send(client._connection, blob)


def test_a_file_that_vanishes_meanwhile_is_noticed(fake, client, tmp_path) -> None:
    path = onnx(tmp_path, 2 * MIB)
    blob = blob_of_file(path, "source")
    path.unlink()
    with pytest.raises(undue.InvalidArgument, match="cannot be read"):
        send(client._connection, blob)


def test_small_arrays_travel_inline_and_large_ones_as_uploads(fake, client) -> None:
    small, large = np.arange(8192, dtype="<f8"), np.arange(8193, dtype="<f8")
    client.datasets.register("d", undue.Arrays({"a": small, "b": small + 1}, targets=small), wait=False)
    sent = fake.requests[-1].dataset.arrays
    assert fake.calls["CreateUpload"] == 0
    assert {name: tensor.data for name, tensor in sent.inputs.items()} == {
        "a": small.tobytes(),
        "b": (small + 1).tobytes(),
    }
    assert not sent.HasField("weights")
    client.datasets.register("d", undue.Arrays(large, ids=range(8193), weights=large), wait=False)
    sent = fake.requests[-1].dataset.arrays
    assert not sent.HasField("targets")
    assert (
        hashlib.sha256(bytes(fake.content[sent.inputs[""].upload])).digest() == hashlib.sha256(large.tobytes()).digest()
    )
    assert sent.weights.upload
    assert sent.ids.data.startswith(b"0\x001\x00")


def test_parts_with_different_numbers_of_rows_are_refused_before_anything_is_sent(fake, client) -> None:
    with pytest.raises(undue.InvalidArgument, match="targets: has 3 rows where inputs has 2") as caught:
        client.datasets.register("d", undue.Arrays(np.zeros((2, 2)), targets=[0, 1, 2]))
    assert caught.value.reason == "ROWS_MISMATCH"
    assert not fake.calls


def test_files_with_a_schema(fake, client, tmp_path) -> None:
    path = tmp_path / "d.PARQUET"
    path.write_bytes(b"PAR1")
    schema = undue.Schema({"x": ["a", "b"]}, target="y", id="k")
    client.datasets.register("d", path, schema, wait=False)
    sent = fake.requests[-1].dataset.file
    assert (list(sent.schema.inputs["x"].columns), sent.schema.target, sent.schema.id, sent.schema.weight) == (
        ["a", "b"],
        "y",
        "k",
        "",
    )
    assert sent.format == type(sent).FORMAT_PARQUET
    with pytest.raises(undue.InvalidArgument, match="schema"):
        client.datasets.register("d", path)
    with pytest.raises(undue.InvalidArgument, match="schema"):
        client.datasets.register("d", undue.Arrays([1]), schema)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.pt", "nn.Module"),
        ("m.PTH", "nn.Module"),
        ("m.pkl", "runs code"),
        ("m.joblib", "runs code"),
        ("m.h5", "tf2onnx"),
        ("m.safetensors", "nn.Module"),
        ("m", "no extension"),
        ("m.onnx", "cannot be read"),
    ],
)
def test_models_of_other_formats_are_refused_with_advice(fake, client, tmp_path, name, words) -> None:
    with pytest.raises(undue.InvalidArgument, match=words):
        client.models.register("m", tmp_path / name, objective=OBJECTIVE)
    assert not fake.calls


@pytest.mark.parametrize("source", ["d.npy", "d.pkl", "d", "d.bin", np.zeros(3), None])
def test_data_sets_of_other_formats_are_refused(fake, client, source) -> None:
    with pytest.raises(undue.InvalidArgument, match="Arrays"):
        client.datasets.register("d", source, undue.Schema("x"))


def test_register_waits_and_warns_once(fake, client, tmp_path) -> None:
    fake.report_warnings = ["the gradient is large"]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        model = client.models.register("m", onnx(tmp_path), objective=OBJECTIVE, sample="d")
    assert model.state is undue.State.READY
    assert model.version == 1
    assert model.report.warnings == ("the gradient is large",)
    assert [(w.category, str(w.message)) for w in heard] == [
        (undue.ModelWarning, "models/m/versions/1: the gradient is large")
    ]
    assert fake.requests[1].model.sample == "datasets/d"


def test_a_registration_that_fails_says_why(fake, client, status, tmp_path) -> None:
    import grpc

    fake.end_state = 4
    fake.job_error = status(grpc.StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_OPERATORS", "no Loop", {"operators": "Loop"})
    with pytest.raises(undue.JobFailed, match="no Loop") as caught:
        client.models.register("m", onnx(tmp_path), objective=OBJECTIVE)
    error = caught.value
    assert (error.reason, error.metadata, error.job) == (
        "UNSUPPORTED_OPERATORS",
        {"operators": "Loop"},
        "jobs/validate-model",
    )


def test_listings_go_over_all_pages(fake, client) -> None:
    assert [model.version for model in client.models.list("m")] == [3, 2, 1]
    assert fake.calls["ListModels"] == 3
    assert {request.parent for request in fake.requests} == {"models/m"}
    assert list(client.datasets.list()) == []
    assert [type(job).__name__ for job in client.jobs.list()] == ["InfluenceJob", "SelfInfluenceJob", "ValidationJob"]


def test_one_client_serves_many_threads(fake, client) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(client.server_info().version)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["9.9"] * 16


def test_the_blocking_client_works_inside_a_running_loop(fake) -> None:
    async def cell() -> str:
        with undue.Client(fake.address) as client:
            return client.server_info().version

    assert asyncio.run(cell()) == "9.9"


def test_the_asyncio_client_does_it_all_too(fake, tmp_path, explanation) -> None:
    path = onnx(tmp_path, 3 * MIB)
    fake.drop_after = [1]
    fake.unavailable["CreateModel"] = 1
    fake.explanations = [explanation(0), explanation(1)]

    async def use() -> undue.InfluenceResult:
        async with undue.AsyncClient(fake.address) as client:
            model = await client.models.register("m", path, objective=OBJECTIVE)
            assert model.state == "READY"
            data = await client.datasets.register("d", undue.Arrays(np.zeros((4, 2))))
            assert len(data) == 4
            assert [m.version async for m in client.models.list()] == [3, 2, 1]
            job = await client.influence(model, train=data, test=data, top_k=2)
            assert [p.state async for p in job.watch()] == ["RUNNING", "SUCCEEDED"]
            infos = await asyncio.gather(*(client.server_info() for _ in range(5)))
            assert {info.version for info in infos} == {"9.9"}
            return await job.result()

    assert [each.row for each in asyncio.run(use())] == [0, 1]
    assert bytes(next(iter(fake.content.values()))) == path.read_bytes()


def test_reading_rows_has_a_deadline_and_comes_again_only_while_the_service_is_unavailable(
    fake, client, status
) -> None:
    fake.unavailable["ReadRows"] = 2
    assert [one.id for one in client.datasets.read("d", [4, 1])] == ["row-4", "row-1"]
    assert fake.calls["ReadRows"] == 3
    assert 30 < fake.seconds_left[0] < 65  # gRPC rounds up
    fake.row_refusal = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS", "64 calls wait already")
    with pytest.raises(undue.QuotaExceeded) as caught:
        client.datasets.read("d", [4])
    assert caught.value.reason == "TOO_MANY_REQUESTS"
    assert fake.calls["ReadRows"] == 4


def test_many_rows_asked_for_one_by_one_do_not_flood_the_service(fake) -> None:
    async def use():
        async with undue.AsyncClient(fake.address) as client:
            return await asyncio.gather(*(client.datasets.read("d", [row]) for row in range(100)))

    assert [one.row for [one] in asyncio.run(use())] == list(range(100))
    assert 2 <= fake.most_reading <= 8
