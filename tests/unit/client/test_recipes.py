"""Recipes and checkpoints as callers hand them in, as they are sent, and as they come back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import nn

import undue
from undue import _convert
from undue._recipes import checked_recipe, weights_file
from undue.v1 import models_pb2

OBJECTIVE = undue.Objective("cross_entropy")
BELOW_ONE = st.floats(0, 1, exclude_max=True)
RATES = st.floats(1e-300, 1e300)


def test_the_recipe_of_the_contract():
    recipe = undue.Training(optimizer="adam", lr=1e-3, schedule=None, epochs=20, batch_size=128, seed=0, init=None)
    assert recipe == undue.Training("adam", 1e-3, epochs=20, batch_size=128)
    assert (recipe.momentum, recipe.betas, recipe.eps) == (0.0, (0.9, 0.999), 1e-8)
    checkpoint = undue.Checkpoint("epoch-1.safetensors", 0.1)
    assert (checkpoint.source, checkpoint.learning_rate) == ("epoch-1.safetensors", 0.1)


@given(
    st.builds(
        undue.Training,
        st.sampled_from(["sgd", "adam"]),
        RATES,
        epochs=st.integers(1, 2**31 - 1),
        batch_size=st.none() | st.integers(1, 2**31 - 1),
        schedule=st.none() | st.sampled_from(["linear", "cosine"]),
        momentum=BELOW_ONE,
        betas=st.tuples(BELOW_ONE, BELOW_ONE),
        eps=RATES,
        seed=st.integers(0, 2**31),
        init=st.none() | st.just("torch"),
    )
)
def test_a_recipe_comes_back_as_it_was_sent(recipe):
    message = models_pb2.Model(training=_convert.training_message(recipe))
    message.objective.loss, message.state = models_pb2.Objective.LOSS_CROSS_ENTROPY, models_pb2.Model.STATE_READY
    message.format = models_pb2.Model.FORMAT_ONNX
    assert _convert.model(message).training == recipe


@pytest.mark.parametrize("change", [{"optimizer": 9}, {"schedule": 9}, {"initialiser": 9}])
def test_a_word_of_a_newer_service_is_told_as_one(change):
    message = models_pb2.Model(state=models_pb2.Model.STATE_READY, format=models_pb2.Model.FORMAT_ONNX)
    message.objective.loss = models_pb2.Objective.LOSS_CROSS_ENTROPY
    message.training.CopyFrom(models_pb2.Training(**({"optimizer": 1, "lr": 0.1, "epochs": 1} | change)))
    with pytest.raises(undue.Internal, match="upgrade undue"):
        _convert.model(message)


def test_checkpoints_come_back_with_what_was_found():
    message = models_pb2.Model(state=models_pb2.Model.STATE_VALIDATING, format=models_pb2.Model.FORMAT_ONNX)
    message.objective.loss = models_pb2.Objective.LOSS_CROSS_ENTROPY
    for rate in (0.5, 0.25):
        message.checkpoints.add(learning_rate=rate)
    assert _convert.model(message).checkpoints == (undue.CheckpointInfo(0.5, None), undue.CheckpointInfo(0.25, None))
    message.report.checkpoints.add()
    message.report.checkpoints.add().stationarity.mean_loss = 2.0
    first, second = _convert.model(message).checkpoints
    assert (first.stationarity, second.stationarity.mean_loss) == (None, 2.0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"optimizer": "adagrad"}, "training.optimizer"),
        ({"lr": 0}, "training.lr"),
        ({"lr": -1.0}, "training.lr"),
        ({"lr": None}, "training.lr"),
        ({"lr": float("nan")}, "training.lr"),
        ({"epochs": 0}, "training.epochs"),
        ({"epochs": None}, "training.epochs"),
        ({"epochs": 1.5}, "training.epochs"),
        ({"batch_size": 0}, "training.batch_size"),
        ({"schedule": "steps"}, "training.schedule"),
        ({"momentum": 1}, "training.momentum"),
        ({"betas": (0.9,)}, "training.betas"),
        ({"betas": (0.9, 1.0)}, "training.betas[1]"),
        ({"eps": 0.0}, "training.eps"),
        ({"seed": -1}, "training.seed"),
        ({"seed": 1.5}, "training.seed"),
    ],
)
def test_a_wrong_recipe_is_refused_where_it_is_written(change, field):
    with pytest.raises(undue.InvalidArgument) as caught:
        undue.Training(**({"optimizer": "sgd", "lr": 0.1, "epochs": 1} | change))
    assert [one.field for one in caught.value.violations] == [field]


@pytest.mark.parametrize("rate", [0, -1.0, float("inf"), None, "0.1"])
def test_a_checkpoint_has_a_learning_rate(rate):
    with pytest.raises(undue.InvalidArgument):
        undue.Checkpoint("epoch.pt2", rate)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"training": {"lr": 0.1}}, "training"),
        ({"training": undue.Training("sgd", 0.1, epochs=1, init="weights.bin")}, "training.init"),
        ({"training": undue.Training("sgd", 0.1, epochs=1, init=3)}, "training.init"),
        ({"checkpoints": ["epoch.pt2"]}, "checkpoints[0]"),
        ({"checkpoints": [undue.Checkpoint("a.pt2", 1), undue.Checkpoint("b.pth", 1)]}, "checkpoints[1].source"),
        ({"checkpoints": [undue.Checkpoint({}, 1)]}, "checkpoints[0].source"),
        ({"checkpoints": [undue.Checkpoint(None, 1)]}, "checkpoints[0].source"),
    ],
)
def test_what_is_no_recipe_or_checkpoint_is_refused_before_anything_is_sent(fake, client, tmp_path, settings, field):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(undue.InvalidArgument) as caught:
        client.models.register("m", tmp_path / "model.onnx", objective=OBJECTIVE, **settings)
    assert [one.field for one in caught.value.violations] == [field]
    assert not fake.calls


def test_a_torch_checkpoint_says_how_it_is_converted():
    with pytest.raises(undue.InvalidArgument, match=r"safetensors\.torch\.save_file\(torch\.load"):
        checked_recipe(None, [undue.Checkpoint("epoch.pth", 1.0)])


def test_a_file_that_is_not_there_is_named(client, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    missing = undue.Checkpoint(tmp_path / "epoch.safetensors", 1.0)
    with pytest.raises(undue.InvalidArgument, match=r"epoch\.safetensors cannot be read") as caught:
        client.models.register("m", tmp_path / "model.onnx", objective=OBJECTIVE, checkpoints=[missing])
    assert caught.value.violations[0].field == "checkpoints[0].source"


def test_weights_are_sent_once_each_with_their_formats(fake, client, tmp_path):
    for name in ("model.onnx", "first.ONNX", "second.safetensors", "start.pt2"):
        (tmp_path / name).write_bytes(name.encode())
    first = undue.Checkpoint(str(tmp_path / "first.ONNX"), 0.5)
    second = undue.Checkpoint(tmp_path / "second.safetensors", 1)
    recipe = undue.Training("adam", 0.1, epochs=3, init=tmp_path / "start.pt2")
    given = {"training": recipe, "checkpoints": iter([first, second, first])}
    client.models.register("m", tmp_path / "model.onnx", objective=OBJECTIVE, wait=False, **given)
    sent = fake.requests[-1].model
    formats = models_pb2.WeightsFile
    assert [one.weights.format for one in sent.checkpoints] == [
        formats.FORMAT_ONNX,
        formats.FORMAT_SAFETENSORS,
        formats.FORMAT_ONNX,
    ]
    assert [one.learning_rate for one in sent.checkpoints] == [0.5, 1.0, 0.5]
    assert sent.training.weights.format == formats.FORMAT_PT2
    order = ["model.onnx", "start.pt2", "first.ONNX", "second.safetensors"]
    uploads = [sent.upload, sent.training.weights.upload, *(one.weights.upload for one in sent.checkpoints)]
    assert [bytes(fake.content[upload]).decode() for upload in uploads] == [*order, ""]
    assert sum(len(chunk.data) for chunk in fake.chunks) == len("".join(order))


STATE = {"a.weight": np.arange(6.0).reshape(2, 3), "a.bias": np.float32([1, 2])}


def written(source, tmp_path):
    path, found = weights_file("checkpoints[0].source", source, tmp_path)
    assert (path.parent, found) == (tmp_path, "safetensors")
    return load_file(path)


@pytest.mark.parametrize(
    "value",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12.0).reshape(2, 6)[:, ::2],
        np.arange(6, dtype=">f8").reshape(2, 3),
        np.float16([1, 2]),
        np.array(3.0),
        np.int64(3),
        2.5,
        [[1.0, 2.0]],
        np.array([True, False]),
        torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T,
        torch.ones(3, dtype=torch.float16),
        torch.ones((), requires_grad=True),
        torch.nn.Parameter(torch.ones(2, 2)),
        torch.arange(3),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_arrays_of_any_layout_arrive_as_they_are(value, tmp_path):
    [found] = written({"w": value}, tmp_path).values()
    expected = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_arrives_as_float32(tmp_path):
    tensor = torch.randn(4, generator=torch.Generator().manual_seed(0)).bfloat16()
    [found] = written({"w": tensor}, tmp_path).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tensor.float().numpy())


def test_modules_and_programs_are_their_state(tmp_path):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    module[0].bias = nn.Parameter(module[0].bias.double())
    program = torch.export.export(nn.Sequential(nn.Linear(3, 2)), (torch.ones(1, 3),))
    for source in (module, module.state_dict(), program):
        state = source.state_dict() if isinstance(source, nn.Module) else getattr(source, "state_dict", source)
        found = written(source, tmp_path)
        assert found.keys() == state.keys()
        for name, tensor in state.items():
            assert found[name].shape == tuple(tensor.shape)
            np.testing.assert_array_equal(found[name], tensor.detach().numpy())


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [[1.0], [1.0, 2.0]],
        np.array(["a"]),
        np.array([1j]),
        np.array([object()]),
        np.longdouble(1),
        torch.ones(2, dtype=torch.complex64),
        torch.eye(2).to_sparse(),
        None,
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_what_is_no_array_of_numbers_is_named(value, tmp_path):
    with pytest.raises(undue.InvalidArgument) as caught:
        weights_file("checkpoints[0].source", STATE | {"w": value}, tmp_path)
    assert caught.value.violations[0].field == "checkpoints[0].source['w']"
    assert list(tmp_path.iterdir()) == []
