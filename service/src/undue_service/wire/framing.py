"""Length-prefixed frames: four bytes of length, big-endian, then a protobuf message."""

import asyncio
import socket
import struct
import threading

from .frames_pb2 import FromRunner, ToRunner

MAX_FRAME_BYTES = 4 << 20
"""A longer frame from a runner is nonsense: large results are files."""

MAX_TASK_BYTES = 64 << 20
"""A task names every file of its data sets, of which a folder of images has many."""

MAX_ANSWER_BYTES = 32 << 20
"""Of arrays beside a result, for tasks that have such: of the answers of one batch, each of which is one message to its
client. What this process holds for a runner that lies is bounded by it."""

ALIVE_SECONDS = 3.0
"""How often a runner says that it lives."""

_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """The other end sent what is not a frame."""


def encode(frame: FromRunner | ToRunner) -> bytes:
    """Return the frame with its length in front.

    Raises:
        FrameError: the frame is too long to send.
    """
    body = frame.SerializeToString()
    most = MAX_TASK_BYTES if isinstance(frame, ToRunner) else MAX_FRAME_BYTES
    if isinstance(frame, FromRunner) and frame.done.attachment:
        most += MAX_ANSWER_BYTES
    if len(body) > most:
        raise FrameError(f"a frame of {len(body):,} bytes")
    return _LENGTH.pack(len(body)) + body


async def read_from_runner(reader: asyncio.StreamReader, most: int = MAX_FRAME_BYTES) -> FromRunner | None:
    """Return the next frame, of at most `most` bytes, or None where the runner has closed its end.

    Raises:
        FrameError: what came is not a frame.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > most:
            raise FrameError(f"a frame of {length:,} bytes")
        body = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None
    frame = FromRunner()
    try:
        frame.ParseFromString(body)
    except Exception as error:  # protobuf's DecodeError has no stable base class across its implementations
        raise FrameError(f"a frame that does not parse: {error}") from error
    if frame.WhichOneof("frame") is None:
        raise FrameError("an empty frame")
    return frame


class RunnerChannel:
    """The runner's end. Sending is safe from any thread; reading is for one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, frame: FromRunner) -> None:
        """Send a frame."""
        data = encode(frame)
        with self._lock:
            self._connection.sendall(data)

    def receive(self) -> ToRunner | None:
        """Return the next frame, or None where the service has closed its end."""
        head = self._exactly(_LENGTH.size)
        if head is None:
            return None
        body = self._exactly(_LENGTH.unpack(head)[0])
        return None if body is None else ToRunner.FromString(body)

    def _exactly(self, count: int) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            part = self._connection.recv(min(count - len(data), 1 << 20))
            if not part:
                return None
            data += part
        return bytes(data)
