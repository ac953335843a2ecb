"""Weights with an architecture, through the SDK and the command line to a real service."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import undue
from conftest import fit_softmax
from installed_architecture import install
from serving import serving
from undue.cli.main import main
from undue_service.domain.architectures import ARCHITECTURES, ArchitectureChoice, Architectures
from undue_service.models.architectures.building import build

pytestmark = pytest.mark.filterwarnings("ignore::undue.ModelWarning")

OBJECTIVE = undue.Objective("cross_entropy", l2=1e-2)
CASES = {
    "mlp": {"sizes": (64, 12, 3), "activation": "tanh"},
    "lenet": {"size": 12, "classes": 3, "padding": 2},
    "resnet18": {"channels": 1, "size": 8, "classes": 3, "width": 2, "stem": "cifar"},
    "transformer": {"vocabulary": 20, "length": 6, "classes": 3, "dim": 8, "heads": 2, "feedforward": 12},
}


def trained(name, options):
    """Return a module with weights of some training, and rows for it."""
    choice = Architectures().settle("architecture", ArchitectureChoice(name, options))
    torch.manual_seed(0)
    built = build(choice, "cpu")
    for parameter in built.module.parameters():
        nn.init.normal_(parameter, std=0.3)
    [example] = built.example_inputs.values()
    shape = (30, *example.shape[1:])
    X = torch.randn(shape) if example.is_floating_point() else torch.randint(0, options["vocabulary"], shape)
    return built.module.eval(), X.numpy(), np.arange(30) % 3


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_module(client, tmp_path, name) -> None:
    net, X, y = trained(name, CASES[name])
    train = client.datasets.register(f"rows-{name}", undue.Arrays(inputs=X, targets=y))
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    settings = {"objective": OBJECTIVE, "sample": train}
    module = client.models.register(f"module-{name}", net, example_inputs=X[:2], **settings)
    expected = None
    for source in (tmp_path / "weights.safetensors", tmp_path / "weights.pt", net.state_dict()):
        model = client.models.register(
            f"weights-{name}", source, architecture=name, architecture_options=CASES[name], **settings
        )
        assert model.format == "safetensors"
        assert model.architecture.name == name
        assert model.architecture.options.items() >= CASES[name].items()
        assert len(model.architecture.options) == len(ARCHITECTURES[name].options), "a default is left open"
        assert model.report.parameters == module.report.parameters
        assert model.report.stationarity == pytest.approx(module.report.stationarity)
    for which in (module, model):
        job = client.influence(which, train=train, test=train, rows=[0, 5], method="grad_dot", top_k=None)
        scores = job.result(timeout=120).scores
        expected = scores if expected is None else expected
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_the_same_weights_may_be_of_two_architectures(client) -> None:
    """A runner keeps the model that it opened last: by its architecture too, not by its file alone."""
    net, X, y = trained("mlp", CASES["mlp"])
    train = client.datasets.register("rows-of-two", undue.Arrays(inputs=X, targets=y))
    losses = []
    for activation in ("tanh", "sigmoid", "tanh"):
        options = CASES["mlp"] | {"activation": activation}
        model = client.models.register(
            "two", net.state_dict(), objective=OBJECTIVE, sample=train, architecture="mlp", architecture_options=options
        )
        losses.append(model.report.stationarity.mean_loss)
    assert losses[0] == losses[2] != losses[1]


def test_checkpoints_and_retraining_work_as_for_any_model(client, digits) -> None:
    head = fit_softmax(digits.X_train[:200], digits.y_train[:200], 1e-2, 10)
    train = client.datasets.register("digits-200", undue.Arrays(digits.X_train[:200], digits.y_train[:200]))
    state = {f"0.{name}": tensor for name, tensor in head.state_dict().items()}
    model = client.models.register(
        "softmax-weights",
        state,
        objective=OBJECTIVE,
        sample=train,
        architecture="mlp",
        architecture_options={"sizes": (64, 10)},
        checkpoints=[undue.Checkpoint(state, 0.1)],
    )
    assert model.report.linear_head
    assert model.report.dtype == "float64"
    assert model.report.stationarity.relative < 1e-6
    assert client.influence(model, train=train, test=train, rows=[0], method="tracin").result(timeout=60).explanations
    found = client.retrain(model, train=train, test=train, rows=[0], without=[[3]]).result(timeout=60)
    assert len(found.counterfactuals) == 1


@pytest.mark.parametrize(
    ("name", "options", "reason", "said"),
    [
        ("vgg", {}, "ARCHITECTURE_UNKNOWN", "there are mlp, lenet, resnet18, resnet50, transformer"),
        ("tied", {}, "ARCHITECTURE_UNKNOWN", "there is no architecture 'tied'"),
        ("mlp", {}, "INVALID_FIELD", "needs 'sizes'"),
        ("mlp", {"sizes": [64, 3], "depth": 2}, "INVALID_FIELD", "no option 'depth'"),
        ("mlp", {"sizes": [64, 10**9]}, "INVALID_FIELD", "64 whole numbers"),
    ],
)
def test_what_there_is_not_is_refused_at_once(client, name, options, reason, said) -> None:
    state = trained("mlp", CASES["mlp"])[0].state_dict()
    with pytest.raises(undue.InvalidArgument, match=said) as caught:
        client.models.register(
            "wrong", state, objective=OBJECTIVE, architecture=name, architecture_options=options, wait=False
        )
    assert caught.value.reason == reason


def test_weights_of_another_model_are_named(client) -> None:
    state = trained("mlp", CASES["mlp"])[0].state_dict()
    options = CASES["mlp"] | {"sizes": (64, 12, 4)}
    with pytest.raises(undue.JobFailed, match=r"'2\.weight' is \(3, 12\) in the file and \(4, 12\)") as caught:
        client.models.register("wrong", state, objective=OBJECTIVE, architecture="mlp", architecture_options=options)
    assert (caught.value.reason, caught.value.metadata["parameter"]) == ("WEIGHTS_MISMATCH", "2.weight")


def test_the_command_line_and_what_an_operator_installs(tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "site").mkdir()
    install(tmp_path / "site")
    state = {
        "first.weight": torch.eye(4),
        "first.bias": torch.zeros(4),
        "head.weight": torch.ones(2, 4),
        "head.bias": torch.zeros(2),
    }
    save_file(state, tmp_path / "ours.safetensors")
    path = os.pathsep.join(part for part in (str(tmp_path / "site"), os.environ.get("PYTHONPATH")) if part)
    with serving(tmp_path / "data", PYTHONPATH=path, UNDUE_ARCHITECTURES="mlp, tied") as address:
        monkeypatch.setenv("UNDUE_ADDRESS", address)

        def run(*words):
            status = main([*words, "--json"])
            shown = capsys.readouterr()
            return status, json.loads(shown.out or shown.err)

        _, info = run("server-info")
        assert [(one["name"], one["built_in"]) for one in info["architectures"]] == [("mlp", True), ("tied", False)]
        assert main(["server-info"]) == 0
        assert "2 to 64 whole numbers" in capsys.readouterr().out
        words = ["models", "register", "ours", str(tmp_path / "ours.safetensors"), "--objective", "cross_entropy"]
        status, model = run(*words, "--architecture", "tied", "--option", "size=4", "--option", "classes=2")
        assert (status, model["state"]) == (0, "READY")
        assert model["architecture"] == {"name": "tied", "options": {"classes": 2, "size": 4}}
        assert {one["name"] for one in model["report"]["parameters"]} == {*state, "second.weight"} - {"first.weight"}
        status, error = run(*words, "--architecture", "tied", "--option", "deep=true")
        assert (status, error["error"]["reason"]) == (2, "INVALID_FIELD")
        status, error = run(*words, "--architecture", "lenet")
        assert (status, error["error"]["reason"]) == (2, "ARCHITECTURE_UNKNOWN")
        status, error = run(*words, "--architecture", "mlp", "--option", "sizes")
        assert (status, error["error"]["reason"]) == (2, "USAGE")
        assert main([*words, "--architecture", "mlp", "--option", "sizes=4,2", "--no-wait"]) == 0
        assert "mlp(activation=relu, sizes=(4, 2))" in capsys.readouterr().out
