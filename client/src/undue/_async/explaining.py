"""Explain rows from an index, and find the instances that an answer lists."""

import time

from undue import _convert_indexes, _convert_jobs
from undue._errors import Internal
from undue._explain_results import ExplainResult
from undue._inputs import Measurement, index_name, non_negative, positive
from undue._questions import Question, questions
from undue._resources import Example
from undue._results import Explanation
from undue.v1 import datasets_pb2, indexes_pb2

from .connection import AsyncConnection
from .instances import read_rows


async def explain(
    connection: AsyncConnection,
    index: object,
    inputs: object,
    targets: object,
    measurement: Measurement,
    top_k: int,
    exact: bool,
    with_instances: bool,
    timeout: float | None,
) -> ExplainResult:
    """Return the explanations of some rows, in as many calls as they take; all of them ask the same index.

    Raises:
        InvalidArgument: an argument is wrong.
        Error: whatever the service answered.
    """
    deadline = None if timeout is None else time.monotonic() + non_negative("timeout", timeout)
    request = indexes_pb2.ExplainRequest(
        index=index_name("index", index),
        measurement=_convert_jobs.measurement("measurement", measurement),
        top_k=positive("top_k", top_k),
        exact=exact,
        without_instances=not with_instances,
    )
    found: list[Explanation] = []
    recall, answer = 1.0, indexes_pb2.ExplainResponse()
    for part in questions(inputs, targets):
        asked = indexes_pb2.ExplainRequest(inputs=part.inputs, targets=part.targets)
        asked.MergeFrom(request)
        answer = await connection.call(connection.indexes.Explain, asked, deadline)
        # An alias that is set to another index meanwhile must not make one result of two.
        request.index = answer.index
        recall = min(recall, answer.recall)
        train = AsyncIndexedRows(connection, answer)
        found += _convert_indexes.explanations(answer, part.first, AsyncAskedRows(part), train)
    return ExplainResult(tuple(found), answer.index, recall, answer.method, answer.damping)


class AsyncAskedRows:
    """The rows of one request, which are here."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._known: dict[int, Example] = {}

    async def get(self, row: int) -> Example:
        """Return a row."""
        if row not in self._known:
            self._known[row] = _convert_indexes.question(self._question, row)
        return self._known[row]


class AsyncIndexedRows:
    """The rows that an answer lists: as they came with it, else read from the data set that each lies in."""

    def __init__(self, connection: AsyncConnection, answer: indexes_pb2.ExplainResponse) -> None:
        self._connection = connection
        self._index = answer.index
        self._known = _convert_indexes.listed(answer)
        self._sizes: list[tuple[str, int]] | None = None

    async def get(self, row: int) -> Example:
        """Return a row by its number in the index.

        Raises:
            NotFound: the index or a data set of it has been deleted.
            Unavailable: the service cannot be reached.
        """
        if row not in self._known:
            dataset, place = await self._locate(row)
            [self._known[row]] = await read_rows(self._connection, dataset, [place])
        return self._known[row]

    async def _locate(self, row: int) -> tuple[str, int]:
        """Return data set and row of it: the index numbers the rows of its data sets through."""
        if self._sizes is None:
            request = indexes_pb2.GetIndexRequest(name=self._index)
            index = await self._connection.call(self._connection.indexes.GetIndex, request)
            sizes = []
            for name in index.datasets:
                of = datasets_pb2.GetDatasetRequest(name=name)
                dataset = await self._connection.call(self._connection.datasets.GetDataset, of)
                sizes.append((name, dataset.report.rows))
            self._sizes = sizes
        place = row
        for name, rows in self._sizes:
            if place < rows:
                return name, place
            place -= rows
        raise Internal(f"{self._index} listed row {row}, but its data sets have {row - place} rows")
