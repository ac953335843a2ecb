"""A build that is interrupted goes on where it was."""

import re
from pathlib import Path

import pytest
import torch

from index_bench import Bench, Built
from undue_service.engine.index import Encoder
from undue_service.runner.indexes import building, changing, parts
from undue_service.runner.tensor_files import read_tensors
from undue_service.runner.workspace import Workspace


class Killed(BaseException):
    """The end of a process."""


class Counting:
    """What was computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.fits = self.drifts = 0
        encode, fit_index, drifted = Encoder.encode, building.fit_index, changing.drifted

        def encoded(encoder, batch):
            self.rows += batch.index.tolist()
            return encode(encoder, batch)

        def fitted(*given):
            self.fits += 1
            return fit_index(*given)

        def measured(*given, **named):
            self.drifts += 1
            return drifted(*given, **named)

        monkeypatch.setattr(Encoder, "encode", encoded)
        monkeypatch.setattr(building, "fit_index", fitted)
        monkeypatch.setattr(changing, "drifted", measured)


def killed_at(stage: str, row: int):
    def progress(now: str, done: int, total: int) -> None:
        if now == stage and done >= row:
            raise Killed

    return progress


def assert_alike(bench: Bench, first: Built, second: Built) -> None:
    """Compare the rows of two indexes; where memory begins decides how sums are rounded, and so the last bits."""
    assert first.held.files.keys() == second.held.files.keys()
    for role in (role for role in first.held.files if role.startswith("shard-")):
        one, other = (read_tensors(bench.files.paths[built.held.files[role]])[0] for built in (first, second))
        assert one["rows"].sort().values.tolist() == other["rows"].sort().values.tolist()
        torch.testing.assert_close(one["keys"], other["keys"], rtol=1e-5, atol=0)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 64)
    monkeypatch.setattr(parts, "SHARD_ROWS", 200)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(("stage", "row", "again"), [("rows", 0, 500), ("rows", 200, 308), ("recall", 0, 0)])
def test_a_build_goes_on_with_the_parts_that_are_there(
    stage, row, again, bench, model, spec, digits, workspace, small_parts, monkeypatch
):
    train = bench.dataset(digits.part(0, 500))
    whole = bench.build(spec, model, train)
    with pytest.raises(Killed):
        bench.build(spec, model, train, workspace=workspace, progress=killed_at(stage, row))
    bench.restarted()
    counted = Counting(monkeypatch)
    said = []
    resumed = bench.build(spec, model, train, workspace=workspace, progress=lambda *one: said.append(one))
    assert len(whole.held.files) == 2 + 3
    assert_alike(bench, resumed, whole)
    assert resumed.report.recall == whole.report.recall
    assert counted.fits == 0
    assert counted.rows == list(range(500 - again, 500))
    rows = [done for now, done, total in said if now == "rows"]
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (0, 500)


def test_a_part_that_is_damaged_is_made_again(bench, model, spec, digits, workspace, small_parts, monkeypatch):
    train = bench.dataset(digits.part(0, 500))
    whole = bench.build(spec, model, train, workspace=workspace)
    [path] = workspace.glob("rows-000000000128-*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    [fit] = workspace.glob("fit-*")
    fit.write_bytes(fit.read_bytes()[:-1])
    counted = Counting(monkeypatch)
    again = bench.build(spec, model, train, workspace=workspace)
    assert_alike(bench, again, whole)
    assert counted.rows == list(range(128, 192))
    assert counted.fits == 1


def test_what_another_task_left_is_not_used(bench, model, spec, digits, workspace, small_parts, monkeypatch):
    bench.build(spec, model, bench.dataset(digits.part(0, 500)), workspace=workspace)
    (workspace / "rows-000000000000-half.part.tmp").write_bytes(b"half of a part")
    counted = Counting(monkeypatch)
    other = bench.dataset(digits.part(0, 400))
    fresh = bench.build(spec, model, other)
    built = bench.build(spec, model, other, workspace=workspace)
    assert_alike(bench, built, fresh)
    assert counted.rows == [*range(400), *range(400)]
    assert counted.fits == 2
    assert not list(workspace.glob("*.tmp"))


def test_an_extension_goes_on_too(bench, model, spec, digits, workspace, small_parts, monkeypatch):
    built = bench.build(spec, model, bench.dataset(digits.part(0, 300)))
    added = bench.dataset(digits.part(300, 500), name="datasets/more/versions/1")
    whole = bench.extend(built.held, added)
    with pytest.raises(Killed):
        bench.extend(built.held, added, workspace=workspace, progress=killed_at("rows", 128))
    counted = Counting(monkeypatch)
    resumed = bench.extend(built.held, added, workspace=workspace)
    assert_alike(bench, resumed, whole)
    assert counted.rows == list(range(364, 500))
    assert counted.drifts == 0


def test_a_workspace_has_files_as_a_whole(workspace):

    held = Workspace(workspace, b"key")
    path = held.keep("rows-1", {"a": torch.arange(3)}, {"said": "x"})
    assert re.fullmatch(r"rows-1-[0-9a-f]{64}\.safetensors", path.name)
    assert (held.names(), held.find("rows-2")) == (["rows-1"], None)
    (workspace / f"{path.name}.tmp").write_bytes(b"")
    again = Workspace(workspace, b"key")
    tensors, metadata = again.find("rows-1")
    assert (tensors["a"].tolist(), metadata) == ([0, 1, 2], {"said": "x"})
    assert sorted(one.name for one in workspace.iterdir()) == sorted(["key", path.name])
    path.write_bytes(b"0")
    assert again.find("rows-1") is None
    assert again.names() == []
    held.keep("rows-1", {"a": torch.arange(3)})
    assert Workspace(workspace, b"another key").names() == []
