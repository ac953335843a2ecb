"""What the asyncio flavour of gRPC does its own way. `_grpc_blocking` is the twin."""

import asyncio
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import grpc.aio

from ._errors import FailedPrecondition

P = ParamSpec("P")
R = TypeVar("R")

Channel = grpc.aio.Channel
UnaryMethod = grpc.aio.UnaryUnaryMultiCallable
DownloadMethod = grpc.aio.UnaryStreamMultiCallable
UploadMethod = grpc.aio.StreamUnaryMultiCallable
Gate = asyncio.Semaphore


def open_channel(address: str, options: Sequence[tuple[str, int]]) -> Channel:
    """Return a channel to an address; it connects at the first call.

    Raises:
        FailedPrecondition: no event loop is running.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise FailedPrecondition(
            "create an AsyncClient inside a coroutine: it belongs to the running event loop"
        ) from None
    return grpc.aio.insecure_channel(address, options=list(options))


async def close_channel(channel: Channel) -> None:
    """Close a channel and cancel its calls."""
    await channel.close()


def forget_channel(channel: Channel, owner: int) -> None:
    """Leave a channel that nobody closed to its own finaliser: closing it takes a loop that may be gone."""
    del channel, owner


async def sleep(seconds: float) -> None:
    """Pause."""
    await asyncio.sleep(seconds)


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run something that blocks, without blocking the event loop."""
    return await asyncio.to_thread(function, *args, **kwargs)
