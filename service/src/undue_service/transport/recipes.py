"""Training recipes and checkpoints between messages and values of the domain."""

from typing import Any, cast

from undue.v1 import models_pb2
from undue_service.domain.specs import CheckpointSpec, TrainingSpec, WeightsFile

from .enums import INITIALISERS, OPTIMIZERS, SCHEDULES, WEIGHTS_FORMATS
from .sources import Digest


def read_training(field: str, message: models_pb2.Training, digest: Digest) -> TrainingSpec:
    """Return the recipe of a request."""
    init: Any = None
    match message.WhichOneof("init"):
        case "weights":
            init = _read_weights(f"{field}.weights", message.weights, digest)
        case "initialiser":
            init = INITIALISERS.to_domain(f"{field}.initialiser", message.initialiser)
    known = {
        "beta1": message.beta1 if message.HasField("beta1") else 0.9,
        "beta2": message.beta2 if message.HasField("beta2") else 0.999,
    }
    return TrainingSpec(
        optimizer=cast(Any, OPTIMIZERS.to_domain(f"{field}.optimizer", message.optimizer)),
        lr=message.lr,
        epochs=message.epochs,
        batch_size=message.batch_size if message.HasField("batch_size") else None,
        momentum=message.momentum,
        betas=(known["beta1"], known["beta2"]),
        eps=message.eps if message.HasField("eps") else 1e-8,
        schedule=cast(Any, SCHEDULES.to_domain(f"{field}.schedule", message.schedule)),
        seed=message.seed,
        init=init,
    )


def read_checkpoint(field: str, message: models_pb2.Checkpoint, digest: Digest) -> CheckpointSpec:
    """Return a checkpoint of a request."""
    return CheckpointSpec(_read_weights(f"{field}.weights", message.weights, digest), message.learning_rate)


def write_training(value: TrainingSpec) -> models_pb2.Training:
    """Return the message of a recipe."""
    message = models_pb2.Training(
        optimizer=OPTIMIZERS.to_proto(value.optimizer),
        lr=value.lr,
        epochs=value.epochs,
        batch_size=value.batch_size,
        momentum=value.momentum,
        beta1=value.betas[0],
        beta2=value.betas[1],
        eps=value.eps,
        schedule=SCHEDULES.to_proto(value.schedule),
        seed=value.seed,
    )
    if isinstance(value.init, WeightsFile):
        message.weights.format = WEIGHTS_FORMATS.to_proto(value.init.format)
    elif value.init is not None:
        message.initialiser = INITIALISERS.to_proto(value.init)
    return message


def write_checkpoint(value: CheckpointSpec) -> models_pb2.Checkpoint:
    """Return the message of a checkpoint."""
    weights = models_pb2.WeightsFile(format=WEIGHTS_FORMATS.to_proto(value.weights.format))
    return models_pb2.Checkpoint(weights=weights, learning_rate=value.learning_rate)


def _read_weights(field: str, message: models_pb2.WeightsFile, digest: Digest) -> WeightsFile:
    found = WEIGHTS_FORMATS.to_domain(f"{field}.format", message.format)
    return WeightsFile(cast(Any, found), digest(f"{field}.upload", message.upload))
