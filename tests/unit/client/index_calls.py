"""The index calls of the service in memory, which keep what they are told and answer explanations from it."""

# ruff: noqa: N802
from typing import Any

import grpc
import numpy as np
from google.protobuf import empty_pb2

from undue.v1 import indexes_pb2, indexes_pb2_grpc, jobs_pb2, tensors_pb2

States = indexes_pb2.Index
ROWS = 4
"""Of every data set."""


class IndexCalls(indexes_pb2_grpc.IndexServiceServicer):
    """Indexes by name, and what their aliases mean. Index `held` is there from the start."""

    indexes: dict[str, indexes_pb2.Index]
    aliases: dict[str, str]
    staleness: float
    created: dict[str, Any]

    def _index(self, name: str, context: grpc.ServicerContext) -> indexes_pb2.Index:
        name = self.aliases.get(name, name)
        if name not in self.indexes:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} does not exist")
        return self.indexes[name]

    def CreateIndex(self, request, context):
        if request.validate_only:
            self._enter("CreateIndex", request, context)
            return indexes_pb2.Index(estimate=jobs_pb2.Estimate(rows=ROWS, peak_bytes=1 << 20, seconds=0.5))
        if request.request_id not in self.created:
            index = indexes_pb2.Index()
            index.CopyFrom(request.index)
            index.name, index.state = f"indexes/made-{len(self.indexes)}", States.STATE_BUILDING
            index.job, index.method = f"jobs/build.{index.name[8:]}", index.method or "ekfac"
            index.datasets.append(index.train)
            self.created[request.request_id] = self.indexes[index.name] = index
        self._enter("CreateIndex", request, context)
        return self.created[request.request_id]

    def GetIndex(self, request, context):
        self._enter("GetIndex", request, context)
        index = self._index(request.name, context)
        index.state, index.etag = States.STATE_READY, "e1"
        index.report.CopyFrom(
            indexes_pb2.IndexReport(
                rows=ROWS * len(index.datasets),
                bytes=4096,
                bytes_per_row=1024,
                resident_bytes=8192,
                recall=0.9995,
                recall_queries=64,
                staleness=self.staleness,
                diagnostics=jobs_pb2.Diagnostics(
                    scale=jobs_pb2.SCALE_REMOVAL, method=index.method, damping=0.25, warnings=["the fit is poor"]
                ),
            )
        )
        return index

    def ListIndexes(self, request, context):
        self._enter("ListIndexes", request, context)
        names, place = sorted(self.indexes), int(request.page_token or 0)
        token = str(place + 1) if place + 1 < len(names) else ""
        return indexes_pb2.ListIndexesResponse(indexes=[self.indexes[names[place]]], next_page_token=token)

    def DeleteIndex(self, request, context):
        self._enter("DeleteIndex", request, context)
        del self.indexes[self._index(request.name, context).name]
        return empty_pb2.Empty()

    def ExtendIndex(self, request, context):
        self._enter("ExtendIndex", request, context)
        index = self._index(request.name, context)
        if request.dataset.startswith("datasets/bad"):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "busy")
        index.datasets.append(request.dataset)
        job = jobs_pb2.Job(name=f"jobs/extend.{index.name[8:]}", state=jobs_pb2.Job.STATE_QUEUED)
        job.index_extend.index, job.index_extend.dataset = index.name, request.dataset
        return job

    def EraseRows(self, request, context):
        self._enter("EraseRows", request, context)
        index = self._index(request.name, context)
        index.erased_rows += len(request.rows)
        return index

    def CompactIndex(self, request, context):
        self._enter("CompactIndex", request, context)
        job = jobs_pb2.Job(name=f"jobs/compact.{request.name[8:]}", state=jobs_pb2.Job.STATE_QUEUED)
        job.index_compact.index = self._index(request.name, context).name
        return job

    def SetAlias(self, request, context):
        self._enter("SetAlias", request, context)
        self.aliases[request.alias.name] = request.alias.index
        return request.alias

    def GetAlias(self, request, context):
        self._enter("GetAlias", request, context)
        if request.name not in self.aliases:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{request.name} does not exist")
        return indexes_pb2.Alias(name=request.name, index=self.aliases[request.name])

    def ListAliases(self, request, context):
        self._enter("ListAliases", request, context)
        found = [indexes_pb2.Alias(name=name, index=index) for name, index in sorted(self.aliases.items())]
        return indexes_pb2.ListAliasesResponse(aliases=found)

    def DeleteAlias(self, request, context):
        self._enter("DeleteAlias", request, context)
        del self.aliases[request.name]
        return empty_pb2.Empty()

    def Explain(self, request, context):
        """Answer for each row with training row 1 for and, from the last data set, the last row against."""
        self._enter("Explain", request, context)
        self.seconds_left.append(context.time_remaining())
        index = self._index(request.index, context)
        if self.swapped is not None:
            self.aliases[request.index], self.swapped = self.swapped, None
        last = ROWS * len(index.datasets) - 1
        answer = indexes_pb2.ExplainResponse(
            index=index.name, recall=1.0 if request.exact else 0.9995, method=index.method, damping=0.25
        )
        for row in range(next(iter(request.inputs.values())).shape[0]):
            one = answer.explanations.add(row=row, loss=0.5)
            one.prediction.label = one.target.label = 3
            one.helpful.add(row=1, id="one", score=0.5, loss=0.1).target.label = 3
            one.harmful.add(row=last, id="last", score=-0.75, loss=0.1).target.label = 5
        if not request.without_instances:
            for place, (row, dataset_row) in {0: (1, 1), len(index.datasets) - 1: (last, ROWS - 1)}.items():
                block = answer.instances.add(dataset=index.datasets[place], rows=[row], dataset_rows=[dataset_row])
                if place == 0 and len(index.datasets) == 1:
                    block.rows[:], block.dataset_rows[:] = [1, last], [1, ROWS - 1]
                block.inputs["x"].CopyFrom(tensor(np.array(block.rows, "<f4")[:, None]))
        self.spoil(answer)
        return answer


def held(name: str = "indexes/held") -> indexes_pb2.Index:
    return indexes_pb2.Index(
        name=name,
        model="models/m/versions/1",
        train="datasets/d/versions/1",
        method="ekfac",
        datasets=["datasets/d/versions/1"],
        job=f"jobs/build.{name[8:]}",
        state=States.STATE_READY,
    )


def tensor(array: np.ndarray) -> tensors_pb2.Tensor:
    return tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())
