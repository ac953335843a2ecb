"""URIs of files that the real service reads where they lie, or does not."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import undue
from undue.v1 import datasets_pb2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uris")
    for name in ("data/b.csv", "data/a.csv", "outside/secret.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x,y\n1,0\n2,1\n")
    (folder / "data/out.csv").symlink_to(folder / "outside/secret.csv")
    return folder


@pytest.fixture(scope="module")
def client(folder) -> Iterator[undue.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDUE_DATASET_ROOTS", f"{folder}/data")
        with undue.Client.local() as connected:
            yield connected


SCHEMA = undue.Schema("x", target="y")


def test_a_version_remembers_its_uri_and_the_files_that_it_meant(client, folder) -> None:
    uri = f"file://{folder}/data/?.csv"
    made = client.datasets.register("by-uri", uri, SCHEMA, wait=False)
    assert (made.uri, made.format) == (uri, "csv")
    request = datasets_pb2.GetDatasetRequest(name=made.name)
    answer = client._connection.call(client._connection.datasets.GetDataset, request)
    assert [file.name for file in answer.file.files] == ["a.csv", "b.csv"]
    assert client.datasets.get("by-uri").uri == uri


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("outside/secret.csv", undue.InvalidArgument, "URI_REFUSED"),
        ("outside/nothing.csv", undue.InvalidArgument, "URI_REFUSED"),
        ("data/out.csv", undue.InvalidArgument, "URI_REFUSED"),
        ("data/%2e%2e/outside/secret.csv", undue.InvalidArgument, "URI_REFUSED"),
        ("data/nothing.csv", undue.NotFound, "URI_NOT_FOUND"),
    ],
)
def test_what_may_not_be_read_is_refused_and_registers_nothing(client, folder, path, error, reason) -> None:
    with pytest.raises(error) as caught:
        client.datasets.register("refused", f"file://{folder}/{path}", SCHEMA)
    assert (caught.value.reason, caught.value.request_id is not None) == (reason, True)
    assert list(client.datasets.list("refused")) == []


def test_other_schemes_are_refused_and_say_which_are_read(client) -> None:
    with pytest.raises(undue.InvalidArgument, match="file:///") as caught:
        client.datasets.register("refused", "s3://bucket/*.parquet", SCHEMA)
    assert caught.value.reason == "URI_REFUSED"
    assert [each.field for each in caught.value.violations] == ["dataset.file.uri"]


def test_the_command_line_says_it_too(client, folder) -> None:
    uri = f"file://{folder}/outside/secret.csv"
    words = ["--server", client.address, "--json", "datasets", "register", "refused", uri, "--inputs", "x"]
    command = [sys.executable, "-m", "undue.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["reason"] == "URI_REFUSED"


def test_without_roots_nothing_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("UNDUE_DATASET_ROOTS", raising=False)
    (tmp_path / "a.csv").write_text("x\n1\n")
    with undue.Client.local() as client, pytest.raises(undue.InvalidArgument, match="UNDUE_DATASET_ROOTS"):
        client.datasets.register("refused", f"file://{tmp_path}/a.csv", undue.Schema("x"))


def test_the_services_own_folder_is_not_read_though_it_lies_below_a_root(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNDUE_DATASET_ROOTS", str(tmp_path))
    with undue.Client.local(tmp_path / "state") as client:
        for name in ("undue.sqlite3", "nothing.csv"):
            with pytest.raises(undue.InvalidArgument) as caught:
                client.datasets.register("own", f"file://{tmp_path}/state/{name}", SCHEMA, format="csv")
            assert caught.value.reason == "URI_REFUSED"
