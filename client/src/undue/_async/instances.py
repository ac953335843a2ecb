"""The instances themselves: rows of a data set, read on demand."""

from collections.abc import Sequence

from undue import _convert
from undue._errors import Unavailable
from undue._grpc_aio import sleep
from undue._resources import Example
from undue._retry import CALL
from undue.v1 import datasets_pb2

from .connection import CALL_SECONDS, AsyncConnection

_ROWS_AT_ONCE = 1000


async def read_rows(connection: AsyncConnection, name: str, rows: Sequence[int]) -> tuple[Example, ...]:
    """Return rows of a data set, in the order given; a broken stream is read again.

    Raises:
        DeadlineExceeded: a thousand rows took longer than any call may.
        Error: whatever the service answered.
    """
    found: list[Example] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        request = datasets_pb2.ReadRowsRequest(name=name, rows=rows[start : start + _ROWS_AT_ONCE])
        pauses = CALL.pauses()
        while True:
            part: list[Example] = []
            try:
                async with connection.reading:
                    async for block in connection.download(connection.datasets.ReadRows, request, CALL_SECONDS):
                        part += _convert.examples(block, name)
            except Unavailable:
                pause = next(pauses, None)
                if pause is None:
                    raise
                await sleep(pause)
            else:
                break
        found += part
    return tuple(found)


class AsyncInstances:
    """The rows of one data set, by number; what was read once is kept."""

    def __init__(self, connection: AsyncConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._known: dict[int, Example] = {}

    async def get(self, row: int) -> Example:
        """Return a row.

        Raises:
            NotFound: the data set has been deleted.
            Unavailable: the service cannot be reached.
        """
        if row not in self._known:
            [self._known[row]] = await read_rows(self._connection, self._name, [row])
        return self._known[row]
