"""Messages of indexes and of what `Explain` answers to values of the SDK. Pure functions."""

import dataclasses
from typing import Any

import numpy as np

from . import _convert_jobs
from ._convert import failure, moment, name
from ._errors import Internal
from ._indexes import Alias, Index, IndexReport, IndexState
from ._questions import Question
from ._resources import Example
from ._results import Explanation, Instances, Value
from ._tensors import decode
from .v1 import indexes_pb2

STALE = 0.1
"""From this staleness on an index should be built anew."""


def index(message: indexes_pb2.Index) -> Index:
    """Return the value of an index."""
    return Index(
        name=message.name,
        model=message.model,
        train=message.train,
        method=message.method,
        damping=message.damping if message.HasField("damping") else None,
        parameters=tuple(message.parameters),
        leverage_correction=message.leverage_correction if message.HasField("leverage_correction") else None,
        seed=message.seed,
        state=IndexState(name(indexes_pb2.Index.State, message.state, "STATE_")),
        job=message.job,
        report=_report(message.report) if message.HasField("report") else None,
        failure=failure(message.error, message.name) if message.HasField("error") else None,
        datasets=tuple(message.datasets),
        erased_rows=message.erased_rows,
        create_time=moment(message.create_time),
        etag=message.etag,
        warnings=_stale(message) + tuple(message.report.diagnostics.warnings),
    )


def _stale(message: indexes_pb2.Index) -> tuple[str, ...]:
    found = message.report.staleness
    if found < STALE:
        return ()
    return (f"its rows have moved from the curvature that was fitted, staleness {found:.2g}: build it anew",)


def _report(message: indexes_pb2.IndexReport) -> IndexReport:
    return IndexReport(
        rows=message.rows,
        bytes=message.bytes,
        bytes_per_row=message.bytes_per_row,
        resident_bytes=message.resident_bytes,
        recall=message.recall,
        recall_queries=message.recall_queries,
        staleness=message.staleness,
        diagnostics=_convert_jobs.diagnostics(message.diagnostics),
    )


def alias(message: indexes_pb2.Alias) -> Alias:
    """Return the value of an alias."""
    return Alias(message.name, message.index, moment(message.update_time))


def explanations(
    message: indexes_pb2.ExplainResponse, first: int, asked: Instances, train: Instances
) -> list[Explanation]:
    """Return the explanations of an answer about the rows from `first` on.

    `asked` and `train` are where the instances can be read.
    """
    return [
        dataclasses.replace(
            _convert_jobs.explanation(each, asked, train),
            row=first + each.row,
            recall=message.recall,
            index=message.index,
        )
        for each in message.explanations
    ]


def question(asked: Question, row: int) -> Example:
    """Return a row that was asked about."""
    at = row - asked.first
    target = None if asked.targets is None else decode(asked.targets)[at]
    return Example(
        row=row,
        id="",
        inputs={name: decode(tensor)[at] for name, tensor in asked.inputs.items()},
        target=target.item() if target is not None and target.ndim == 0 else target,
        weight=None,
        groups={},
    )


def listed(message: indexes_pb2.ExplainResponse) -> dict[int, Example]:
    """Return the instances that came with an answer, by their number in the index.

    Raises:
        Internal: they do not fit together.
    """
    scored = {each.row: each for explained in message.explanations for each in (*explained.helpful, *explained.harmful)}
    found: dict[int, Example] = {}
    for block in message.instances:
        inputs = {name: decode(tensor) for name, tensor in block.inputs.items()}
        if {len(block.dataset_rows), *map(len, inputs.values())} != {len(block.rows)} or not scored.keys() >= {
            *block.rows
        }:
            raise Internal(f"{message.index} answered with instances of {block.dataset} that do not fit its lists")
        for at, row in enumerate(block.rows):
            told = scored[row]
            found[row] = Example(
                row=block.dataset_rows[at],
                id=told.id,
                inputs={name: array[at] for name, array in inputs.items()},
                target=_array(_convert_jobs.value(told.target)),
                weight=None,
                groups={},
                dataset=block.dataset,
            )
    return found


def _array(value: Value) -> Any:
    return np.array(value) if isinstance(value, tuple) else value
