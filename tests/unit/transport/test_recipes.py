"""Models with recipes and checkpoints into the domain and back, and as the store keeps them."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue.v1 import models_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.jobs import Job
from undue_service.domain.reports import CheckpointReport, ModelReport, Stationarity
from undue_service.domain.resources import Registration
from undue_service.domain.specs import CheckpointSpec, ModelSpec, ObjectiveSpec, TrainingSpec, WeightsFile
from undue_service.domain.validations import ModelValidation
from undue_service.transport import requests, responses
from undue_service.transport.validation import check
from undue_service.wire.codec import RESOURCE_SPEC

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RATES = st.floats(1e-300, 1e300)
BELOW_ONE = st.floats(0, 1, exclude_max=True)
WEIGHTS = st.builds(WeightsFile, st.sampled_from(["safetensors", "onnx", "pt2"]), st.from_regex(r"\A[0-9a-f]{64}\Z"))
TRAININGS = st.builds(
    TrainingSpec,
    optimizer=st.sampled_from(["sgd", "adam"]),
    lr=RATES,
    epochs=st.integers(1, 1_000_000),
    batch_size=st.none() | st.integers(1, 2**31 - 1),
    momentum=BELOW_ONE,
    betas=st.tuples(BELOW_ONE, BELOW_ONE),
    eps=RATES,
    schedule=st.none() | st.sampled_from(["linear", "cosine"]),
    seed=st.integers(0, 2**63 - 1),
    init=st.none() | st.just("torch") | WEIGHTS,
)
CHECKPOINTS = st.lists(st.builds(CheckpointSpec, WEIGHTS, RATES), max_size=3).map(tuple)
OLD = ModelSpec("onnx", "ab", ObjectiveSpec("cross_entropy", 1e-3, ("*bias*",)), ("fc.*",), "logits", "datasets/d")


def sent(message: models_pb2.Model, spec: ModelSpec) -> models_pb2.CreateModelRequest:
    """Return the request for a model: what is answered has no uploads, which are named as their digests here."""
    message.upload = spec.digest
    if isinstance(spec.training and spec.training.init, WeightsFile):
        message.training.weights.upload = spec.training.init.digest
    for one, checkpoint in zip(message.checkpoints, spec.checkpoints, strict=True):
        one.weights.upload = checkpoint.weights.digest
    return models_pb2.CreateModelRequest(model_id="m", model=message)


def registered(spec, report=None) -> Registration:
    job = Job("t", "j", ModelValidation("models/m/versions/1"), NOW, report=report)
    return Registration("t", "models", "m", 1, spec, job, NOW)


@given(st.none() | TRAININGS, CHECKPOINTS)
def test_a_model_reads_the_same_in_the_answer_and_in_the_store(training, checkpoints):
    spec = replace(OLD, training=training, checkpoints=checkpoints)
    message = responses.model(registered(spec))
    request = sent(message, spec)
    check(request)
    assert requests.model_spec(request, lambda field, upload: upload) == spec
    assert RESOURCE_SPEC.load(RESOURCE_SPEC.dump(spec)) == spec


@given(st.none() | TRAININGS, CHECKPOINTS)
def test_every_file_of_a_model_is_one_of_its_digests(training, checkpoints):
    spec = replace(OLD, training=training, checkpoints=checkpoints)
    init = [training.init.digest] if training is not None and isinstance(training.init, WeightsFile) else []
    assert sorted(spec.digests()) == sorted([OLD.digest, *(one.weights.digest for one in checkpoints), *init])


def test_answers_do_not_tell_where_the_bytes_are():
    weights = WeightsFile("pt2", "0" * 64)
    spec = replace(OLD, training=TrainingSpec("sgd", 0.1, 1, init=weights), checkpoints=(CheckpointSpec(weights, 1),))
    assert "0" * 64 not in str(responses.model(registered(spec)))


def test_a_model_of_before_recipes_still_opens():
    stored = json.loads(RESOURCE_SPEC.dump(OLD))
    del stored["training"], stored["checkpoints"]
    assert RESOURCE_SPEC.load(json.dumps(stored)) == OLD
    message = responses.model(registered(OLD))
    assert not message.HasField("training")
    assert not message.checkpoints


def test_what_is_left_out_of_a_recipe_has_its_usual_value():
    message = responses.model(registered(OLD))
    message.training.optimizer, message.training.lr, message.training.epochs = (
        models_pb2.Training.OPTIMIZER_ADAM,
        0.1,
        3,
    )
    request = sent(message, OLD)
    check(request)
    assert requests.model_spec(request, lambda _, upload: upload).training == TrainingSpec("adam", 0.1, 3)


def test_what_was_found_at_each_checkpoint_is_told_in_order():
    found = (CheckpointReport(Stationarity(1.0, 0.5, 2.0)), CheckpointReport(None))
    report = ModelReport((), (), (), "float64", True, "", None, 0, None, (), checkpoints=found)
    first, second = responses.model_report(report).checkpoints
    assert (first.stationarity.gradient_norm, first.stationarity.relative, first.stationarity.mean_loss) == (1, 0.5, 2)
    assert not second.HasField("stationarity")


WEIGHTS_OK = {"format": models_pb2.WeightsFile.FORMAT_PT2, "upload": "uploads/x"}
TRAINING_OK = {"optimizer": models_pb2.Training.OPTIMIZER_SGD, "lr": 0.1, "epochs": 1}
NAN = float("nan")


@pytest.mark.parametrize(
    ("model", "field"),
    [
        *(
            ({"training": models_pb2.Training(**(TRAINING_OK | change))}, f"model.training.{field}")
            for change, field in [
                ({"optimizer": 0}, "optimizer"),
                ({"optimizer": 9}, "optimizer"),
                ({"lr": 0.0}, "lr"),
                ({"lr": NAN}, "lr"),
                ({"lr": float("inf")}, "lr"),
                ({"epochs": 0}, "epochs"),
                ({"epochs": 1_000_001}, "epochs"),
                ({"batch_size": 0}, "batch_size"),
                ({"momentum": 1.0}, "momentum"),
                ({"momentum": NAN}, "momentum"),
                ({"beta1": 1.0}, "beta1"),
                ({"beta2": -0.1}, "beta2"),
                ({"eps": 0.0}, "eps"),
                ({"schedule": 9}, "schedule"),
                ({"seed": -1}, "seed"),
                ({"initialiser": 0}, "initialiser"),
                ({"initialiser": 9}, "initialiser"),
                ({"weights": models_pb2.WeightsFile(**(WEIGHTS_OK | {"format": 0}))}, "weights.format"),
                ({"weights": models_pb2.WeightsFile(**(WEIGHTS_OK | {"upload": ""}))}, "weights.upload"),
            ]
        ),
        *(
            (
                {"checkpoints": [models_pb2.Checkpoint(weights=weights, learning_rate=rate)]},
                f"model.checkpoints[0].{field}",
            )
            for weights, rate, field in [
                (None, 1.0, "weights"),
                (models_pb2.WeightsFile(**WEIGHTS_OK), 0.0, "learning_rate"),
                (models_pb2.WeightsFile(**WEIGHTS_OK), NAN, "learning_rate"),
                (models_pb2.WeightsFile(**(WEIGHTS_OK | {"format": 9})), 1.0, "weights.format"),
                (models_pb2.WeightsFile(**(WEIGHTS_OK | {"upload": ""})), 1.0, "weights.upload"),
            ]
        ),
        (
            {
                "checkpoints": [
                    models_pb2.Checkpoint(weights=models_pb2.WeightsFile(**WEIGHTS_OK), learning_rate=1.0)
                    for _ in range(101)
                ]
            },
            "model.checkpoints",
        ),
    ],
)
def test_a_wrong_recipe_or_checkpoint_is_named(model, field):
    whole = {"upload": "uploads/x", "objective": models_pb2.Objective(loss=1), "format": models_pb2.Model.FORMAT_ONNX}
    request = models_pb2.CreateModelRequest(model_id="m", model=models_pb2.Model(**(whole | model)))
    with pytest.raises(InvalidArgument) as caught:
        check(request)
    assert caught.value.violations[0].field == field
