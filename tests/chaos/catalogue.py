"""What is asked of the service: requests that are repeated with the same id until they are answered."""

import hashlib
import random
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import grpc
import numpy as np
import torch
from sklearn.datasets import load_digits

from chaos.process import Channel
from undue._export import write_pt2
from undue.v1 import datasets_pb2, indexes_pb2, jobs_pb2, models_pb2, perturbation_pb2, tensors_pb2, uploads_pb2

PATIENCE_SECONDS = 120.0
CHUNK_BYTES = 128 << 10
ROWS = 400
SOFTMAX, MLP = "models/softmax/versions/1", "models/mlp/versions/1"
TRAIN = "datasets/train/versions/1"
MORE_NUMBER = 1
MORE = f"datasets/data-{MORE_NUMBER}/versions/1"
_STANDS_ELSEWHERE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)

_influence = {"train": TRAIN, "test": TRAIN, "rows": [3, 1, 4, 15, 92]}
_loo = {"protocol": jobs_pb2.FidelitySettings.PROTOCOL_LOO, "samples": 5, "strata": 2, "bootstrap": 50}
_lds = {"protocol": jobs_pb2.FidelitySettings.PROTOCOL_LDS, "samples": 5, "bootstrap": 50}
_ball = {
    "bound": perturbation_pb2.PerturbSpec.BOUND_LINF,
    "radius": 40.0,
    "step": 5.0,
    "iterations": 3,
    "candidates": 2,
}
_margin = jobs_pb2.MEASUREMENT_MARGIN
JOBS = {
    "exact": jobs_pb2.Job(influence=dict(**_influence, model=SOFTMAX, method="exact", top_k=5)),
    "exact, all scores": jobs_pb2.Job(influence=dict(**_influence, model=SOFTMAX, method="exact")),
    "exact, margin": jobs_pb2.Job(
        influence=dict(**_influence, model=SOFTMAX, method="exact", top_k=5, measurement=_margin)
    ),
    "exact, MLP": jobs_pb2.Job(influence=dict(**_influence, model=MLP, method="exact", damping=1.0, top_k=5)),
    "cg, MLP": jobs_pb2.Job(influence=dict(**_influence, model=MLP, method="cg", damping=1.0, top_k=3)),
    "grad_dot, all scores": jobs_pb2.Job(influence=dict(**_influence, model=SOFTMAX, method="grad_dot")),
    "grad_cos, MLP": jobs_pb2.Job(influence=dict(**_influence, model=MLP, method="grad_cos", top_k=5)),
    "retrain": jobs_pb2.Job(retrain={**_influence, "model": SOFTMAX, "without": [{"rows": [0]}, {"rows": [1, 2]}]}),
    "retrain, MLP": jobs_pb2.Job(retrain={**_influence, "model": MLP, "without": [{"rows": [0]}, {"rows": [1, 2]}]}),
    "fidelity": jobs_pb2.Job(fidelity={**_influence, "model": SOFTMAX, "method": "exact", "settings": _loo}),
    "fidelity, MLP": jobs_pb2.Job(fidelity={**_influence, "model": MLP, "method": "grad_dot", "settings": _lds}),
    "exact, held against retraining": jobs_pb2.Job(
        influence={**_influence, "model": SOFTMAX, "method": "exact", "top_k": 5, "fidelity": _loo}
    ),
    "perturb": jobs_pb2.Job(perturb={"train": TRAIN, "test": TRAIN, "model": SOFTMAX, **_ball}),
    "perturb, MLP": jobs_pb2.Job(perturb={"train": TRAIN, "test": TRAIN, "model": MLP, **_ball, "damping": 1.0}),
    "leverage": jobs_pb2.Job(leverage={"train": TRAIN, "model": SOFTMAX, "dfbeta": True}),
    "mislabels": jobs_pb2.Job(mislabels={"train": TRAIN, "test": TRAIN, "model": SOFTMAX, "flip": 0.1, "seeds": 2}),
    "suspects": jobs_pb2.Job(mislabels={"train": TRAIN, "model": SOFTMAX, "suspects": 5}),
    "groups": jobs_pb2.Job(
        group_influence={**_influence, "model": SOFTMAX, "by": ["odd"], "bootstrap": 50, "reweight_top": 1}
    ),
    "groups, MLP": jobs_pb2.Job(
        group_influence={**_influence, "model": MLP, "by": ["odd"], "bootstrap": 50, "reweight_top": 1}
    ),
    "compare": jobs_pb2.Job(compare={**_influence, "model": SOFTMAX, "other": MLP, "top_k": 3, "scatter": 20}),
    "self, exact": jobs_pb2.Job(self_influence={"train": TRAIN, "model": SOFTMAX, "method": "exact"}),
    "self, MLP": jobs_pb2.Job(self_influence={"train": TRAIN, "model": MLP, "method": "grad_dot"}),
}
INDEXES = {
    "index, exact": indexes_pb2.Index(train=TRAIN, model=SOFTMAX, method="exact"),
    "index, MLP": indexes_pb2.Index(train=TRAIN, model=MLP, method="ekfac"),
}
CHANGES = ("extended", "compacted")
"""What may follow when an index has been built."""
ASKED = (*JOBS, *INDEXES, *(f"{name}, {change}" for name in INDEXES for change in CHANGES))
"""All that may be asked, by name."""


@dataclass
class Asked:
    """What was asked for and answered: exactly this must be in the store at the end."""

    jobs: dict[str, str] = field(default_factory=dict)
    """Id of each job, validations included, to what it was asked to do."""
    versions: list[str] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    """Ids of the uploads that nobody will finish."""
    repeats: int = 0
    """Calls that were made again with the same request id."""


class Asker:
    """Makes requests and repeats each, with its request id, until it is answered."""

    def __init__(self, channel: Channel, rng: random.Random) -> None:
        self.asked = Asked()
        self._made: list[tuple[Callable, str]] = []
        self._channel, self._rng = channel, rng

    def job(self, name: str, variant: int) -> None:
        """Queue a job, or one after the other; each variant has a result of its own."""
        if name not in JOBS:
            self._index(name, variant)
            return
        job = jobs_pb2.Job.FromString(JOBS[name].SerializeToString())
        if job.HasField("self_influence"):
            job.self_influence.top_k = 1 + variant % ROWS
        elif job.HasField("mislabels"):
            job.mislabels.seed = variant
        elif job.HasField("leverage"):
            job.leverage.damping = (1 + variant % ROWS) / ROWS
        elif job.HasField("perturb"):
            rows = random.Random(variant).sample(range(ROWS), 3)
            job.perturb.attacks.extend(perturbation_pb2.AttackTargets(rows=[row]) for row in rows)
        else:
            spec = getattr(job, job.WhichOneof("spec"))
            spec.rows[:] = random.Random(variant).sample(range(ROWS), 5)
        request = jobs_pb2.CreateJobRequest(job=job, request_id=self._id())
        made = self._make(lambda: self._channel.jobs.CreateJob(request, timeout=30))
        self.asked.jobs[made.name.removeprefix("jobs/")] = f"{name} # {variant}"

    def _index(self, name: str, variant: int) -> None:
        """Build an index, and where the name says so change it."""
        built, _, change = name.rpartition(", ")
        built, change = (built, change) if change in CHANGES else (name, "")
        index = indexes_pb2.Index.FromString(INDEXES[built].SerializeToString())
        index.damping = (1 + variant % ROWS) / ROWS
        create = indexes_pb2.CreateIndexRequest(index=index, request_id=self._id())
        made = self._make(lambda: self._channel.indexes.CreateIndex(create, timeout=30))
        self.asked.jobs[made.job.removeprefix("jobs/")] = f"{built} # {variant}"
        if not change:
            return
        self.wait(made.job)
        if change == "extended":
            extend = indexes_pb2.ExtendIndexRequest(name=made.name, dataset=MORE, request_id=self._id())
            job = self._make(lambda: self._channel.indexes.ExtendIndex(extend, timeout=30))
        else:
            rows = random.Random(variant).sample(range(ROWS), 20)
            erase = indexes_pb2.EraseRowsRequest(name=made.name, rows=rows)
            self._make(lambda: self._channel.indexes.EraseRows(erase, timeout=30))
            compact = indexes_pb2.CompactIndexRequest(name=made.name, request_id=self._id())
            job = self._make(lambda: self._channel.indexes.CompactIndex(compact, timeout=30))
        self.asked.jobs[job.name.removeprefix("jobs/")] = f"{name} # {variant}"

    def dataset(self, number: int, size: int = 0) -> None:
        """Register a data set: a small one inside the request, or one of about `size` bytes as an upload."""
        inputs, targets = digits(number, max(ROWS, size // (64 * 4)))
        dataset = datasets_pb2.Dataset()
        dataset.arrays.inputs[""].CopyFrom(self._tensor(tensors_pb2.DATA_TYPE_FLOAT32, inputs, uploaded=bool(size)))
        dataset.arrays.targets.CopyFrom(self._tensor(tensors_pb2.DATA_TYPE_INT64, targets, uploaded=False))
        odd = self._tensor(tensors_pb2.DATA_TYPE_INT64, targets % 2, uploaded=False)
        dataset.arrays.groups["odd"].CopyFrom(odd)
        self._register_dataset("train" if number == 0 else f"data-{number}", dataset, f"data {number} {size}")

    def model(self, name: str, kind: str) -> None:
        """Register a model, with the training data as its sample."""
        upload = self.upload(model_file(kind))
        objective = models_pb2.Objective(loss=models_pb2.Objective.LOSS_CROSS_ENTROPY, l2=1e-2)
        model = models_pb2.Model(format=models_pb2.Model.FORMAT_PT2, upload=upload, objective=objective, sample=TRAIN)
        if kind != "softmax":
            recipe = models_pb2.Training(optimizer=models_pb2.Training.OPTIMIZER_ADAM, lr=1e-2, epochs=5, batch_size=50)
            model.training.CopyFrom(recipe)
        request = models_pb2.CreateModelRequest(model_id=name, model=model, request_id=self._id())
        made = self._make(lambda: self._channel.models.CreateModel(request, timeout=30))
        self._note_version(made, f"model {kind}")

    def upload(self, content: bytes, abandon_at: int | None = None) -> str:
        """Send a file, going on from where it stands whenever the stream breaks, or give it up on the way."""
        declared = uploads_pb2.Upload(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        create = uploads_pb2.CreateUploadRequest(upload=declared, request_id=self._id())
        upload = self._make(lambda: self._channel.uploads.CreateUpload(create, timeout=30))
        end = len(content) if abandon_at is None else abandon_at
        if abandon_at is not None:
            self.asked.abandoned.append(upload.name.removeprefix("uploads/"))
        look = uploads_pb2.GetUploadRequest(name=upload.name)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while upload.state != uploads_pb2.Upload.STATE_FINISHED and upload.received_bytes < end:
            try:
                chunks = _chunks(upload.name, content[:end], upload.received_bytes)
                upload = self._channel.uploads.WriteUpload(chunks, timeout=30)
            except grpc.RpcError as error:
                # The stream of before the service died may have been ahead of what we knew.
                if not _is_passing(error) and error.code() not in _STANDS_ELSEWHERE:
                    raise
                assert time.monotonic() < deadline, error
                upload = self._until_answered(lambda: self._channel.uploads.GetUpload(look, timeout=30))
        return upload.name

    def wait(self, name: str) -> jobs_pb2.Job:
        """Return a job once it has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        request = jobs_pb2.GetJobRequest(name=name)
        while True:
            job = self._until_answered(lambda: self._channel.jobs.GetJob(request, timeout=30))
            if job.state not in (jobs_pb2.Job.STATE_QUEUED, jobs_pb2.Job.STATE_RUNNING):
                return job
            assert time.monotonic() < deadline, f"{name} has not ended"
            time.sleep(0.05)

    def wait_for_all(self) -> None:
        """Wait until every job so far has ended."""
        for job in tuple(self.asked.jobs):
            self.wait(f"jobs/{job}")

    def repeat_everything(self) -> None:
        """Make every request once more: each must give what it gave the first time."""
        for call, name in self._made:
            assert self._until_answered(call).name == name

    def _make(self, call: Callable):
        made = self._until_answered(call)
        self._made.append((call, made.name))
        return made

    def _register_dataset(self, name: str, dataset: datasets_pb2.Dataset, what: str) -> None:
        request = datasets_pb2.CreateDatasetRequest(dataset_id=name, dataset=dataset, request_id=self._id())
        made = self._make(lambda: self._channel.datasets.CreateDataset(request, timeout=30))
        self._note_version(made, what)

    def _note_version(self, made: models_pb2.Model | datasets_pb2.Dataset, what: str) -> None:
        self.asked.versions.append(made.name)
        self.asked.jobs[made.validation_job.removeprefix("jobs/")] = what

    def _tensor(self, dtype: int, array: np.ndarray, uploaded: bool) -> tensors_pb2.Tensor:
        if not uploaded:
            return tensors_pb2.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())
        return tensors_pb2.Tensor(dtype=dtype, shape=array.shape, upload=self.upload(array.tobytes()))

    def _id(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _until_answered(self, call: Callable):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                if not _is_passing(error):
                    raise
                assert time.monotonic() < deadline, error
            self.asked.repeats += 1
            time.sleep(0.05)


@cache
def digits(number: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return real digits, as often as needed for that many rows, each time with a little noise of that number."""
    X, y = load_digits(return_X_y=True)
    at = np.arange(rows) % len(X)
    noise = np.random.default_rng(number).normal(scale=1e-3 * (number > 0), size=(rows, 64))
    return (X[at] / 16.0 + noise).astype(np.float32), y[at].astype(np.int64)


@cache
def model_file(kind: str) -> bytes:
    """Return a model as a .pt2 file: exported once, so that every run sends the same bytes."""
    torch.manual_seed(0)
    inputs, targets = map(torch.as_tensor, digits(0, ROWS))
    softmax = kind == "softmax"
    layers = (
        [torch.nn.Linear(64, 10)] if softmax else [torch.nn.Linear(64, 12), torch.nn.Tanh(), torch.nn.Linear(12, 10)]
    )
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        return write_pt2(model, inputs[:2], Path(folder)).read_bytes()


def _chunks(name: str, content: bytes, start: int):
    for offset in range(start, len(content), CHUNK_BYTES):
        data = content[offset : offset + CHUNK_BYTES]
        digest = hashlib.sha256(data).digest()
        yield uploads_pb2.WriteUploadRequest(name=name, offset=offset, data=data, sha256=digest)
        time.sleep(0.005)  # an upload takes its time, so that it can be hit


def _is_passing(error: grpc.RpcError) -> bool:
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
