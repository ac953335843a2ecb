"""Diagnostics, predictions, targets and scored rows as messages. Pure."""

from undue.v1 import jobs_pb2, tensors_pb2
from undue_service.domain.reports import Diagnostics
from undue_service.domain.results import ScoredExample, Value

from . import fidelity
from .enums import DAMPING_SOURCES, DTYPES, SCALES
from .responses import stationarity


def diagnostics(value: Diagnostics) -> jobs_pb2.Diagnostics:
    """Return what scores mean."""
    return jobs_pb2.Diagnostics(
        estimand=value.estimand,
        scale=SCALES.to_proto(value.scale),
        method=value.method,
        damping=value.damping,
        damping_source=DAMPING_SOURCES.to_proto(value.damping_source),
        leverage_correction=value.leverage_correction,
        solver=value.solver,
        solver_status=value.solver_status,
        residual=value.residual,
        stationarity=stationarity(value.stationarity),
        recipe=value.recipe,
        seed=value.seed,
        dtype=DTYPES.to_proto(value.dtype),
        device=value.device,
        digests=value.digests,
        seconds=value.seconds,
        warnings=value.warnings,
        matvecs=value.matvecs,
        fidelity=None if value.fidelity is None else fidelity.write_finding(value.fidelity),
    )


def scored_example(value: ScoredExample) -> jobs_pb2.ScoredExample:
    """Return a training row with its score."""
    return jobs_pb2.ScoredExample(
        row=value.row,
        id=value.id,
        score=value.score,
        target=value_message(value.target),
        prediction=value_message(value.prediction),
        loss=value.loss,
    )


def value_message(value: Value) -> tensors_pb2.Value:
    """Return a class, a number or several numbers."""
    if isinstance(value, tuple):
        return tensors_pb2.Value(numbers=tensors_pb2.NumberList(values=value))
    return tensors_pb2.Value(label=value) if isinstance(value, int) else tensors_pb2.Value(number=value)
