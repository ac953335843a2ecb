import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.wire import frames_pb2 as frames
from undue_service.wire.framing import MAX_FRAME_BYTES, FrameError, RunnerChannel, encode, read_from_runner


def read(data: bytes):
    async def main():
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_from_runner(reader)

    return asyncio.run(main())


PROGRESS = frames.FromRunner(progress=frames.Progress(id="a", stage="s", done=1, total=2))


def test_a_frame_round_trips():
    assert read(encode(PROGRESS)) == PROGRESS


@pytest.mark.parametrize("cut", range(len(encode(PROGRESS))))
def test_a_cut_frame_is_the_end(cut):
    assert read(encode(PROGRESS)[:cut]) is None


@given(st.binary(max_size=200))
def test_nonsense_is_an_error_or_the_end_never_anything_else(data):
    try:
        frame = read(data)
    except FrameError:
        return
    assert frame is None or frame.WhichOneof("frame")


def test_a_length_beyond_the_limit_is_refused_before_any_memory_is_taken():
    with pytest.raises(FrameError):
        read((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


def test_a_task_may_be_longer_than_an_answer():
    body = b"x" * (MAX_FRAME_BYTES + 1)
    assert encode(frames.ToRunner(task=frames.Task(body=body))).endswith(body)
    with pytest.raises(FrameError):
        encode(frames.FromRunner(done=frames.Done(result=body)))


def test_the_runners_end_reads_frames_in_order_and_then_the_end():
    ours, theirs = socket.socketpair()
    tasks = [frames.ToRunner(task=frames.Task(id=str(number), body=b"x" * number * 70_000)) for number in range(3)]
    channel = RunnerChannel(theirs)
    ours.setblocking(True)
    for task in tasks:
        ours.sendall(encode(task)[:5])
        ours.sendall(encode(task)[5:])
        assert channel.receive() == task
    ours.close()
    assert channel.receive() is None
    theirs.close()
