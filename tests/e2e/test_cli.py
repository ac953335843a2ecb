"""The command line against the real service."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

import undue


def run(*words: str, status: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "UNDUE_ADDRESS"}
    command = [sys.executable, "-m", "undue.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with undue.Client.local() as client:
        yield client.address


def softmax_model(path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["logits"])],
        "softmax",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.zeros(3, np.float32), "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_from_files_to_the_ranked_table(server, tmp_path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(30, 4)).astype(np.float32), y=rng.integers(0, 3, 30))
    softmax_model(tmp_path / "m.onnx")
    data = str(tmp_path / "d.npz")
    made = json.loads(
        run("--server", server, "--json", "datasets", "register", "d", data, "--inputs", "x", "--target", "y")
    )
    assert (made["state"], made["report"]["rows"]) == ("READY", 30)
    words = ["--objective", "cross_entropy", "--l2", "0.01", "--sample", "d"]
    model = json.loads(run("--server", server, "models", "register", "m", str(tmp_path / "m.onnx"), *words, "--json"))
    assert model["report"]["parity"]["max_abs_difference"] < 1e-5
    assert model["report"]["warnings"]  # weights that were never trained
    ask = ["--server", server, "influence", "m", "--train", "d", "--test", "d", "--rows", "0", "5", "--top-k", "3"]
    found = json.loads(run(*ask, "--json"))
    assert [each["row"] for each in found["explanations"]] == [0, 5]
    assert all(len(each["helpful"]) == len(each["harmful"]) == 3 for each in found["explanations"])
    text = run(*ask)
    assert "test row 5" in text
    assert "harmful" in text
    [job, *_] = json.loads(run("--server", server, "jobs", "list", "--json"))
    assert (job["kind"], job["state"]) == ("influence", "SUCCEEDED")
    again = json.loads(run("--server", server, "jobs", "result", job["name"], "--json"))
    assert again["explanations"] == found["explanations"]


def test_every_verb_prints_json_that_a_program_reads(server, tmp_path) -> None:
    """As `undue … --json | python -m json.tool` would."""
    rng = np.random.default_rng(2)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(30, 4)).astype(np.float32), y=np.arange(30) % 3)
    softmax_model(tmp_path / "m.onnx")
    data, model = str(tmp_path / "d.npz"), str(tmp_path / "m.onnx")
    asked = ["v", "--train", "v", "--method", "grad_dot", "--no-wait"]
    verbs = [
        ["datasets", "register", "v", data, "--inputs", "x", "--target", "y"],
        ["datasets", "get", "v"],
        ["datasets", "list"],
        ["datasets", "read", "v", "0", "29"],
        ["models", "register", "v", model, "--objective", "cross_entropy", "--l2", "0.01", "--sample", "v"],
        ["models", "get", "v"],
        ["models", "list", "v"],
        ["influence", "v", "--train", "v", "--test", "v", "--rows", "0", "--top-k", "2"],
        ["influence", "v", "--train", "v", "--test", "v", "--aggregate", "mean", "--method", "cg", "--top-k", "all"],
        ["influence", "v", "--train", "v", "--test", "v", "--estimate"],
        ["self-influence", "v", "--train", "v", "--top-k", "5", "--timeout-seconds", "60"],
        ["self-influence", *asked],
        ["retrain", "v", "--train", "v", "--test", "v", "--rows", "0", "1", "--without", "3", "--without", "4,5"],
        ["retrain", "v", "--train", "v", "--test", "v", "--without", "3", "--estimate"],
        ["fidelity", "v", "--train", "v", "--test", "v", "--rows", "0", "1", "--samples", "5", "--bootstrap", "50"],
        ["leverage", "v", "--train", "v", "--dfbeta"],
        ["compare", "v", "--train", "v", "--test", "v", "--rows", "0", "1", "--scatter", "5"],
        ["compare", "v", "--train", "v", "--test", "v", "--other", "v", "--estimate"],
        ["jobs", "list"],
        ["server-info"],
    ]
    said = {" ".join(words): tool(run("--server", server, *words, "--json")) for words in verbs}
    job = said[" ".join(["self-influence", *asked])]["name"]
    for verb in ("watch", "get", "result", "cancel", "delete"):
        said[verb] = tool(run("--server", server, "jobs", verb, job, "--json"))
    assert said["watch"][-1]["state"] == "SUCCEEDED"
    assert said["delete"] == {"deleted": job}
    assert said["datasets read v 0 29"][1]["row"] == 29
    assert said[" ".join(verbs[9])]["seconds"] > 0
    assert len(said[" ".join(verbs[12])]["counterfactuals"]) == 2
    assert len(said[" ".join(verbs[14])]["measured"]) == 10
    assert len(said[" ".join(verbs[15])]["dfbeta"]) == 30
    assert len(said[" ".join(verbs[16])]["rows"]) == 2
    assert said[" ".join(verbs[17])]["seconds"] > 0
    error = json.loads(run("--server", server, "datasets", "delete", "v", "--json", status=2))["error"]
    assert error["reason"] == "RESOURCE_IN_USE"
    assert int(error["metadata"]["count"]) == 8  # seven jobs and the model
    for noun in ("models", "datasets"):
        assert tool(run("--server", server, noun, "delete", "v", "--force", "--json")) == {"deleted": "v"}
    run("--server", server, "datasets", "get", "v", status=2)


def test_a_model_with_a_recipe_and_checkpoints(server, tmp_path) -> None:
    rng = np.random.default_rng(4)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(30, 4)).astype(np.float32), y=np.arange(30) % 3)
    softmax_model(tmp_path / "m.onnx")
    weights = {"weight": rng.normal(size=(4, 3)), "bias": np.zeros(3)}
    save_file(weights, tmp_path / "epoch.safetensors")
    data, model, epoch = (str(tmp_path / name) for name in ("d.npz", "m.onnx", "epoch.safetensors"))
    run("--server", server, "datasets", "register", "r", data, "--inputs", "x", "--target", "y")
    words = ["--server", server, "models", "register", "r", model, "--objective", "cross_entropy", "--sample", "r"]
    words += ["--checkpoint", epoch, "0.1", "--checkpoint", model, "5e-2", "--optimizer", "sgd", "--lr", "0.1"]
    words += ["--epochs", "3", "--batch-size", "8", "--schedule", "cosine", "--momentum", "0.9", "--init", epoch]
    made = json.loads(run(*words, "--training-seed", "4", "--json"))
    assert [one["learning_rate"] for one in made["checkpoints"]] == [0.1, 0.05]
    assert made["checkpoints"][1]["stationarity"] == made["report"]["stationarity"]
    recipe = {"optimizer": "sgd", "lr": 0.1, "epochs": 3, "batch_size": 8, "schedule": "cosine", "momentum": 0.9}
    assert recipe.items() <= made["training"].items()
    assert (made["training"]["seed"], made["training"]["init"]) == (4, "weights")
    shown = run("--server", server, "models", "get", "r")
    assert "sgd, lr 0.1, cosine, 3 epochs, batches of 8" in shown
    assert "checkpoint 1" in shown
    asked = [
        "--server",
        server,
        "influence",
        "r",
        "--train",
        "r",
        "--test",
        "r",
        "--rows",
        "0",
        "--top-k",
        "all",
        "--json",
    ]

    def scores(*more: str) -> np.ndarray:
        return np.array(json.loads(run(*asked, "--top-k", "all", *more))["scores"])

    ensemble = scores("--method", "grad_dot", "--ensemble", "--seed", "3")
    tracin = scores("--method", "tracin")
    here = scores("--method", "grad_dot", "--parameters", "weight", "bi*")
    np.testing.assert_allclose(tracin, 0.1 * (2 * ensemble - here) + 0.05 * here, rtol=1e-3, atol=1e-6)
    error = json.loads(run(*asked, "--rank", "3", status=2))["error"]
    assert error["reason"] == "INVALID_FIELD"
    error = json.loads(run(*words, "--checkpoint", data, "0.1", "--json", status=2))["error"]
    assert error["reason"] == "INVALID_FIELD"
    ranked = json.loads(
        run("--server", server, "self-influence", "r", "--train", "r", "--ensemble", "--top-k", "2", "--json")
    )
    assert ranked["diagnostics"]["method"] == "exact"
    assert len(ranked["diagnostics"]["digests"]["checkpoints"]) == 64


def tool(text: str) -> object:
    command = [sys.executable, "-m", "json.tool"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_errors_end_with_2(server) -> None:
    error = json.loads(run("--server", server, "models", "get", "nothing", "--json", status=2))["error"]
    assert (error["code"], error["reason"]) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")
    assert error["request_id"]


def test_an_embedded_service_on_a_folder(tmp_path) -> None:
    assert "exact" in run("--data-dir", str(tmp_path), "server-info")
    assert json.loads(run("--data-dir", str(tmp_path), "models", "list", "--json")) == []
