"""Every bad input meets a typed error with its reason, and leaves nothing behind."""

import hashlib
import io
import pickle
import time
import zipfile
from types import SimpleNamespace

import grpc
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import undue
from serving import details
from undue import Cancelled, FailedPrecondition, InvalidArgument, JobFailed, NotFound
from undue.v1 import jobs_pb2, jobs_pb2_grpc, uploads_pb2, uploads_pb2_grpc

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = np.arange(40) % 3
OBJECTIVE = undue.Objective("cross_entropy", l2=1e-2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A service of its own, so that what it keeps can be counted, with a model and its data."""
    root = tmp_path_factory.mktemp("bad")
    with undue.Client.local(root / "data") as client, grpc.insecure_channel(client.address) as channel:
        (root / "m.onnx").write_bytes(an_onnx())
        torch.export.save(exported(), root / "m.pt2")
        data = client.datasets.register("good", undue.Arrays(inputs=X, targets=Y))
        with pytest.warns(undue.ModelWarning, match="fit"):  # never trained: warned of, not refused
            model = client.models.register("good", root / "m.onnx", objective=OBJECTIVE, sample=data)
        yield SimpleNamespace(client=client, channel=channel, root=root, data=data, model=model, clean=clean(root))


def an_onnx(batch="n", operator="Gemm"):
    weight = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(3, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


def exported():
    batch = torch.export.Dim("n")
    return torch.export.export(torch.nn.Linear(4, 3), (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))


def a_lying_pt2(path, root):
    """An archive whose constants are a pickle that would run code."""

    class Evil:
        def __reduce__(self):
            return (open, (str(root / "pwned"), "w"))

    with zipfile.ZipFile(root / "m.pt2") as honest, zipfile.ZipFile(path, "w") as lying:
        for name in honest.namelist():
            data = honest.read(name)
            lying.writestr(name, pickle.dumps(Evil()) if name.endswith("sample_inputs/model.pt") else data)
        prefix = honest.namelist()[0].split("/")[0]
        lying.writestr(f"{prefix}/data/constants/evil.pkl", pickle.dumps(Evil()))


def register(bench, name="bad", sample=None, **data):
    return bench.client.datasets.register(name, undue.Arrays(**({"inputs": X, "targets": Y} | data)))


def register_model(bench, content, suffix=".onnx", objective=OBJECTIVE, **settings):
    path = bench.root / f"bad{suffix}"
    path.write_bytes(content)
    return bench.client.models.register("bad", path, objective=objective, **settings)


def influence(bench, model=None, train=None, test=None, **settings):
    job = bench.client.influence(
        model or bench.model, train=train or bench.data, test=test or bench.data, **({"rows": [0]} | settings)
    )
    return job.result(timeout=60)


def with_one(array, place, value):
    changed = array.astype(np.float64)
    changed[place] = value
    return changed


def onnx_of(change):
    model = onnx.load_from_string(an_onnx())
    change(model)
    return model.SerializeToString()


CASES = {
    # what is named does not exist
    "unknown model": (lambda b: influence(b, "models/none"), NotFound, "RESOURCE_NOT_FOUND"),
    "unknown data set": (lambda b: influence(b, train="datasets/none"), NotFound, "RESOURCE_NOT_FOUND"),
    "unknown version": (lambda b: influence(b, "models/good/versions/9"), NotFound, "RESOURCE_NOT_FOUND"),
    "unknown method": (lambda b: influence(b, method="tarot"), InvalidArgument, "METHOD_UNKNOWN"),
    "unknown job": (lambda b: b.client.jobs.get("jobs/" + "0" * 32), NotFound, "RESOURCE_NOT_FOUND"),
    "a name that cannot be": (lambda b: register(b, "No Name"), InvalidArgument, "INVALID_NAME"),
    # data
    "no rows": (lambda b: register(b, inputs=X[:0], targets=Y[:0]), JobFailed, "DATASET_EMPTY"),
    "NaN in features": (lambda b: register(b, inputs=with_one(X, (3, 1), np.nan)), JobFailed, "NON_FINITE_DATA"),
    "infinity": (lambda b: register(b, inputs=with_one(X, (0, 0), np.inf)), JobFailed, "NON_FINITE_DATA"),
    "NaN in targets": (lambda b: register(b, targets=with_one(Y, 5, np.nan)), JobFailed, "NON_FINITE_DATA"),
    "NaN in weights": (
        lambda b: register(b, weights=with_one(np.ones(40), 7, np.nan)),
        JobFailed,
        "NON_FINITE_DATA",
    ),
    "negative weight": (
        lambda b: register(b, weights=with_one(np.ones(40), 7, -1)),
        JobFailed,
        "DATASET_MALFORMED",
    ),
    "no weight but 0": (lambda b: register(b, weights=np.zeros(40)), JobFailed, "DATASET_MALFORMED"),
    "duplicate id": (lambda b: register(b, ids=["a", "a", *map(str, range(38))]), JobFailed, "DUPLICATE_ID"),
    "lengths differ": (lambda b: register(b, targets=Y[:-1]), InvalidArgument, "ROWS_MISMATCH"),
    "text for features": (lambda b: register(b, inputs=X.astype(str)), InvalidArgument, "INVALID_FIELD"),
    "a file that is none": (lambda b: a_file(b, b"PAR1 no", ".parquet"), JobFailed, "DATASET_MALFORMED"),
    "no such column": (
        lambda b: a_file(b, b"x,y\n1,0\n2,1\n", ".csv", inputs="z"),
        JobFailed,
        "COLUMN_NOT_FOUND",
    ),
    "ragged csv": (lambda b: a_file(b, b"x,y\n1,0\n2\n", ".csv"), JobFailed, "DATASET_MALFORMED"),
    "a URI nobody allowed": (
        lambda b: b.client.datasets.register("bad", "file:///etc/passwd", undue.Schema("x"), format="csv"),
        InvalidArgument,
        "URI_REFUSED",
    ),
    # uploads
    "5 GiB declared": (lambda b: declare(b, 5 << 30), "RESOURCE_EXHAUSTED", "UPLOAD_TOO_LARGE"),
    "a chunk with a wrong digest": (lambda b: send(b, b"abc", digest=bytes(32)), "INVALID_ARGUMENT", "DIGEST_MISMATCH"),
    "other bytes than declared": (lambda b: send(b, b"abc", declared=b"abd"), "INVALID_ARGUMENT", "DIGEST_MISMATCH"),
    "a chunk beyond the end": (lambda b: send(b, b"abc", declared=b"ab"), "INVALID_ARGUMENT", "UPLOAD_TOO_LARGE"),
    "a chunk of 2 MiB": (lambda b: send(b, bytes(2 << 20)), "INVALID_ARGUMENT", "UPLOAD_TOO_LARGE"),
    # models
    "truncated ONNX": (lambda b: register_model(b, an_onnx()[:-40]), JobFailed, "MODEL_MALFORMED"),
    "no ONNX at all": (lambda b: register_model(b, b"hello"), JobFailed, "MODEL_MALFORMED"),
    "truncated pt2": (lambda b: register_model(b, pt2(b)[:-200], ".pt2"), JobFailed, "MODEL_MALFORMED"),
    "lying pt2": (lambda b: register_model(b, lying_pt2(b), ".pt2"), JobFailed, "MODEL_UNSAFE"),
    "fixed batch": (lambda b: register_model(b, an_onnx(batch=2)), JobFailed, "STATIC_BATCH"),
    "unknown operator": (
        lambda b: register_model(b, an_onnx(operator="Tarot")),
        JobFailed,
        "UNSUPPORTED_OPERATORS",
    ),
    "NaN in the model": (lambda b: register_model(b, onnx_of(with_nan), sample=b.data), JobFailed, "MODEL_MALFORMED"),
    "no such output": (lambda b: register_model(b, an_onnx(), output="z"), JobFailed, "OUTPUT_AMBIGUOUS"),
    "no such parameter": (
        lambda b: register_model(b, an_onnx(), parameters=["conv*"]),
        JobFailed,
        "PARAMETERS_NOT_FOUND",
    ),
    "an objective that does not fit": (
        lambda b: register_model(b, an_onnx(), objective=undue.Objective("binary_logistic")),
        JobFailed,
        "OBJECTIVE_MISMATCH",
    ),
    "l2 below zero": (lambda b: undue.Objective("cross_entropy", l2=-1), InvalidArgument, "INVALID_FIELD"),
    "a sample of another shape": (
        lambda b: register_model(b, an_onnx(), sample=register(b, "narrow", inputs=X[:, :3])),
        JobFailed,
        "INPUT_MISMATCH",
    ),
    # a model against its data
    "wrong shape": (
        lambda b: influence(b, test=register(b, "flat", inputs=X[:, :3])),
        JobFailed,
        "INPUT_MISMATCH",
    ),
    "wrong type": (
        lambda b: influence(b, train=register(b, "floats", targets=Y + 0.5)),
        JobFailed,
        "TARGET_MISMATCH",
    ),
    "labels out of range": (
        lambda b: influence(b, train=register(b, "labels", targets=Y + 1)),
        JobFailed,
        "TARGET_MISMATCH",
    ),
    "no targets to train on": (
        lambda b: influence(b, train=register(b, "blind", targets=None)),
        InvalidArgument,
        "TARGETS_MISSING",
    ),
    "zero variance": (
        lambda b: influence(b, train=register(b, "same", inputs=np.ones_like(X))),
        InvalidArgument,
        "DATASET_DEGENERATE",
    ),
    "one class only": (
        lambda b: influence(b, train=register(b, "one", targets=np.ones_like(Y))),
        InvalidArgument,
        "DATASET_DEGENERATE",
    ),
    "rows out of range": (lambda b: influence(b, rows=[0, 40]), InvalidArgument, "ROW_OUT_OF_RANGE"),
    "negative row": (lambda b: influence(b, rows=[-1]), InvalidArgument, "INVALID_FIELD"),
    "instances out of range": (
        lambda b: b.client.datasets.read(b.data, [40]),
        InvalidArgument,
        "ROW_OUT_OF_RANGE",
    ),
    "singular Hessian, damping 0": (
        lambda b: influence(b, unregularised(b), damping=0.0),
        JobFailed,
        "HESSIAN_SINGULAR",
    ),
    "damping below zero": (lambda b: influence(b, damping=-1.0), InvalidArgument, "INVALID_FIELD"),
    "a correction that there is not": (
        lambda b: influence(b, method="cg", leverage_correction=True),
        InvalidArgument,
        "LEVERAGE_UNAVAILABLE",
    ),
    # jobs
    "a result of another kind": (
        lambda b: scores_of(b, influence_job(b, top_k=3)),
        "FAILED_PRECONDITION",
        "RESULT_KIND_MISMATCH",
    ),
    "deadline passed": (lambda b: late(b), JobFailed, "JOB_DEADLINE"),
    "cancelled": (lambda b: cancelled(b), Cancelled, "JOB_CANCELLED"),
    "a model that is in use": (lambda b: in_use(b), FailedPrecondition, "RESOURCE_IN_USE"),
    "an old etag": (
        lambda b: b.client.datasets.delete(b.data, etag="0" * 16),
        FailedPrecondition,
        "ETAG_MISMATCH",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(bench, case):
    provoke, kind, reason = CASES[case]
    if isinstance(kind, str):
        with pytest.raises(grpc.RpcError) as raw:
            provoke(bench)
        status, info = details(raw.value)
        assert (raw.value.code().name, info.reason) == (kind, reason)
        message = status.message
    else:
        with pytest.raises(kind) as caught:
            provoke(bench)
        found, message = caught.value.reason, caught.value.message
        assert found == reason
    assert len(message) > 10
    assert "Traceback" not in message
    # Nothing is left behind: no half file, no job that goes on, no runner beyond those that wait for work.
    deadline = time.monotonic() + 10
    while clean(bench.root) != bench.clean and time.monotonic() < deadline:
        time.sleep(0.05)  # a runner that was stopped dies first
    assert clean(bench.root) == bench.clean
    assert all(job.state.ended for job in bench.client.jobs.list())
    assert all(runner.state == "IDLE" for runner in bench.client.server_info().runners)
    assert not (bench.root / "pwned").exists()
    # And the service works.
    assert influence(bench, method="grad_dot").explanations


def clean(root):
    """Return what lies where files are on their way, but for uploads that may still go on."""
    data = root / "data"
    return {place: sorted(path.name for path in (data / place).rglob("*")) for place in ("scratch", "taken")}


def a_file(bench, content, suffix, inputs="x"):
    path = bench.root / f"bad{suffix}"
    path.write_bytes(content)
    return bench.client.datasets.register("bad", path, undue.Schema(inputs, target="y"))


def declare(bench, size, sha256="0" * 64):
    stub = uploads_pb2_grpc.UploadServiceStub(bench.channel)
    return stub.CreateUpload(uploads_pb2.CreateUploadRequest(upload=uploads_pb2.Upload(size_bytes=size, sha256=sha256)))


def send(bench, data, declared=None, digest=None):
    declared = data if declared is None else declared
    upload = declare(bench, len(declared), hashlib.sha256(declared).hexdigest())
    chunk = uploads_pb2.WriteUploadRequest(name=upload.name, data=data, sha256=digest or hashlib.sha256(data).digest())
    return uploads_pb2_grpc.UploadServiceStub(bench.channel).WriteUpload(iter([chunk]))


def pt2(bench):
    return (bench.root / "m.pt2").read_bytes()


def lying_pt2(bench):
    path = io.BytesIO()
    a_lying_pt2(path, bench.root)
    return path.getvalue()


def with_nan(model):
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))


def unregularised(bench):
    """A model whose softmax can be shifted without any change of the loss."""
    with pytest.warns(undue.ModelWarning):
        return register_model(bench, an_onnx(), objective=undue.Objective("cross_entropy"), sample=bench.data)


def influence_job(bench, **settings):
    job = bench.client.influence(bench.model, train=bench.data, test=bench.data, rows=[0], **settings)
    job.result(timeout=60)
    return job


def scores_of(bench, job):
    return list(jobs_pb2_grpc.JobServiceStub(bench.channel).ReadScores(jobs_pb2.ReadScoresRequest(name=job.name)))


def long_job(bench, timeout_seconds=0.0):
    """A job over a network whose dense Hessian takes seconds, so that it can be stopped in the middle."""
    if not hasattr(bench, "slow"):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 400), torch.nn.Tanh(), torch.nn.Linear(400, 3))
        example = torch.zeros(2, 4)
        bench.slow = bench.client.models.register("slow", net, objective=OBJECTIVE, example_inputs=example)
    spec = jobs_pb2.InfluenceSpec(
        model=bench.slow.name, train=bench.data.name, test=bench.data.name, method="exact", damping=1.0, top_k=3
    )
    request = jobs_pb2.CreateJobRequest(job=jobs_pb2.Job(influence=spec, timeout_seconds=timeout_seconds))
    return bench.client.jobs.get(jobs_pb2_grpc.JobServiceStub(bench.channel).CreateJob(request).name)


def late(bench):
    return long_job(bench, timeout_seconds=0.05).result(timeout=60)


def cancelled(bench):
    job = long_job(bench)
    job.cancel()
    return job.result(timeout=60)


def in_use(bench):
    influence_job(bench)
    bench.client.models.delete(bench.model)
