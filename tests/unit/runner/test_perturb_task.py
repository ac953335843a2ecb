"""Attacks in a runner: what they leave, and that one that is interrupted goes on from its last iteration."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from conftest import fit_softmax
from dataset_tables import Table
from index_bench import Bench
from undue._export import write_pt2
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.perturbation import AttackSettings
from undue_service.domain.specs import ObjectiveSpec
from undue_service.domain.tasks import PerturbTask
from undue_service.engine.perturbation import attack as attacking
from undue_service.wire.perturbations import SafetensorsPerturbations

N, L2 = 200, 1e-3
ATTACKS = ((1,), (2, 3), (4,), (5,))
SETTINGS = AttackSettings(candidates=8, bound="linf", radius=120.0, step=30.0, iterations=4, minimum=(0.0,), seed=5)
READER = SafetensorsPerturbations()


class Killed(BaseException):
    """The end of a process."""


@pytest.fixture(scope="module")
def whole_digits():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels


@pytest.fixture
def bench(tmp_path):
    torch.set_num_threads(1)
    return Bench(tmp_path)


@pytest.fixture
def task(bench, whole_digits, tmp_path):
    X, y = whole_digits
    net = fit_softmax(X[:N].astype(np.float64), y[:N], L2, 10).float()
    model = bench.model(write_pt2(net, torch.as_tensor(X[:2]), tmp_path), ObjectiveSpec("cross_entropy", l2=L2))
    name = next(iter(_inputs(bench, model)))
    train = bench.dataset(Table({name: X[:N]}, y[:N])).source
    test = bench.dataset(Table({name: X[N : N + 60]}, y[N : N + 60])).source
    return PerturbTask(Perturb("m", "a", "b", ATTACKS, SETTINGS), model, train, test, {"model": "m"})


def _inputs(bench, model):
    opened = bench.workshop._models.open(model, bench.files.paths, bench.folder)
    return [column.name for column in opened.inputs]


def read(result, scratch):
    paths = {file.role: scratch / file.path for file in result.files}
    attacks, _ = READER.perturbations(paths["perturbations"], 0, 100)
    poisoned = list(READER.poisoned(paths["poisoned"], range(READER.attacks(paths["poisoned"]))))
    report = replace(result.report, diagnostics=replace(result.report.diagnostics, seconds=0.0))
    return attacks, [(one.attack, one.row, one.input, one.values.tolist()) for one in poisoned], report


def test_what_an_attack_leaves(bench, task, whole_digits):
    X, _ = whole_digits
    told = []
    result, scratch = bench.run(task, progress=lambda *each: told.append(each))
    attacks, poisoned, _ = read(result, scratch)
    assert [tuple(target.row for target in one.targets) for one in attacks] == [*ATTACKS]
    summary = result.report.summary
    assert (result.report.attacks, result.report.train_rows) == (4, N)
    assert result.report.diagnostics.digests["model"] == "m"
    assert summary.flipped.total + summary.already_wrong == 5
    assert summary.flipped.count == sum(bool(target.confirmed) for one in attacks for target in one.targets)
    assert summary.flipped.count > summary.control.count
    assert len(summary.flips) == SETTINGS.iterations + 1
    assert summary.flips[-1] == sum(target.flipped for one in attacks for target in one.targets)
    for attack, row, _, values in poisoned:
        moved = (np.float32(values) - X[row]) * 255
        named = next(one for one in attacks[attack].rows if one.row == row)
        assert named.linf == pytest.approx(np.abs(moved).max(), abs=1e-3)
        assert named.l2 == pytest.approx(np.linalg.norm(moved), rel=1e-3)
        assert 0 < named.linf <= 120 + 1e-3
        assert min(values) >= 0
    assert (f"attacking: {summary.flips[-1]} of 5 flipped", 4, 4) in told
    assert any(stage.startswith("control: ") for stage, _, _ in told)


@pytest.mark.parametrize("survived", [1, 3, 4, 6, 8])
def test_an_attack_goes_on_from_its_last_iteration(bench, task, tmp_path, survived, monkeypatch):
    """Iterations 5 to 8 are the control's."""
    whole = read(*bench.run(task))
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    seen = []

    def killed(stage, done, _):
        if stage.startswith(("attacking", "control")):
            seen.append((stage[:7], done))
            if len(seen) == survived:
                raise Killed

    with pytest.raises(Killed):
        bench.run(task, workspace, progress=killed)
    assert len(list(workspace.glob("state-*"))) == 1
    bench.restarted()
    ranked = []
    chosen = attacking.Run._chosen
    monkeypatch.setattr(attacking.Run, "_chosen", lambda *given: ranked.append(1) or chosen(*given))
    survived_stages = list(seen)
    again = read(*bench.run(task, workspace, progress=lambda stage, done, _: seen.append((stage[:7], done))))
    assert again == whole
    assert not ranked
    repeated = [each for each in seen[survived:] if each in survived_stages]
    assert not repeated


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"half"), lambda path: path.unlink()])
def test_a_state_that_is_not_what_was_written_is_not_gone_on_from(bench, task, tmp_path, spoil):
    whole = read(*bench.run(task))
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    bench.run(task, workspace)
    [state] = workspace.glob("state-*")
    spoil(state)
    assert read(*bench.run(task, workspace)) == whole


def test_another_task_does_not_go_on_from_it(bench, task, tmp_path):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    bench.run(task, workspace)
    other = replace(task, spec=replace(task.spec, settings=replace(SETTINGS, step=5.0)))
    assert read(*bench.run(other, workspace)) == read(*bench.run(other))
