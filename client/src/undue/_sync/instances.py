# Generated from _async/instances.py by tools/unasync.py: change that file, then run it with `generate`.
"""The instances themselves: rows of a data set, read on demand."""

from collections.abc import Sequence

from undue import _convert
from undue._errors import Unavailable
from undue._grpc_blocking import sleep
from undue._resources import Example
from undue._retry import CALL
from undue.v1 import datasets_pb2

from .connection import CALL_SECONDS, Connection

_ROWS_AT_ONCE = 1000


def read_rows(connection: Connection, name: str, rows: Sequence[int]) -> tuple[Example, ...]:
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
                with connection.reading:
                    for block in connection.download(connection.datasets.ReadRows, request, CALL_SECONDS):
                        part += _convert.examples(block, name)
            except Unavailable:
                pause = next(pauses, None)
                if pause is None:
                    raise
                sleep(pause)
            else:
                break
        found += part
    return tuple(found)


class Instances:
    """The rows of one data set, by number; what was read once is kept."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._known: dict[int, Example] = {}

    def get(self, row: int) -> Example:
        """Return a row.

        Raises:
            NotFound: the data set has been deleted.
            Unavailable: the service cannot be reached.
        """
        if row not in self._known:
            [self._known[row]] = read_rows(self._connection, self._name, [row])
        return self._known[row]
