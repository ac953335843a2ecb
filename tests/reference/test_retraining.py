"""Retraining against optimisers that know nothing of it: torch's L-BFGS on digits, and Newton's method on its own."""

import time

import numpy as np
import pytest
import torch

from conftest import fit_softmax
from reference.test_leave_one_out import Agreement, breast_cancer, diabetes, matrix, measured, trained
from reference.test_leave_one_out import digits as digits_problem
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.engine.retraining.retrain import retrain

torch.set_num_threads(1)


@pytest.mark.parametrize("make", [breast_cancer, diabetes], ids=["binary logistic", "two outputs"])
def test_leave_one_out_is_that_of_the_reference(make):
    problem = make("binary_logistic") if make is breast_cancer else make()
    W, objective, train, test = trained(problem)
    removed = np.random.default_rng(3).choice(len(problem.x), 20, replace=False).tolist()
    truth = measured(problem, W, removed)
    found = retrain(objective, train, test, without=[[row] for row in removed])
    assert found.distance < 1e-8
    np.testing.assert_allclose(found.changes.T, truth, atol=1e-7 * abs(truth).max())


@pytest.fixture(scope="module")
def softmax(digits):
    """Objective, training rows and test rows of the digits."""
    X, X_test = torch.as_tensor(digits.X_train), torch.as_tensor(digits.X_test)
    exported = torch.export.export(digits.model, (X[:3],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    program = Program.from_exported(exported).to("cpu", torch.float64)
    objective = Objective(program, ObjectiveSpec("cross_entropy", digits.l2))
    train = TensorRows({"x": X}, torch.as_tensor(digits.y_train))
    return objective, train, TensorRows({"x": X_test}, torch.as_tensor(digits.y_test))


def test_digits_without_rows_are_those_of_lbfgs(digits, softmax):
    """1/n kept: the mean over n' rows with l2 · n/n' has the same minimiser."""
    X, y, n = digits.X_train, digits.y_train, len(digits.X_train)
    rng = np.random.default_rng(4)
    sets = [[7], rng.choice(n, 30, replace=False).tolist(), np.flatnonzero(y == 3)[:100].tolist()]
    found = retrain(*softmax, without=sets)
    losses = []
    for removed in [[], *sets]:
        kept = np.setdiff1d(np.arange(n), removed)
        model = fit_softmax(X[kept], y[kept], digits.l2 * n / len(kept), 10)
        f = model(torch.as_tensor(digits.X_test))
        losses.append(torch.nn.functional.cross_entropy(f, torch.as_tensor(digits.y_test), reduction="none").detach())
    changes = torch.stack(losses[1:]).numpy() - losses[0].numpy()
    np.testing.assert_allclose(found.costs, losses[0].numpy(), atol=1e-7)
    for k in range(len(sets)):
        np.testing.assert_allclose(found.changes[k], changes[k], atol=2e-5 * abs(changes[k]).max())
    assert (found.gradient_norms <= 1e-10).all()
    assert (found.iterations <= 12).all()


def test_leave_one_out_takes_few_products(softmax):
    """The cost of a fit is its products with a Hessian: about five, and not one for each of 650 parameters."""
    found = retrain(*softmax, rows=[0], without=[[row] for row in range(100)])
    assert found.diagnostics.matvecs < 8 * 100
    assert found.iterations.max() <= 5


@pytest.mark.slow
def test_all_leave_one_outs_of_digits(capsys):
    _, objective, train, test = trained(digits_problem(1e-2))
    rows = list(range(len(train)))
    started = time.process_time()
    found = retrain(objective, train, test, without=[[row] for row in rows])
    seconds = time.process_time() - started
    exact = Agreement.of(matrix(objective, train, test, rows), found.changes.T)
    plain = Agreement.of(matrix(objective, train, test, rows, leverage_correction=False), found.changes.T)
    products = found.diagnostics.matvecs / len(rows)
    with capsys.disabled():
        print(
            f"\n{len(rows):,} leave-one-outs, {found.iterations.mean():.1f} steps and {products:.1f} products each, ",
            end="",
        )
        print(f"{seconds:.1f} s of one core\n  exact {exact}\n  plain {plain}")
    assert found.diagnostics.residual <= 1e-10
    assert exact.pearson > 0.9999
    assert abs(1 - exact.slope) < abs(1 - plain.slope)
