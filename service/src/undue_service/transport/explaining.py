"""Requests of Explain into the questions of the domain, and its answers into messages. Pure."""

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from undue.v1 import indexes_pb2, jobs_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.indexes import Index
from undue_service.domain.reports import ExplainReport
from undue_service.domain.results import Answer, IndexedRows, Questions
from undue_service.domain.tasks import EXPLAIN_ROWS, ExplainCall

from . import job_responses
from .enums import DTYPES, MEASUREMENTS
from .responses import numbers

TOP_K = 10


def questions(request: indexes_pb2.ExplainRequest) -> tuple[Questions, ExplainCall]:
    """Return the rows that a request asks about, and what it wants to know.

    Raises:
        InvalidArgument: NON_FINITE_DATA; ROWS_MISMATCH; INVALID_FIELD for a tensor that is an upload, holds strings or
            has other bytes than its shape says, and for too many rows.
    """
    inputs = {name: _array(f"inputs[{name}]", tensor) for name, tensor in sorted(request.inputs.items())}
    targets = _array("targets", request.targets) if request.HasField("targets") else None
    counts = {f"inputs[{name}]": len(array) for name, array in inputs.items()}
    if targets is not None:
        counts["targets"] = len(targets)
    first, count = next(iter(counts.items()))
    for field, other in counts.items():
        if other != count:
            text = f"has {other:,} rows, {first} has {count:,}"
            raise InvalidArgument.at(field, text, Reason.ROWS_MISMATCH)
    if not 1 <= count <= EXPLAIN_ROWS:
        raise InvalidArgument.at(first, f"has {count:,} rows; a call asks about 1 to {EXPLAIN_ROWS}")
    call = ExplainCall(
        measurement=cast(Any, MEASUREMENTS.to_domain("measurement", request.measurement or jobs_pb2.MEASUREMENT_LOSS)),
        top_k=request.top_k or TOP_K,
        exact=request.exact,
        with_instances=not request.without_instances,
    )
    return Questions(inputs, targets), call


def response(answer: Answer, index: Index, report: ExplainReport, *, exact: bool) -> indexes_pb2.ExplainResponse:
    """Return what one call gets."""
    return indexes_pb2.ExplainResponse(
        explanations=[job_responses.explanation(one) for one in answer.explanations],
        recall=1.0 if exact else report.recall,
        index=index.name,
        instances=[_instances(part, index) for part in answer.instances],
        method=report.method,
        damping=report.damping,
    )


def _instances(part: IndexedRows, index: Index) -> indexes_pb2.IndexedRows:
    message = indexes_pb2.IndexedRows(
        dataset=index.datasets[part.dataset], rows=part.rows, dataset_rows=part.dataset_rows
    )
    for name, array in part.inputs.items():
        message.inputs[name].CopyFrom(numbers(array))
    return message


def _array(field: str, tensor: tensors_pb2.Tensor) -> npt.NDArray[Any]:
    dtype = DTYPES.to_domain(f"{field}.dtype", tensor.dtype)
    if tensor.HasField("upload"):
        text = "an upload is for data sets: send the rows' bytes themselves, of fewer rows if they are too many"
        raise InvalidArgument.at(f"{field}.upload", text)
    if dtype == "utf8":
        raise InvalidArgument.at(f"{field}.dtype", "a model takes numbers: send what its data set has, not strings")
    shape, kind = tuple(tensor.shape), np.dtype(dtype).newbyteorder("<")
    if kind.itemsize * math.prod(max(1, size) for size in shape) >= 2**63:  # numpy has none, were it empty
        raise InvalidArgument.at(f"{field}.shape", f"{shape} is larger than any array")
    if len(tensor.data) != kind.itemsize * math.prod(shape):
        text = f"{len(tensor.data):,} bytes; {dtype} of shape {shape} has {kind.itemsize * math.prod(shape):,}"
        raise InvalidArgument.at(f"{field}.data", text)
    if dtype == "bool":
        return np.frombuffer(tensor.data, np.uint8).reshape(shape).astype(np.bool_)
    array = np.frombuffer(tensor.data, kind).reshape(shape)
    if kind.kind == "f" and not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        text = f"row {row} has NaN or infinity in it, of which a model makes nothing: send finite numbers"
        raise InvalidArgument.at(f"{field}.data", text, Reason.NON_FINITE_DATA)
    return array
