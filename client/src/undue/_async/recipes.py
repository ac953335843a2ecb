"""Send how a model was trained, and its weights at other times."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from undue._blobs import blob_of_file
from undue._convert import SCHEDULES, WEIGHTS_FORMATS
from undue._errors import invalid
from undue._grpc_aio import in_thread
from undue._recipes import INITIALISERS, Checkpoint, Training, weights_file
from undue.v1 import models_pb2

from .connection import AsyncConnection
from .uploads import send


async def send_training(connection: AsyncConnection, training: object) -> models_pb2.Training:
    """Return the message of a recipe; weights that it begins with are sent.

    Raises:
        InvalidArgument: it is no recipe.
        Error: as `send`.
    """
    if not isinstance(training, Training):
        raise invalid("training", "must be an undue.Training, e.g. undue.Training('adam', lr=1e-3, epochs=20)")
    adam = training.optimizer == "adam"
    message = models_pb2.Training(
        optimizer=models_pb2.Training.OPTIMIZER_ADAM if adam else models_pb2.Training.OPTIMIZER_SGD,
        lr=training.lr,
        epochs=training.epochs,
        batch_size=training.batch_size,
        momentum=training.momentum,
        beta1=training.betas[0],
        beta2=training.betas[1],
        eps=training.eps,
        schedule=SCHEDULES[training.schedule],
        seed=training.seed,
    )
    if isinstance(training.init, str) and training.init in INITIALISERS:
        message.initialiser = models_pb2.Training.INITIALISER_TORCH
    elif training.init is not None:
        message.weights.CopyFrom(await _send_weights(connection, "training.init", training.init))
    return message


async def send_checkpoints(connection: AsyncConnection, checkpoints: Iterable[object]) -> list[models_pb2.Checkpoint]:
    """Return the messages of checkpoints, whose weights are sent.

    Raises:
        InvalidArgument: one is none.
        Error: as `send`.
    """
    sent = []
    for place, each in enumerate(checkpoints):
        if not isinstance(each, Checkpoint):
            raise invalid(f"checkpoints[{place}]", "must be an undue.Checkpoint(source, learning_rate)")
        weights = await _send_weights(connection, f"checkpoints[{place}].source", each.source)
        sent.append(models_pb2.Checkpoint(weights=weights, learning_rate=each.learning_rate))
    return sent


async def _send_weights(connection: AsyncConnection, field: str, source: object) -> models_pb2.WeightsFile:
    with tempfile.TemporaryDirectory(prefix="undue-") as scratch:
        path, found = await in_thread(weights_file, field, source, Path(scratch))
        upload = await send(connection, await in_thread(blob_of_file, path, field))
    return models_pb2.WeightsFile(format=WEIGHTS_FORMATS[found], upload=upload)
