"""Messages about retraining and linear models to values of the SDK, and back. Pure functions."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._convert import name
from ._errors import Internal, invalid
from ._fidelity import Agreement, FidelityFinding, FidelityKind, FidelitySettings, Interval, Start, Stratum
from ._fidelity_results import FidelityResult
from ._leverage_results import LeverageResult
from ._results import Counterfactual, Diagnostics
from ._tensors import decode
from .v1 import jobs_pb2

_STARTS: dict[Start, jobs_pb2.Start.ValueType] = {"warm": jobs_pb2.START_WARM, "cold": jobs_pb2.START_COLD}
_PROTOCOLS: dict[FidelityKind, jobs_pb2.FidelitySettings.Protocol.ValueType] = {
    "loo": jobs_pb2.FidelitySettings.PROTOCOL_LOO,
    "lds": jobs_pb2.FidelitySettings.PROTOCOL_LDS,
}


def start(field: str, word: Start | None) -> jobs_pb2.Start.ValueType | None:
    """Return the number of where training begins.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if word is None:
        return None
    if word not in _STARTS:
        raise invalid(field, f"{word!r} is not one of {', '.join(_STARTS)}")
    return _STARTS[word]


def fidelity_settings(value: FidelitySettings) -> jobs_pb2.FidelitySettings:
    """Return the message of how scores are held against retraining."""
    return jobs_pb2.FidelitySettings(
        protocol=_PROTOCOLS[value.kind],
        samples=value.samples,
        strata=value.strata,
        share=value.share,
        seeds=value.seeds,
        start=start("start", value.start),
        bootstrap=value.bootstrap,
        seed=value.seed,
    )


def finding(message: jobs_pb2.FidelityFinding) -> FidelityFinding:
    """Return the value of how well scores foretell what retraining does."""
    protocols = jobs_pb2.FidelitySettings.Protocol
    return FidelityFinding(
        kind=name(protocols, message.protocol, "PROTOCOL_").lower(),
        recipe=message.recipe,
        agreement=_agreement(message.agreement),
        strata=tuple(Stratum(each.low, each.high, _agreement(each.agreement)) for each in message.strata),
        lds=_interval(message.lds) if message.HasField("lds") else None,
        seconds=message.seconds,
        warnings=tuple(message.warnings),
    )


def fidelity_result(rows: Iterable[int], found: Sequence[jobs_pb2.Comparison], of: Diagnostics) -> FidelityResult:
    """Return the value of a fidelity job's result.

    Raises:
        Internal: the retrainings do not fit together.
    """
    test_rows = tuple(rows)
    if of.fidelity is None:
        raise Internal("the service sent a fidelity job's result without its finding")
    by_subsets = of.fidelity.kind == "lds"
    drawn = [list(each.subset if by_subsets else each.without) for each in found]
    lengths = {len(rows_of) for rows_of in drawn} | ({1} if not by_subsets else set())
    whole = all(len(each.predicted) == len(each.measured) == len(test_rows) for each in found)
    if not found or not whole or len(lengths) != 1:
        raise Internal("the service sent retrainings that do not fit together")
    rows_of = _integers(drawn)
    return FidelityResult(
        rows=test_rows,
        without=None if by_subsets else rows_of[:, 0],
        stratum=(
            None if by_subsets else _integers([each.stratum if each.HasField("stratum") else -1 for each in found])
        ),
        subsets=rows_of if by_subsets else None,
        predicted=_matrix(each.predicted for each in found),
        measured=_matrix(each.measured for each in found),
        finding=of.fidelity,
        diagnostics=of,
    )


def leverage_result(job: str, blocks: Sequence[jobs_pb2.LeverageBlock], of: Diagnostics) -> LeverageResult:
    """Return the value of a leverage job's result.

    Raises:
        Internal: the blocks do not fit together.
    """
    if not blocks:
        raise Internal(f"{job} found nothing")
    coefficients = tuple(blocks[0].coefficients)
    changes: list[npt.NDArray[Any]] = []
    reached = 0
    for block in blocks:
        size = len(block.leverage)
        fits = block.first == reached and len(block.ids) == len(block.cooks_distance) == size
        if block.HasField("dfbeta"):
            changes.append(decode(block.dfbeta))
            fits = fits and changes[-1].shape == (size, len(coefficients))
        elif coefficients:
            fits = False
        if not fits:
            raise Internal(f"what {job} found came in blocks that do not fit together")
        reached += size
    dfbeta = np.concatenate(changes).astype(np.float64, copy=False) if changes else None
    if dfbeta is not None:
        dfbeta.flags.writeable = False
    return LeverageResult(
        rows=_integers(range(reached)),
        ids=tuple(each for block in blocks for each in block.ids),
        leverage=numbers([each for block in blocks for each in block.leverage]),
        cooks_distance=numbers([each for block in blocks for each in block.cooks_distance]),
        dfbeta=dfbeta,
        coefficients=coefficients,
        effective_parameters=blocks[0].effective_parameters,
        variance=blocks[0].variance,
        diagnostics=of,
    )


def counterfactual(message: jobs_pb2.Counterfactual) -> Counterfactual:
    """Return the value of a counterfactual."""
    return Counterfactual(
        index=message.index,
        without=tuple(message.without),
        changes=numbers(message.changes),
        gradient_norm=message.gradient_norm,
        iterations=message.iterations,
        replaced=tuple(message.replaced),
        relabelled=tuple(message.relabelled),
        reweighted=tuple(message.reweighted),
    )


def numbers(values: Iterable[float]) -> npt.NDArray[np.float64]:
    """Return numbers as an array that is not written to."""
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array


def _agreement(message: jobs_pb2.Agreement) -> Agreement:
    return Agreement(
        pearson=_interval(message.pearson),
        spearman=_interval(message.spearman),
        slope=_interval(message.slope),
        retrainings=message.retrainings,
        pairs=message.pairs,
    )


def _interval(message: jobs_pb2.Interval) -> Interval:
    return Interval(message.value, message.low, message.high)


def _integers(values: Iterable[Any]) -> npt.NDArray[np.int64]:
    array = np.array(list(values), dtype=np.int64)
    array.flags.writeable = False
    return array


def _matrix(rows: Iterable[Iterable[float]]) -> npt.NDArray[np.float64]:
    array = np.array([np.array(row, dtype=np.float64) for row in rows])
    array.flags.writeable = False
    return array
