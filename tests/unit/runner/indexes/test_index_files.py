"""What an index refuses to be opened from."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import undue_service
from dataset_tables import Table
from index_bench import Bench, Built, sha256
from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.specs import ModelSpec, ObjectiveSpec
from undue_service.domain.tasks import HeldIndex
from undue_service.runner import tensor_files
from undue_service.runner.indexes import files, origin
from undue_service.runner.place import scoring_digest


@pytest.fixture
def built(bench: Bench, model: ModelSpec, spec: IndexSpec, digits: Table) -> Built:
    return bench.build(spec, model, bench.dataset(digits.part(0, 200)))


def refused(bench: Bench, held: HeldIndex) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as error:
        bench.open(held)
    assert bench.workshop.resident_bytes() == 0
    return error.value


@pytest.mark.parametrize("role", ["manifest", "fit", "shard-000000"])
@pytest.mark.parametrize("how", ["a bit", "its end", "gone", "not given"])
def test_a_damaged_file_is_named(role, how, bench, built):
    path: Path = bench.files.paths[built.held.files[role]]
    data = bytearray(path.read_bytes())
    held = built.held
    match how:
        case "a bit":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "its end":
            path.write_bytes(data[:-1])
        case "gone":
            path.unlink()
        case "not given":
            held = replace(held, files={name: one for name, one in held.files.items() if name != role})
    error = refused(bench, held)
    assert error.reason is Reason.INDEX_DAMAGED
    assert error.metadata == {"index": "indexes/i", "role": role}
    assert "build the index anew" in error.message


@pytest.mark.parametrize("whose", ["model", "data"])
def test_an_uploaded_file_that_is_read_again_is_compared(whose, bench, built):
    held = built.held
    digest = held.model.digest if whose == "model" else held.datasets[0].source.digests()[0]
    path = bench.files.paths[digest]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    error = refused(bench, held)
    assert error.reason is Reason.INDEX_DAMAGED
    assert error.metadata == {"index": "indexes/i", "sha256": digest}
    assert (held.spec.model if whose == "model" else held.datasets[0].name) in error.message


WITHOUT_L2 = ObjectiveSpec("cross_entropy")

DIFFERENT = {
    "for another model": lambda held: replace(held, model=replace(held.model, digest="0" * 64)),
    "for another objective": lambda held: replace(
        held, model=replace(held.model, objective=ObjectiveSpec("cross_entropy"))
    ),
    "selection of parameters": lambda held: replace(held, model=replace(held.model, parameters=("0.*",))),
    r"with damping 0\.01 \(asked for is 0\.02\)": lambda held: replace(held, spec=replace(held.spec, damping=0.02)),
    r"with seed 0 \(asked for is 1\)": lambda held: replace(held, spec=replace(held.spec, seed=1)),
    "with parameters": lambda held: replace(held, spec=replace(held.spec, parameters=("2.*",))),
    "with method": lambda held: replace(held, spec=replace(held.spec, method="gauss_newton")),
    "other data than datasets/train/versions/1": lambda held: replace(
        held, datasets=(replace(held.datasets[0], digest="0" * 64),)
    ),
    "from 1 data sets": lambda held: replace(held, datasets=held.datasets * 2),
}


@pytest.mark.parametrize("what", list(DIFFERENT))
def test_what_differs_from_the_manifest_is_named(what, bench, built):
    held = DIFFERENT[what](built.held)
    bench.files.paths.setdefault(held.model.digest, bench.files.paths[built.held.model.digest])
    error = refused(bench, held)
    assert error.reason is Reason.INDEX_STALE
    assert re.search(f"indexes/i was built .*{what}.*: build it anew", error.message)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("scoring_digest", lambda: "0" * 64, "by another version of the service's engine"),
        ("torch", type("T", (), {"__version__": "1.0"}), rf"another version of torch \({re.escape(torch.__version__)}"),
    ],
)
def test_other_code_is_named(name, value, what, bench, built, monkeypatch):
    monkeypatch.setattr(origin, name, value)
    with pytest.raises(FailedPrecondition, match=what) as error:
        bench.open(built.held)
    assert error.value.reason is Reason.INDEX_STALE


def test_another_format_is_said_before_the_rest_is_read(bench, built, tmp_path):
    path = tmp_path / "another"
    path.write_bytes(files.canonical({"format": 2}))
    held = replace(built.held, files=built.held.files | {"manifest": bench.files.keep(path)})
    error = refused(bench, held)
    assert (error.reason, "another format (2" in error.message) == (Reason.INDEX_STALE, True)


def test_the_manifest_is_canonical_and_complete(bench, built):
    path = bench.files.paths[built.held.files["manifest"]]
    manifest = json.loads(path.read_bytes())
    assert path.read_bytes() == files.canonical(manifest)
    assert manifest["origin"]["torch"] == torch.__version__
    assert manifest["origin"]["code"] == scoring_digest()
    for role in ("fit", "shard-000000"):
        entry, file = manifest["files"][role], bench.files.paths[built.held.files[role]]
        assert entry["sha256"] == sha256(file) == built.held.files[role]
        assert (entry["name"], entry["bytes"]) == (f"{role}.safetensors", file.stat().st_size)
    assert manifest["files"]["shard-000000"]["rows"] == 200


def test_opened_files_are_mapped(bench, built):
    tensors, _ = tensor_files.read_tensors(bench.files.paths[built.held.files["shard-000000"]])
    path = str(bench.files.paths[built.held.files["shard-000000"]])
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path)]
    start, stop = (int(edge, 16) for edge in mapped[0].split()[0].split("-"))
    assert all(start <= tensor.data_ptr() < stop for tensor in tensors.values())


def test_a_single_number_stays_one(tmp_path):
    path = tmp_path / "x"
    digest = tensor_files.write_tensors(path, {"a": torch.tensor(3.0), "b": torch.arange(6).view(2, 3).T})
    found, _ = tensor_files.read_tensors(path)
    assert digest == sha256(path)
    assert found["a"].shape == ()
    assert torch.equal(found["b"], torch.arange(6).view(2, 3).T)


def test_the_rest_of_the_service_does_not_outdate_an_index(tmp_path, monkeypatch):
    def digest_with(changed: str) -> str:
        root = tmp_path / changed.replace("/", "-")
        shutil.copytree(Path(undue_service.__file__).parent, root, ignore=shutil.ignore_patterns("__pycache__"))
        with (root / changed).open("a") as file:
            file.write("# another line\n")
        monkeypatch.setattr(undue_service, "__file__", str(root / "__init__.py"))
        found = scoring_digest.__wrapped__()
        monkeypatch.undo()
        return found

    assert digest_with("transport/server.py") == digest_with("runner/tasks.py") == scoring_digest()
    others = [digest_with(f"{part}/__init__.py") for part in ("engine", "models", "datasets")]
    assert len({scoring_digest(), *others}) == 4
