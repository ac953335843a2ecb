"""Send how a model was trained, and its weights at other times."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from undue import _convert
from undue._blobs import blob_of_file
from undue._grpc_aio import in_thread
from undue._recipes import Checkpoint, Training, is_initialiser, weights_file
from undue.v1 import models_pb2

from .connection import AsyncConnection
from .uploads import send


async def send_training(connection: AsyncConnection, training: Training) -> models_pb2.Training:
    """Return the message of a recipe; weights that it begins with are sent.

    Raises:
        InvalidArgument: the weights cannot be sent.
        Error: as `send`.
    """
    message = _convert.training_message(training)
    if training.init is not None and not is_initialiser(training.init):
        message.weights.CopyFrom(await _send_weights(connection, "training.init", training.init))
    return message


async def send_checkpoints(
    connection: AsyncConnection, checkpoints: Iterable[Checkpoint]
) -> list[models_pb2.Checkpoint]:
    """Return the messages of checkpoints, whose weights are sent.

    Raises:
        InvalidArgument: the weights of one cannot be sent.
        Error: as `send`.
    """
    sent = []
    for place, each in enumerate(checkpoints):
        weights = await _send_weights(connection, f"checkpoints[{place}].source", each.source)
        sent.append(models_pb2.Checkpoint(weights=weights, learning_rate=each.learning_rate))
    return sent


async def _send_weights(connection: AsyncConnection, field: str, source: object) -> models_pb2.WeightsFile:
    with tempfile.TemporaryDirectory(prefix="undue-") as scratch:
        path, found = await in_thread(weights_file, field, source, Path(scratch))
        upload = await send(connection, await in_thread(blob_of_file, path, field))
    return models_pb2.WeightsFile(format=_convert.WEIGHTS_FORMATS[found], upload=upload)
