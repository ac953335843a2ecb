"""The command line, against a server in memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

import undue
from undue.cli.main import main
from undue.v1 import jobs_pb2, models_pb2

UNDUE = [sys.executable, "-m", "undue.cli.main"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(undue.__file__).parents[1])}


@pytest.fixture(autouse=True)
def address(fake, monkeypatch) -> None:
    monkeypatch.setenv("UNDUE_ADDRESS", fake.address)


def run(capsys, *words: str) -> tuple[int, str, str]:
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def run_json(capsys, *words: str):
    status, out, err = run(capsys, *words)
    assert (status, err) == (0, "")
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    "words", [["--json", "models", "list"], ["models", "--json", "list"], ["models", "list", "--json"]]
)
def test_json_may_stand_anywhere(capsys, words) -> None:
    assert [model["name"] for model in run_json(capsys, *words)] == [f"models/m/versions/{n}" for n in (3, 2, 1)]


def test_listings_are_aligned_tables(capsys) -> None:
    status, out, _ = run(capsys, "models", "list", "m")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["name", "state", "format", "objective", "registered"]
    assert len(lines) == 4
    assert {line.index("READY") for line in lines[1:]} == {lines[0].index("state")}


def test_models_are_registered_with_all_their_settings(fake, capsys, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"bytes")
    words = [
        "models",
        "register",
        "m",
        str(path),
        "--objective",
        "cross_entropy",
        "--l2",
        "1e-3",
        "--l2-exclude",
        "*bias*",
        "b?",
    ]
    found = run_json(capsys, *words, "--parameters", "fc.*", "--output", "logits", "--sample", "d", "--json")
    assert (found["name"], found["state"]) == ("models/m/versions/1", "READY")
    [sent] = [request for request in fake.requests if type(request).__name__ == "CreateModelRequest"]
    assert sent.model.objective.l2 == 1e-3
    assert list(sent.model.objective.l2_exclude) == ["*bias*", "b?"]
    assert (list(sent.model.parameters), sent.model.output, sent.model.sample) == (["fc.*"], "logits", "datasets/d")
    assert run_json(capsys, *words, "--no-wait", "--json")["state"] == "VALIDATING"


REGISTER = ["models", "register", "m", "--objective", "squared_error"]


def test_a_recipe_and_checkpoints_are_sent(fake, capsys, tmp_path) -> None:
    for name in ("m.onnx", "1.safetensors", "2.pt2"):
        (tmp_path / name).write_bytes(name.encode())
    model, first, second = (str(tmp_path / name) for name in ("m.onnx", "1.safetensors", "2.pt2"))
    words = [*REGISTER, model, "--checkpoint", first, "0.1", "--checkpoint", second, "1e-2"]
    run_json(
        capsys,
        *words,
        "--optimizer",
        "adam",
        "--lr",
        "1e-3",
        "--epochs",
        "20",
        "--init",
        "torch",
        "--no-wait",
        "--json",
    )
    [sent] = [request.model for request in fake.requests if type(request).__name__ == "CreateModelRequest"]
    assert [(one.weights.format, one.learning_rate) for one in sent.checkpoints] == [
        (models_pb2.WeightsFile.FORMAT_SAFETENSORS, 0.1),
        (models_pb2.WeightsFile.FORMAT_PT2, 0.01),
    ]
    training = sent.training
    assert (training.optimizer, training.lr, training.epochs) == (models_pb2.Training.OPTIMIZER_ADAM, 1e-3, 20)
    assert not training.HasField("batch_size")
    assert training.initialiser == models_pb2.Training.INITIALISER_TORCH


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "0.1"], "optimizer"),
        (["--momentum", "0.9"], "--momentum"),
        (["--training-seed", "3"], "--training-seed"),
        (["--optimizer", "sgd", "--epochs", "3"], "training.lr"),
        (["--optimizer", "sgd", "--lr", "0.1"], "training.epochs"),
        (["--optimizer", "sgd", "--lr", "0.1", "--epochs", "1", "--init", "weights.bin"], "training.init"),
        (["--checkpoint", "1.pt2", "fast"], "'fast' is no learning rate"),
        (["--checkpoint", "1.pt2", "0"], "learning_rate"),
        (["--checkpoint", "1.pth", "0.1"], "save_file"),
        (["--checkpoint", "none.pt2", "0.1"], "none.pt2 cannot be read"),
    ],
)
def test_a_wrong_recipe_or_checkpoint_is_a_usage_error(fake, capsys, tmp_path, words, said) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    status, _, err = run(capsys, *REGISTER, str(tmp_path / "m.onnx"), *words)
    assert (status, fake.calls["CreateModel"]) == (2, 0)
    assert said in err


def test_settings_of_methods_are_sent(fake, capsys) -> None:
    words = [
        "--parameters",
        "a.*",
        "b",
        "--rank",
        "4",
        "--normalization",
        "loss",
        "--ensemble",
        "--seed",
        "7",
        "--no-wait",
    ]
    run(capsys, "influence", "m", "--train", "d", "--test", "d", *words)
    sent = fake.requests[-1].job.influence
    assert (list(sent.parameters), sent.rank, sent.normalization) == (["a.*", "b"], 4, jobs_pb2.NORMALIZATION_LOSS)
    assert (sent.ensemble, sent.seed, sent.method) == (True, 7, "")


def test_data_sets_are_registered_with_a_schema(fake, capsys, tmp_path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros(3))
    words = [
        "datasets",
        "register",
        "d",
        str(path),
        "--input",
        "x",
        "a",
        "b",
        "--input",
        "z",
        "c",
        "--target",
        "y",
        "--id",
        "k",
    ]
    assert run_json(capsys, *words, "--json")["report"]["rows"] == 4
    [sent] = [request for request in fake.requests if type(request).__name__ == "CreateDatasetRequest"]
    schema = sent.dataset.file.schema
    assert {name: list(columns.columns) for name, columns in schema.inputs.items()} == {"x": ["a", "b"], "z": ["c"]}
    assert (schema.target, schema.id) == ("y", "k")
    status, out, _ = run(capsys, "datasets", "register", "d", str(path), "--inputs", "x")
    assert status == 0
    assert "datasets/d/versions/1" in out


def registered(fake):
    return next(request for request in reversed(fake.requests) if type(request).__name__ == "CreateDatasetRequest")


def test_data_sets_of_several_files_with_groups_and_a_transform(fake, capsys, tmp_path) -> None:
    paths = [str(tmp_path / f"{name}.txt") for name in "ba"]
    for path in paths:
        Path(path).write_text("x")
    words = ["datasets", "register", "d", *paths, "--format", "csv", "--inputs", "x", "--group", "site", "--group", "g"]
    words += ["--scale", "1/255", "--mean", "0.5", "-0.001", "--std", "2", "--row-shape", "1", "28", "28", "--json"]
    assert run_json(capsys, *words)["state"] == "READY"
    file = registered(fake).dataset.file
    assert (file.format, [one.name for one in file.files]) == (file.FORMAT_CSV, ["b.txt", "a.txt"])
    assert list(file.schema.groups) == ["site", "g"]
    transform = file.schema.inputs[""].transform
    assert (transform.scale, list(transform.mean), list(transform.std)) == (1 / 255, [0.5, -0.001], [2.0])
    assert list(transform.row_shape) == [1, 28, 28]


def test_columns_of_idx_are_named_in_the_line(fake, capsys, tmp_path) -> None:
    for name in ("a-ubyte", "b-ubyte"):
        (tmp_path / name).write_text(name)
    words = ["datasets", "register", "d", f"x={tmp_path / 'a-ubyte'}", f"y={tmp_path / 'b-ubyte'}"]
    run_json(capsys, *words, "--input", "pixels", "x", "--target", "y", "--mean", "1", "--json")
    file = registered(fake).dataset.file
    assert [one.name for one in file.files] == ["x", "y"]
    assert list(file.schema.inputs["pixels"].transform.mean) == [1.0]


def test_a_path_with_an_equals_sign_is_a_path(fake, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("site=a.csv").write_text("x")
    run_json(capsys, "datasets", "register", "d", "site=a.csv", "--inputs", "x", "--json")
    assert [one.name for one in registered(fake).dataset.file.files] == ["site=a.csv"]


def test_folders_of_images_and_uris_need_no_columns(fake, capsys, tmp_path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.png").touch()
    run_json(capsys, "datasets", "register", "d", str(tmp_path), "--scale", "1/255", "--json")
    schema = registered(fake).dataset.file.schema
    assert schema.inputs[""].transform.scale == 1 / 255
    assert (schema.target, schema.id, list(schema.groups)) == ("label", "path", ["class"])
    made = run_json(capsys, "datasets", "register", "d", "file:///data/images", "--no-wait", "--json")
    assert (made["uri"], made["format"]) == ("file:///data/images", "image_folder")
    assert not registered(fake).dataset.file.schema.inputs[""].HasField("transform")


def test_groups_classes_and_files_are_shown(fake, capsys) -> None:
    status, out, _ = run(capsys, "datasets", "get", "d")
    assert status == 0
    shown = {line.partition("  ")[0].strip(): line.partition("  ")[2].strip() for line in out.splitlines()}
    assert shown["group 'site'"] == "3 values"
    assert (shown["classes"], shown["files"]) == ("cat, dog", "a.csv, b.csv")
    report = run_json(capsys, "datasets", "get", "d", "--json")["report"]
    assert (report["groups"], report["classes"]) == ([{"name": "site", "values": 3}], ["cat", "dog"])


def test_influence_prints_the_ranked_table(fake, capsys, explanation) -> None:
    fake.explanations = [explanation(7)]
    status, out, _ = run(capsys, "influence", "m", "--train", "d", "--test", "d", "--rows", "7", "--top-k", "2")
    assert status == 0
    assert "test row 7: predicted 3, target 5, loss 0.25" in out
    assert "-0.75" in out
    sent = next(request for request in fake.requests if type(request).__name__ == "CreateJobRequest").job.influence
    assert (list(sent.rows), sent.top_k, sent.HasField("leverage_correction")) == ([7], 2, False)


def test_influence_as_json(fake, capsys, explanation) -> None:
    fake.explanations = [explanation(7)]
    fake.explanations[0].loss = float("nan")
    words = ["influence", "m", "--train", "d", "--test", "d", "--no-leverage-correction", "--damping", "0.5", "--json"]
    words += ["--measurement", "margin", "--tolerance", "1e-4", "--max-iterations", "50", "--aggregate", "mean"]
    found = run_json(capsys, *words)
    assert found["explanations"][0]["loss"] is None
    assert [each["score"] for each in found["explanations"][0]["helpful"]] == [0.5, 0.25]
    assert found["diagnostics"]["scale"] == "removal"
    assert found["scores"] is None
    sent = next(request for request in fake.requests if type(request).__name__ == "CreateJobRequest").job.influence
    assert sent.HasField("leverage_correction")
    assert not sent.leverage_correction
    assert sent.damping == 0.5
    assert (sent.tolerance, sent.max_iterations) == (1e-4, 50)
    assert sent.measurement == jobs_pb2.MEASUREMENT_MARGIN
    assert sent.aggregate == jobs_pb2.AGGREGATE_MEAN


def test_all_scores_and_no_waiting(fake, capsys) -> None:
    found = run_json(capsys, "influence", "m", "--train", "d", "--test", "d", "--top-k", "all", "--no-wait", "--json")
    assert (found["state"], found["spec"]["top_k"]) == ("QUEUED", None)
    assert fake.calls["WatchJob"] == 0


def test_self_influence(fake, capsys, explanation) -> None:
    fake.explanations = [explanation(0)]
    words = ["self-influence", "m", "--train", "d", "--no-wait", "--json"]
    assert run_json(capsys, *words)["kind"] == "self_influence"
    assert [each["row"] for each in run_json(capsys, "jobs", "result", "self", "--json")["examples"]] == [11, 12]


def test_retrain_for_edits(fake, capsys, tmp_path) -> None:
    np.savez(tmp_path / "new.npz", rows=[4, 9], x=np.array([[1.0, 2.0], [3.0, 4.0]]))
    words = ["retrain", "m", "--train", "d", "--test", "t", "--no-wait", "--json"]
    run_json(capsys, *words, "--replace", str(tmp_path / "new.npz"), "--relabel", "3=1", "4=2", "--reweight", "7=0.5")
    sent = [request for request in fake.requests if type(request).__name__ == "CreateJobRequest"]
    [edit] = sent[-1].job.retrain.counterfactuals
    assert (list(edit.replaced), list(edit.relabelled), list(edit.reweighted)) == ([4, 9], [3, 4], [7])
    assert list(edit.weights) == [0.5]
    assert np.frombuffer(edit.inputs["x"].data).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert np.frombuffer(edit.targets.data, dtype=np.int64).tolist() == [1, 2]
    for wrong in ([], ["--relabel", "3"], ["--relabel", "3=x"], ["--relabel", "3=1", "3=2"], ["--replace", "none.npz"]):
        assert run(capsys, *words[:-2], *wrong)[0] == 2


def test_retrain(fake, capsys) -> None:
    data = ["--train", "d", "--test", "t"]
    words = ["retrain", "m", *data, "--rows", "4", "--without", "1,2,3", "--without", "7", "--no-wait", "--json"]
    assert run_json(capsys, *words)["spec"]["without"] == [[1, 2, 3], [7]]
    sent = next(request for request in fake.requests if type(request).__name__ == "CreateJobRequest").job.retrain
    assert [list(each.rows) for each in sent.without] == [[1, 2, 3], [7]]
    assert not sent.HasField("tolerance")
    page = jobs_pb2.ListCounterfactualsResponse(rows=[5], costs=[0.5])
    page.counterfactuals.add(without=[1, 2], changes=[0.25], gradient_norm=1e-12, iterations=3)
    fake.counterfactual_pages = [page]
    found = run_json(capsys, "jobs", "result", "fits", "--json")
    [one] = found["counterfactuals"]
    same = {"replaced": [], "relabelled": [], "reweighted": []}
    assert one == {"index": 0, "without": [1, 2], "changes": [0.25], "gradient_norm": 1e-12, "iterations": 3, **same}
    assert (found["rows"], found["costs"]) == ([5], [0.5])
    status, out, _ = run(capsys, "jobs", "result", "fits")
    assert status == 0
    assert out.splitlines()[1].split() == ["1,", "2", "0.25", "0.25", "5", "1e-12", "3"]


def test_jobs(fake, capsys) -> None:
    assert [job["name"] for job in run_json(capsys, "jobs", "list", "--json")] == [
        "jobs/a",
        "jobs/self",
        "jobs/validate-model",
    ]
    assert run_json(capsys, "jobs", "get", "a", "--json")["progress"]["total"] == 4
    assert run_json(capsys, "jobs", "cancel", "jobs/a", "--json")["state"] == "CANCELLED"
    for words in (
        ["jobs", "list"],
        ["jobs", "get", "a"],
        ["datasets", "list"],
        ["datasets", "get", "d"],
        ["models", "get", "m"],
    ):
        status, out, err = run(capsys, *words)
        assert (status, err) == (0, "")
        assert out


def test_watching_prints_a_line_a_change(fake, capsys) -> None:
    status, out, _ = run(capsys, "jobs", "watch", "a", "--json")
    assert status == 0
    assert [step["state"] for step in json.loads(out)] == ["RUNNING", "SUCCEEDED"]
    first = out.splitlines()[0].rstrip(",") + "]"  # each is there at once, on a line of its own
    assert json.loads(first)[0]["state"] == "RUNNING"
    status, out, _ = run(capsys, "jobs", "watch", "a")
    assert out.splitlines()[-1].split() == ["succeeded", "scoring", "4", "of", "4"]


def test_watching_a_job_that_fails_is_an_error(fake, capsys, status) -> None:
    fake.end_state = 4
    fake.job_error = status(grpc.StatusCode.FAILED_PRECONDITION, "HESSIAN_SINGULAR", "use damping")
    code, out, err = run(capsys, "jobs", "watch", "a", "--json")
    assert code == 2
    assert len(json.loads(out)) == 2
    error = json.loads(err)["error"]
    assert (error["code"], error["reason"], error["request_id"]) == ("JOB_FAILED", "HESSIAN_SINGULAR", "request-7")


def test_server_info(capsys) -> None:
    assert run_json(capsys, "server-info", "--json")["methods"][0]["name"] == "exact"
    status, out, _ = run(capsys, "server-info")
    assert status == 0
    assert "9.9" in out


def test_service_errors_end_with_2(fake, capsys, status) -> None:
    fake.refusal = status(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "no such model", fields={"name": "unknown"})
    code, out, err = run(capsys, "models", "get", "m")
    assert (code, out, err) == (2, "", "undue: no such model [RESOURCE_NOT_FOUND] (request request-7)\n")
    code, out, err = run(capsys, "models", "get", "m", "--json")
    error = json.loads(err)["error"]
    assert (code, out) == (2, "")
    assert (error["code"], error["violations"]) == ("NOT_FOUND", [{"field": "name", "description": "unknown"}])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["models"],
        ["modles", "list"],
        ["models", "register", "m"],
        ["influence", "m", "--train", "d"],
        ["retrain", "m", "--train", "d", "--test", "d"],
        ["retrain", "m", "--train", "d", "--test", "d", "--without", "1,x"],
        ["retrain", "m", "--train", "d", "--test", "d", "--without", "1,1"],
        ["influence", "m", "--train", "d", "--test", "d", "--rows", "x"],
        ["influence", "m", "--train", "d", "--test", "d", "--top-k", "0"],
        ["influence", "m", "--train", "d", "--test", "d", "--top-k", "some"],
        ["influence", "m", "--train", "d", "--test", "d", "--damping", "nan"],
        ["--server", "a", "--data-dir", "b", "jobs", "list"],
        ["models", "register", "m", "m.pkl", "--objective", "cross_entropy"],
        ["datasets", "register", "d"],
        ["datasets", "register", "d", "d.npz"],
        ["datasets", "register", "d", "d.npz", "--scale", "2"],
        ["datasets", "register", "d", "d.npz", "--group", "g"],
        ["datasets", "register", "d", "d.npz", "--inputs", "x", "--scale", "half"],
        ["datasets", "register", "d", "d.npz", "--inputs", "x", "--scale", "1/0"],
        ["datasets", "register", "d", "d.npz", "--inputs", "x", "--scale", "nan"],
        ["datasets", "register", "d", "d.npz", "--inputs", "x", "--std", "0"],
        ["datasets", "register", "d", "d.npz", "--input", "x", "a", "--input", "z", "b", "--mean", "1"],
        ["datasets", "register", "d", "d.npz", "--inputs", "x", "--format", "tsv"],
        ["datasets", "register", "d", "x=a.idx", "x=b.idx", "--inputs", "x"],
    ],
    ids=" ".join,
)
def test_usage_errors_end_with_2(fake, capsys, words) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("undue: ")
    code, out, err = run(capsys, *words, "--json")
    assert (code, out) == (2, "")
    assert json.loads(err)["error"]["code"] == "INVALID_ARGUMENT"
    assert not fake.calls


def test_the_address_comes_from_the_line_before_the_environment(fake, capsys, monkeypatch) -> None:
    monkeypatch.setenv("UNDUE_ADDRESS", "127.0.0.1:1")
    status, _, _ = run(capsys, "--server", fake.address, "server-info")
    assert status == 0
    status, _, err = run(capsys, "server-info")
    assert status == 2
    assert "127.0.0.1:1" in err


@pytest.mark.parametrize("words", [["--help"], ["models", "--help"], ["influence", "--help"], ["--version"]])
def test_help_ends_with_0(capsys, words) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    assert "undue" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error(fake, explanation) -> None:
    fake.explanations = [explanation(row) for row in range(10)] * 40
    command = [*UNDUE, "--server", fake.address, "--json", "jobs", "result", "a"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()


def test_an_interrupt_is_clean(fake) -> None:
    fake.end_state = None
    command = [*UNDUE, "--server", fake.address, "jobs", "watch", "a"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True)
    assert process.stdout.readline().startswith("running")
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=20)
    assert process.returncode == 130
    assert complaints == "undue: interrupted; a job that was queued goes on\n"
