"""Indexes and aliases between messages of the API and values of the domain. Pure, but for what explains."""

from undue.v1 import indexes_pb2
from undue_service.domain.costs import Estimate
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.indexes import Alias, Index
from undue_service.domain.reports import IndexReport

from .enums import INDEX_STATES
from .errors import failure_to_status
from .job_responses import estimate
from .responses import timestamp
from .values import diagnostics


def index_spec(request: indexes_pb2.CreateIndexRequest) -> IndexSpec:
    """Return what a request wants an index to be built of; an empty method is settled later."""
    index = request.index
    return IndexSpec(
        model=index.model,
        train=index.train,
        method=index.method,
        damping=index.damping if index.HasField("damping") else None,
        parameters=tuple(index.parameters),
        leverage_correction=index.leverage_correction if index.HasField("leverage_correction") else None,
        seed=index.seed,
    )


def index(value: Index) -> indexes_pb2.Index:
    """Return an index."""
    message = _of(value.spec)
    message.MergeFrom(
        indexes_pb2.Index(
            name=value.name,
            state=INDEX_STATES.to_proto(value.state),
            job=value.jobs[-1].name,
            report=index_report(value.report) if value.report else None,
            error=failure_to_status(value.failure) if value.failure else None,
            create_time=timestamp(value.create_time),
            etag=value.etag,
            datasets=value.datasets,
            erased_rows=value.erased,
        )
    )
    return message


def estimated_index(spec: IndexSpec, value: Estimate) -> indexes_pb2.Index:
    """Return an index that was not built, with what building it would take."""
    message = _of(spec)
    message.estimate.CopyFrom(estimate(value))
    return message


def index_report(value: IndexReport) -> indexes_pb2.IndexReport:
    """Return what building or changing an index found."""
    return indexes_pb2.IndexReport(
        rows=value.rows,
        bytes=value.bytes,
        bytes_per_row=value.bytes_per_row,
        resident_bytes=value.resident_bytes,
        recall=value.recall,
        recall_queries=value.recall_queries,
        staleness=value.staleness,
        diagnostics=diagnostics(value.diagnostics),
    )


def alias(value: Alias) -> indexes_pb2.Alias:
    """Return an alias."""
    return indexes_pb2.Alias(name=value.name, index=value.index, update_time=timestamp(value.update_time))


def _of(spec: IndexSpec) -> indexes_pb2.Index:
    return indexes_pb2.Index(
        model=spec.model,
        train=spec.train,
        method=spec.method,
        damping=spec.damping,
        parameters=spec.parameters,
        leverage_correction=spec.leverage_correction,
        seed=spec.seed,
    )
