"""`undue indexes …` and `undue explain`, against a server in memory."""

import json

import numpy as np
import pytest

from undue._tensors import decode
from undue.cli.main import main
from undue.v1 import jobs_pb2


@pytest.fixture(autouse=True)
def address(fake, monkeypatch) -> None:
    monkeypatch.setenv("UNDUE_ADDRESS", fake.address)


def run(capsys, *words: str) -> str:
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def run_json(capsys, *words: str):
    return json.loads(run(capsys, *words, "--json"))


def refused(capsys, *words: str) -> str:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def shown(text: str) -> dict[str, str]:
    return {line.partition("  ")[0].strip(): line.partition("  ")[2].strip() for line in text.splitlines()}


def test_an_index_is_built_and_shown(fake, capsys) -> None:
    words = ["indexes", "build", "m", "--train", "d", "--method", "ekfac", "--damping", "0.5"]
    words += ["--parameters", "fc.*", "--no-leverage-correction", "--seed", "7"]
    lines = shown(run(capsys, *words))
    assert (lines["name"], lines["state"], lines["method"]) == ("indexes/made-1", "READY", "ekfac")
    assert lines["rows"] == "4, 0 erased"
    assert lines["on disk"] == "0.0 MiB, 1,024 bytes a row"
    assert lines["recall"] == "0.9995, measured on 64 rows"
    assert lines["warning"] == "the fit is poor"
    asked = next(request.index for request in fake.requests if type(request).__name__ == "CreateIndexRequest")
    assert (asked.damping, list(asked.parameters), asked.leverage_correction, asked.seed) == (0.5, ["fc.*"], False, 7)
    found = run_json(capsys, *words)
    assert (found["report"]["recall"], found["warnings"]) == (0.9995, ["the fit is poor"])
    queued = run_json(capsys, *words, "--no-wait")
    assert (queued["kind"], queued["spec"]) == ("index_build", {"index": "indexes/made-3"})
    assert run_json(capsys, *words, "--estimate") == {"rows": 4, "peak_bytes": 1 << 20, "seconds": 0.5}


def test_indexes_are_looked_up_listed_and_deleted(fake, capsys) -> None:
    assert run_json(capsys, "indexes", "get", "live")["name"] == "indexes/held"
    assert shown(run(capsys, "indexes", "get", "indexes/held"))["data set"] == "datasets/d/versions/1"
    assert [index["name"] for index in run_json(capsys, "indexes", "list")] == ["indexes/held"]
    assert run(capsys, "indexes", "list").splitlines()[1].split()[:4] == [
        "indexes/held",
        "READY",
        "ekfac",
        "models/m/versions/1",
    ]
    assert run(capsys, "indexes", "delete", "held", "--force") == "held is deleted\n"
    assert fake.indexes == {}


def test_indexes_are_changed(fake, capsys) -> None:
    assert run_json(capsys, "indexes", "extend", "held", "more")["datasets"][1] == "datasets/more"
    assert run_json(capsys, "indexes", "erase", "held", "3", "1")["erased_rows"] == 2
    assert list(fake.requests[-1].rows) == [3, 1]
    assert run_json(capsys, "indexes", "compact", "held", "--no-wait")["kind"] == "index_compact"
    assert run_json(capsys, "jobs", "result", "compact.held")["name"] == "indexes/held"


def test_aliases(capsys) -> None:
    made = run_json(capsys, "indexes", "alias", "set", "fraud", "held")
    assert (made["name"], made["index"]) == ("aliases/fraud", "indexes/held")
    assert shown(run(capsys, "indexes", "alias", "get", "fraud"))["index"] == "indexes/held"
    assert [alias["name"] for alias in run_json(capsys, "indexes", "alias", "list")] == [
        "aliases/fraud",
        "aliases/live",
    ]
    assert len(run(capsys, "indexes", "alias", "list").splitlines()) == 3
    assert run(capsys, "indexes", "alias", "delete", "aliases/fraud") == "aliases/fraud is deleted\n"


def test_rows_are_explained(fake, capsys, tmp_path) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 3)), np.array([1, 0])
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    words = ["explain", "live", "--inputs", str(tmp_path / "x.npy"), "--targets", str(tmp_path / "y.npy")]
    words += ["--top-k", "3", "--exact", "--measurement", "margin"]
    found = run_json(capsys, *words)
    assert [(one["row"], one["recall"], one["helpful"][0]["row"]) for one in found["explanations"]] == [
        (0, 1.0, 1),
        (1, 1.0, 1),
    ]
    assert (found["index"], found["recall"], found["method"]) == ("indexes/held", 1.0, "ekfac")
    [asked] = [request for request in fake.requests if type(request).__name__ == "ExplainRequest"]
    assert (asked.index, asked.top_k, asked.exact, asked.without_instances) == ("aliases/live", 3, True, True)
    assert asked.measurement == jobs_pb2.MEASUREMENT_MARGIN
    np.testing.assert_array_equal(decode(asked.inputs[""]), x)
    np.testing.assert_array_equal(decode(asked.targets), y)
    assert run(capsys, *words).startswith("row 0: predicted 3, target 3, loss 0.5\n")


def test_several_inputs_are_named(fake, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b=c"):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 1)))
    run(capsys, "explain", "live", "--inputs", "x=a.npy", "z=b=c.npy")
    assert sorted(fake.requests[-1].inputs) == ["x", "z"]
    run(capsys, "explain", "live", "--inputs", "b=c.npy")  # a file that is there
    assert sorted(fake.requests[-1].inputs) == [""]
    run(capsys, "explain", "live", "--inputs", "x=a.npy")
    assert sorted(fake.requests[-1].inputs) == ["x"]


def test_what_cannot_be_explained_is_a_usage_error(fake, capsys, tmp_path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not an array")
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    for name in ("x.npy", "x.npz", "objects.npy", "none.npy"):
        assert "cannot be read as .npy" in refused(capsys, "explain", "live", "--inputs", str(tmp_path / name))
    assert "another input" in refused(capsys, "explain", "live", "--inputs", "a.npy", "b.npy")
    assert "another input" in refused(capsys, "explain", "live", "--inputs", "x=a.npy", "x=b.npy")
    for words in (
        ["explain", "live"],
        ["indexes"],
        ["indexes", "alias"],
        ["indexes", "build", "m"],
        ["indexes", "build", "m", "--train", "d", "--method", "trak"],
        ["indexes", "erase", "held"],
        ["indexes", "extend", "held"],
        ["indexes", "alias", "set", "fraud"],
    ):
        refused(capsys, *words)
    assert not fake.calls
