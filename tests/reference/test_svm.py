"""A support vector machine trained with the hinge by liblinear: its leave-one-out, and that of the surrogate."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC
from torch import nn

from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.engine.retraining.retrain import retrain

torch.set_num_threads(1)
L2 = 1e-2


class Machine:
    """Digits a and b apart, R = mean hinge + l2/2 (‖w‖² + b²), and 1/n kept without a row."""

    def __init__(self, a, b):
        data = load_digits()
        kept = np.isin(data.target, (a, b))
        x, y = data.data[kept] / 16, (data.target[kept] == b).astype(int)
        order = np.random.default_rng(0).permutation(len(y))
        x, y = x[order], y[order]
        self.x, self.y, self.x_test, self.y_test = x[60:], y[60:], x[:60], y[:60]
        self.fitted = self.fit(range(len(self.y)))
        margins = (2 * self.y - 1) * self.fitted.decision_function(self.x)
        some = np.random.default_rng(1).permutation(len(self.y))[:60]
        self.removed = np.unique(np.concatenate([np.flatnonzero(margins <= 1.0001), some]))

    def fit(self, rows):
        rows = np.asarray(rows)
        machine = LinearSVC(loss="hinge", C=1 / (len(self.y) * L2), tol=1e-10, max_iter=10**7, dual=True)
        return machine.fit(self.x[rows], self.y[rows])

    def costs(self, machine):
        return np.maximum(0, 1 - (2 * self.y_test - 1) * machine.decision_function(self.x_test))

    def leave_one_out(self):
        every = np.arange(len(self.y))
        return np.array([self.costs(self.fit(np.delete(every, i))) for i in self.removed]) - self.costs(self.fitted)

    def problem(self, temperature):
        module = nn.Linear(64, 1).double()
        module.load_state_dict(
            {"weight": torch.tensor(self.fitted.coef_), "bias": torch.tensor(self.fitted.intercept_)}
        )
        exported = torch.export.export(
            module, (torch.zeros(3, 64).double(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        program = Program.from_exported(exported).to("cpu", torch.float64)
        return (
            Objective(program, ObjectiveSpec("smooth_hinge", L2, (), temperature)),
            TensorRows({"x": torch.tensor(self.x)}, torch.tensor(self.y)),
            TensorRows({"x": torch.tensor(self.x_test)}, torch.tensor(self.y_test)),
        )


def pearson(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.mark.parametrize("pair", [(1, 7), (3, 8)])
def test_a_machine_trained_with_the_hinge(pair, capsys):
    machine = Machine(*pair)
    truth = machine.leave_one_out()
    found = {}
    for temperature in (0.001, 0.01, 0.1):
        problem = machine.problem(temperature)
        refits = retrain(*problem, without=[[int(row)] for row in machine.removed])
        scores = influence(*problem, top_k=None)
        of_removed = scores.scores[:, machine.removed].T
        found[temperature] = (pearson(refits.changes, truth), pearson(of_removed, truth), refits.distance)
        with capsys.disabled():
            print(
                f"\n{pair[0]} against {pair[1]}, t {temperature}: Pearson with liblinear's leave-one-out "
                f"{found[temperature][0]:.3f} (retrain), {found[temperature][1]:.3f} (scores); "
                f"{refits.iterations.max()} Newton steps, the minima are {refits.distance:.3f} apart"
            )
        assert (refits.gradient_norms <= 1e-10).all()
        assert scores.diagnostics.stationarity.relative < 0.2
        assert not scores.diagnostics.warnings
    refitted, scored, apart = (list(column) for column in zip(*found.values(), strict=True))
    assert refitted[0] > 0.995, "at t = 0.001 the surrogate's minimum without a row is the hinge's"
    assert refitted == sorted(refitted, reverse=True)
    assert apart == sorted(apart)
    assert min(scored) > 0.7


def test_scores_at_the_surrogates_own_minimum_are_what_its_retraining_shows():
    machine = Machine(3, 8)
    objective, train, test = machine.problem(0.3)
    with torch.no_grad():
        theta = objective.theta.clone().requires_grad_()
    batch = objective.place(next(train.batches(1000)))
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = objective.losses(theta, batch).mean() + 0.5 * L2 * theta.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    fitted = objective.at(objective.space.unflatten(theta.detach()))
    truth = retrain(fitted, train, test, without=[[int(row)] for row in machine.removed])
    assert truth.distance < 1e-5
    scores = influence(fitted, train, test, top_k=None).scores[:, machine.removed].T
    plain = influence(fitted, train, test, top_k=None, leverage_correction=False).scores[:, machine.removed].T
    assert pearson(scores, truth.changes) > 0.995
    assert pearson(scores, truth.changes) > pearson(plain, truth.changes)
