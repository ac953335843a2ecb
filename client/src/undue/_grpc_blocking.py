"""What the blocking flavour of gRPC does its own way. `_grpc_aio` is the twin."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import grpc

P = ParamSpec("P")
R = TypeVar("R")

Channel = grpc.Channel
UnaryMethod = grpc.UnaryUnaryMultiCallable
DownloadMethod = grpc.UnaryStreamMultiCallable
UploadMethod = grpc.StreamUnaryMultiCallable
Gate = threading.Semaphore


def open_channel(address: str, options: Sequence[tuple[str, int]]) -> Channel:
    """Return a channel to an address; it connects at the first call."""
    return grpc.insecure_channel(address, options=list(options))


def close_channel(channel: Channel) -> None:
    """Close a channel and cancel its calls."""
    channel.close()


def forget_channel(channel: Channel, owner: int) -> None:
    """Close a channel that nobody closed; a forked child leaves its parent's alone."""
    if os.getpid() == owner:
        channel.close()


def sleep(seconds: float) -> None:
    """Pause."""
    time.sleep(seconds)


def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run something that blocks."""
    return function(*args, **kwargs)
