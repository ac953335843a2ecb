"""A service in memory behind a real gRPC server, which fails when told to."""

# ruff: noqa: N802
import hashlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2

import undue
from undue._retry import Backoff
from undue.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    indexes_pb2,
    indexes_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    perturbation_pb2,
    server_info_pb2,
    server_info_pb2_grpc,
    tensors_pb2,
    uploads_pb2,
    uploads_pb2_grpc,
)
from unit.client.index_calls import IndexCalls, held

States = jobs_pb2.Job


def packed(message: Any) -> any_pb2.Any:
    wrapped = any_pb2.Any()
    wrapped.Pack(message)
    return wrapped


def error_status(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    metadata: dict[str, str] | None = None,
    domain: str = "undue",
    fields: dict[str, str] | None = None,
    request_id: str = "request-7",
) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata or {})
    details = [packed(info), packed(error_details_pb2.RequestInfo(request_id=request_id))]
    if fields:
        bad = error_details_pb2.BadRequest()
        for path, text in fields.items():
            bad.field_violations.add(field=path, description=text)
        details.append(packed(bad))
    return status_pb2.Status(code=code.value[0], message=message, details=details)


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, status: status_pb2.Status) -> None:
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, status.message)


@dataclass
class FakeService(
    uploads_pb2_grpc.UploadServiceServicer,
    models_pb2_grpc.ModelServiceServicer,
    datasets_pb2_grpc.DatasetServiceServicer,
    jobs_pb2_grpc.JobServiceServicer,
    server_info_pb2_grpc.ServerServiceServicer,
    IndexCalls,
):
    address: str = ""
    unavailable: Counter[str] = field(default_factory=Counter)
    """Method to how many of its next calls fail."""
    refusal: status_pb2.Status | None = None
    """What GetModel answers."""
    broken_watches: int = 0
    """How many watches break after their first message."""
    ended_watches: int = 0
    """How many watches end in order after their first message."""
    drop_after: list[int] = field(default_factory=list)
    """For each of the next upload streams: after how many chunks it breaks."""
    calls: Counter[str] = field(default_factory=Counter)
    requests: list[Any] = field(default_factory=list)
    chunks: list[uploads_pb2.WriteUploadRequest] = field(default_factory=list)
    content: dict[str, bytearray] = field(default_factory=dict)
    uploads: dict[str, uploads_pb2.Upload] = field(default_factory=dict)
    created: dict[str, Any] = field(default_factory=dict)
    """Request id to what it made."""
    end_state: Any = States.STATE_SUCCEEDED
    job_error: status_pb2.Status | None = None
    scores: list[jobs_pb2.ScoreBlock] = field(default_factory=list)
    explanations: list[jobs_pb2.Explanation] = field(default_factory=list)
    counterfactual_pages: list[jobs_pb2.ListCounterfactualsResponse] = field(default_factory=list)
    comparison_pages: list[jobs_pb2.ListComparisonsResponse] = field(default_factory=list)
    leverage_blocks: list[jobs_pb2.LeverageBlock] = field(default_factory=list)
    broken_leverages: int = 0
    """How many streams of leverages break after their first message."""
    perturbation_pages: list[perturbation_pb2.ListPerturbationsResponse] = field(default_factory=list)
    perturbation: perturbation_pb2.PerturbationSummary | None = None
    poisoned: list[perturbation_pb2.PoisonedRow] = field(default_factory=list)
    broken_poisoned: int = 0
    """How many streams of poisoned rows break after their first message."""
    finding: jobs_pb2.FidelityFinding | None = None
    report_warnings: list[str] = field(default_factory=list)
    row_refusal: status_pb2.Status | None = None
    """What ReadRows answers."""
    seconds_left: list[float] = field(default_factory=list)
    """Of each ReadRows and Explain when it came."""
    indexes: dict[str, indexes_pb2.Index] = field(default_factory=lambda: {"indexes/held": held()})
    aliases: dict[str, str] = field(default_factory=lambda: {"aliases/live": "indexes/held"})
    swapped: str | None = None
    """What the alias that Explain is asked about means once it has answered."""
    spoil: Callable[[indexes_pb2.ExplainResponse], None] = lambda answer: None
    """What is done to every answer of Explain before it leaves."""
    staleness: float = 0.0
    """Of every index."""
    reading: int = 0
    most_reading: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def _enter(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        self.calls[method] += 1
        self.requests.append(request)
        if self.unavailable[method] > 0:
            self.unavailable[method] -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "try again")

    def CreateUpload(self, request, context):
        # The work is done before the failure: what a client sees when the answer is lost.
        if request.request_id not in self.created:
            upload = uploads_pb2.Upload()
            upload.CopyFrom(request.upload)
            upload.name, upload.state = f"uploads/{uuid.uuid4().hex}", uploads_pb2.Upload.STATE_OPEN
            if any(hashlib.sha256(known).hexdigest() == upload.sha256 for known in self.content.values()):
                upload.state, upload.received_bytes = uploads_pb2.Upload.STATE_FINISHED, upload.size_bytes
            self.created[request.request_id] = upload
            self.uploads[upload.name] = upload
            self.content.setdefault(upload.name, bytearray())
        self._enter("CreateUpload", request, context)
        return self.created[request.request_id]

    def GetUpload(self, request, context):
        self._enter("GetUpload", request, context)
        return self.uploads[request.name]

    def WriteUpload(self, request_iterator, context):
        self.calls["WriteUpload"] += 1
        left = self.drop_after.pop(0) if self.drop_after else None
        upload = uploads_pb2.Upload()
        for chunk in request_iterator:
            if left == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
            left = None if left is None else left - 1
            upload = self.uploads[chunk.name]
            stored = self.content[chunk.name]
            if chunk.offset != len(stored):
                status = error_status(grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_OFFSET_MISMATCH", "elsewhere")
                abort(context, grpc.StatusCode.FAILED_PRECONDITION, status)
            assert hashlib.sha256(chunk.data).digest() == chunk.sha256
            self.chunks.append(chunk)
            stored += chunk.data
            upload.received_bytes = len(stored)
        if upload.received_bytes == upload.size_bytes:
            digest = hashlib.sha256(self.content[upload.name]).hexdigest()
            if digest != upload.sha256:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "another digest")
            upload.state = uploads_pb2.Upload.STATE_FINISHED
        return upload

    def CreateModel(self, request, context):
        if request.request_id not in self.created:
            model = models_pb2.Model()
            model.CopyFrom(request.model)
            model.name, model.state = f"models/{request.model_id}/versions/1", models_pb2.Model.STATE_VALIDATING
            model.validation_job = "jobs/validate-model"
            self.created[request.request_id] = model
        self._enter("CreateModel", request, context)
        return self.created[request.request_id]

    def GetModel(self, request, context):
        self._enter("GetModel", request, context)
        if self.refusal is not None:
            code = next(each for each in grpc.StatusCode if each.value[0] == self.refusal.code)
            abort(context, code, self.refusal)
        model = models_pb2.Model(name=request.name, state=models_pb2.Model.STATE_READY)
        model.format = models_pb2.Model.FORMAT_ONNX
        model.objective.loss = models_pb2.Objective.LOSS_CROSS_ENTROPY
        model.report.warnings.extend(self.report_warnings)
        return model

    def ListModels(self, request, context):
        self._enter("ListModels", request, context)
        number = int(request.page_token or 0)
        model = models_pb2.Model(name=f"models/m/versions/{3 - number}", state=models_pb2.Model.STATE_READY)
        model.format = models_pb2.Model.FORMAT_PT2
        model.objective.loss = models_pb2.Objective.LOSS_SQUARED_ERROR
        return models_pb2.ListModelsResponse(models=[model], next_page_token=str(number + 1) if number < 2 else "")

    def CreateDataset(self, request, context):
        if request.request_id not in self.created:
            dataset = datasets_pb2.Dataset()
            dataset.CopyFrom(request.dataset)
            dataset.name = f"datasets/{request.dataset_id}/versions/1"
            dataset.state, dataset.validation_job = datasets_pb2.Dataset.STATE_VALIDATING, "jobs/validate-dataset"
            self.created[request.request_id] = dataset
        self._enter("CreateDataset", request, context)
        return self.created[request.request_id]

    def GetDataset(self, request, context):
        self._enter("GetDataset", request, context)
        return datasets_pb2.Dataset(
            name=request.name,
            state=datasets_pb2.Dataset.STATE_READY,
            arrays=datasets_pb2.ArraysSource(),
            report=datasets_pb2.DatasetReport(
                rows=4,
                digest="d" * 64,
                groups=[datasets_pb2.Group(name="site", values=3)],
                classes=["cat", "dog"],
                files=["a.csv", "b.csv"],
            ),
        )

    def ListDatasets(self, request, context):
        self._enter("ListDatasets", request, context)
        return datasets_pb2.ListDatasetsResponse()

    def DeleteDataset(self, request, context):
        self._enter("DeleteDataset", request, context)
        return empty_pb2.Empty()

    def ReadRows(self, request, context):
        self._enter("ReadRows", request, context)
        self.seconds_left.append(context.time_remaining())
        with self.lock:
            self.reading += 1
            self.most_reading = max(self.most_reading, self.reading)
        time.sleep(0.01)
        with self.lock:
            self.reading -= 1
        if self.row_refusal is not None:
            code = next(each for each in grpc.StatusCode if each.value[0] == self.row_refusal.code)
            abort(context, code, self.row_refusal)
        ids = "".join(f"row-{row}\0" for row in request.rows).encode()
        tensor = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_UTF8, shape=[len(request.rows)], data=ids)
        values = np.array(request.rows, "<f8").tobytes()
        block = datasets_pb2.RowBlock(rows=request.rows, ids=tensor)
        block.inputs[""].CopyFrom(
            tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT64, shape=[len(request.rows)], data=values)
        )
        yield block

    def _job(self, name: str, state: Any, done: int = 0) -> jobs_pb2.Job:
        job = jobs_pb2.Job(name=name, state=state, progress=jobs_pb2.Progress(stage="scoring", done=done, total=4))
        match name.partition("/")[2]:
            case "validate-model":
                job.model_validation.model = "models/m/versions/1"
            case "validate-dataset":
                job.dataset_validation.dataset = "datasets/d/versions/1"
            case "fits":
                job.retrain.without.add(rows=[1, 2])
                job.retrain.without.add(rows=[7])
            case "fidelity":
                job.fidelity.settings.protocol = jobs_pb2.FidelitySettings.PROTOCOL_LOO
            case "leverage":
                job.leverage.train = "datasets/d/versions/1"
            case "perturb":
                job.perturb.bound = perturbation_pb2.PerturbSpec.BOUND_SAME_8BIT
            case other if other.startswith(("build.", "extend.", "compact.")):
                kind, _, index = other.partition(".")
                getattr(job, f"index_{kind}").index = f"indexes/{index}"
            case "self":
                job.self_influence.train = "datasets/d/versions/1"
            case other:
                job.influence.train = "datasets/d/versions/1"
                if other != "matrix":
                    job.influence.top_k = 2
        if state == States.STATE_FAILED:
            job.error.CopyFrom(self.job_error)
        if state == States.STATE_SUCCEEDED:
            self._succeed(job)
        return job

    def _succeed(self, job: jobs_pb2.Job) -> None:
        job.diagnostics.CopyFrom(diagnostics_message())
        if self.finding is not None:
            job.diagnostics.fidelity.CopyFrom(self.finding)
        if self.perturbation is not None:
            job.perturbation.CopyFrom(self.perturbation)

    def CreateJob(self, request, context):
        if request.request_id not in self.created:
            job = jobs_pb2.Job()
            job.CopyFrom(request.job)
            job.name, job.state = f"jobs/made-{len(self.created)}", States.STATE_QUEUED
            self.created[request.request_id] = job
        self._enter("CreateJob", request, context)
        return self.created[request.request_id]

    def GetJob(self, request, context):
        self._enter("GetJob", request, context)
        return self._job(request.name, States.STATE_QUEUED)

    def ListJobs(self, request, context):
        self._enter("ListJobs", request, context)
        names = ["jobs/a", "jobs/self", "jobs/validate-model"]
        return jobs_pb2.ListJobsResponse(jobs=[self._job(name, States.STATE_RUNNING) for name in names])

    def CancelJob(self, request, context):
        self._enter("CancelJob", request, context)
        return self._job(request.name, States.STATE_CANCELLED)

    def WatchJob(self, request, context):
        self._enter("WatchJob", request, context)
        yield self._job(request.name, States.STATE_RUNNING, done=self.calls["WatchJob"])
        if self.broken_watches > 0:
            self.broken_watches -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if self.ended_watches > 0:
            self.ended_watches -= 1
            return
        if self.end_state is None:
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(10)
            return
        yield self._job(request.name, self.end_state, done=4)

    def ListExplanations(self, request, context):
        self._enter("ListExplanations", request, context)
        start = int(request.page_token or 0)
        token = str(start + 1) if start + 1 < len(self.explanations) else ""
        page = self.explanations[start : start + 1]
        return jobs_pb2.ListExplanationsResponse(explanations=page, next_page_token=token)

    def ListSelfInfluences(self, request, context):
        self._enter("ListSelfInfluences", request, context)
        examples = self.explanations[0].helpful if self.explanations else []
        return jobs_pb2.ListSelfInfluencesResponse(examples=examples)

    def ListCounterfactuals(self, request, context):
        self._enter("ListCounterfactuals", request, context)
        place = int(request.page_token or 0)
        page = self.counterfactual_pages[place]
        page.next_page_token = str(place + 1) if place + 1 < len(self.counterfactual_pages) else ""
        return page

    def ListComparisons(self, request, context):
        self._enter("ListComparisons", request, context)
        place = int(request.page_token or 0)
        page = self.comparison_pages[place]
        page.next_page_token = str(place + 1) if place + 1 < len(self.comparison_pages) else ""
        return page

    def ReadLeverages(self, request, context):
        self._enter("ReadLeverages", request, context)
        for block in self.leverage_blocks:
            yield block
            if self.broken_leverages > 0:
                self.broken_leverages -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")

    def ListPerturbations(self, request, context):
        self._enter("ListPerturbations", request, context)
        place = int(request.page_token or 0)
        page = self.perturbation_pages[place]
        page.next_page_token = str(place + 1) if place + 1 < len(self.perturbation_pages) else ""
        return page

    def ReadPoisonedRows(self, request, context):
        self._enter("ReadPoisonedRows", request, context)
        for row in self.poisoned:
            if row.attack in request.attacks:
                yield row
                if self.broken_poisoned > 0:
                    self.broken_poisoned -= 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")

    def ReadScores(self, request, context):
        self._enter("ReadScores", request, context)
        yield from self.scores

    def GetServerInfo(self, request, context):
        self._enter("GetServerInfo", request, context)
        info = server_info_pb2.ServerInfo(version="9.9", libraries={"torch": "2.13"})
        info.methods.add(name="exact", scale=jobs_pb2.SCALE_REMOVAL, estimand="change", uses_damping=True)
        info.devices.add(name="cpu")
        info.runners.add(pid=7, device="cpu", lane="batch", state=server_info_pb2.RunnerInfo.STATE_IDLE)
        return info


def diagnostics_message() -> jobs_pb2.Diagnostics:
    return jobs_pb2.Diagnostics(
        estimand="change of the loss",
        scale=jobs_pb2.SCALE_REMOVAL,
        method="exact",
        damping=0.5,
        damping_source=jobs_pb2.Diagnostics.DAMPING_SOURCE_GIVEN,
        solver="cholesky",
        dtype=tensors_pb2.DATA_TYPE_FLOAT64,
        digests={"model": "ab"},
        warnings=["the model does not fit"],
    )


def finding_message(kind: str = "LOO") -> jobs_pb2.FidelityFinding:
    interval = jobs_pb2.Interval(value=0.75, low=0.5, high=0.875)
    agreement = jobs_pb2.Agreement(pearson=interval, spearman=interval, slope=interval, retrainings=2, pairs=4)
    return jobs_pb2.FidelityFinding(
        protocol=getattr(jobs_pb2.FidelitySettings, f"PROTOCOL_{kind}"),
        recipe="trained again",
        agreement=agreement,
        strata=[jobs_pb2.Stratum(low=0.125, high=0.25, agreement=agreement)] if kind == "LOO" else [],
        lds=interval if kind == "LDS" else None,
        seconds=1.5,
        warnings=["2 retrainings tell little"],
    )


def comparison_pages(kind: str = "LOO") -> list[jobs_pb2.ListComparisonsResponse]:
    pages = [jobs_pb2.ListComparisonsResponse(rows=[5, 3]), jobs_pb2.ListComparisonsResponse()]
    for index, page in enumerate(pages):
        rows = {"without": [7 + index]} if kind == "LOO" else {"subset": [1, 2 + index]}
        page.comparisons.add(index=index, predicted=[0.5, index], measured=[0.25, -index], **rows)
    if kind == "LOO":
        pages[1].comparisons[0].stratum = 0
    return pages


def explanation_message(row: int, name: str = "") -> jobs_pb2.Explanation:
    message = jobs_pb2.Explanation(row=row, id=name or str(row), loss=0.25)
    message.prediction.label, message.target.label = 3, 5
    message.helpful.add(row=11, id="a", score=0.5, loss=0.1).target.label = 5
    message.helpful.add(row=12, id="b", score=0.25, loss=0.1).target.label = 5
    message.harmful.add(row=13, id="c", score=-0.75, loss=0.1).target.label = 3
    return message


@pytest.fixture
def explanation() -> Any:
    return explanation_message


@pytest.fixture
def finding() -> Any:
    return finding_message


@pytest.fixture
def compared() -> Any:
    return comparison_pages


@pytest.fixture
def status() -> Any:
    return error_status


@pytest.fixture
def fake() -> Iterator[FakeService]:
    service = FakeService()
    server = grpc.server(ThreadPoolExecutor(max_workers=32))
    uploads_pb2_grpc.add_UploadServiceServicer_to_server(service, server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    datasets_pb2_grpc.add_DatasetServiceServicer_to_server(service, server)
    jobs_pb2_grpc.add_JobServiceServicer_to_server(service, server)
    indexes_pb2_grpc.add_IndexServiceServicer_to_server(service, server)
    server_info_pb2_grpc.add_ServerServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    server.stop(None).wait()


@pytest.fixture
def client(fake: FakeService) -> Iterator[undue.Client]:
    with undue.Client(fake.address) as connected:
        yield connected


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep how often, not how long."""
    quick = Backoff(retries=5, first=0.001, longest=0.01)
    for flavour in ("_sync", "_async"):
        monkeypatch.setattr(f"undue.{flavour}.connection.CALL", quick)
        monkeypatch.setattr(f"undue.{flavour}.uploads.FOLLOW", quick)
        monkeypatch.setattr(f"undue.{flavour}.jobs.FOLLOW", quick)
        monkeypatch.setattr(f"undue.{flavour}.kinds.FOLLOW", quick)
