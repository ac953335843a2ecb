"""`lissa` and `arnoldi` on trained models and real data: against `exact`, and against what retraining shows."""

import time

import numpy as np
import pytest
import torch

from reference.test_cg_is_exact import CASES, digits, mlp, objective, trained
from undue_service.engine.attribution import influence
from undue_service.engine.curvature import GaussNewton
from undue_service.engine.data import TensorRows
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.queries import Asked
from undue_service.engine.retraining.retrain import retrain

torch.set_num_threads(1)


def rows(queries=100):
    x, y = digits()
    return TensorRows({"x": x[100:]}, y[100:]), TensorRows({"x": x[:queries]}, y[:queries])


def pearson(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_lissa_estimates_what_exact_computes(capsys):
    model = CASES["digits softmax, l2 1e-2"]()
    train, test = rows()
    exact = influence(model, train, test, leverage_correction=False, top_k=None)
    for tolerance in (1e-2, 1e-3, 1e-5):
        started = time.process_time()
        found = influence(model, train, test, method="lissa", tolerance=tolerance, top_k=None)
        seconds = time.process_time() - started
        difference = abs(found.scores - exact.scores).max() / abs(exact.scores).max()
        with capsys.disabled():
            print(
                f"\nlissa to {tolerance:.0e}: max|a−b|/max|b| {difference:.1e}, Pearson "
                f"{pearson(found.scores, exact.scores):.6f}, {seconds:.2f} s of one core, "
                f"{found.diagnostics.matvecs / 100:.1f} passes a query"
            )
        assert found.diagnostics.residual <= tolerance
        assert difference < 20 * tolerance
        assert found.diagnostics.damping == exact.diagnostics.damping


@pytest.mark.parametrize(("rank", "least"), [(32, 0.9), (128, 0.99), (650, 1 - 1e-9)])
def test_arnoldi_nears_exact_as_its_rank_grows(rank, least, capsys):
    model = CASES["digits softmax, l2 1e-2"]()
    train, test = rows()
    exact = influence(model, train, test, leverage_correction=False, top_k=None)
    started = time.process_time()
    found = influence(model, train, test, method="arnoldi", rank=rank, top_k=None)
    with capsys.disabled():
        print(
            f"\narnoldi, rank {rank}: Pearson {pearson(found.scores, exact.scores):.6f}, residual "
            f"{found.diagnostics.residual:.1e}, {time.process_time() - started:.2f} s of one core"
        )
    assert pearson(found.scores, exact.scores) > least
    assert (found.diagnostics.solver_status == "converged") == (rank == 650)


def test_on_a_network_both_are_the_dense_gauss_newton_matrix():
    model = objective(trained(mlp(10), 1e-3, 40), 1e-3)
    train, test = rows(5)
    G = GaussNewton(model, train)
    damping = 0.1 * G.mean_eigenvalue().value
    A = G.to_dense() + damping * torch.eye(model.space.dim, dtype=torch.float64)
    solved = torch.linalg.solve(A, Asked(test, list(range(5)), "loss").columns(model))
    gradients = loss_gradients(model, model.place(next(train.batches(2000))))
    expected = (gradients.dot(solved).T / len(train)).numpy()
    for settings in ({"method": "lissa"}, {"method": "arnoldi", "rank": 760}):
        found = influence(model, train, test, top_k=None, **settings)
        assert found.diagnostics.damping == pytest.approx(damping, rel=1e-9)
        assert found.diagnostics.damping_source == "mean_eigenvalue"
        assert abs(found.scores - expected).max() < 1e-2 * abs(expected).max()


@pytest.mark.slow
def test_lissa_is_what_retraining_shows(capsys):
    model = CASES["digits softmax, l2 1e-2"]()
    train, test = rows()
    truth = retrain(model, train, test, without=[[row] for row in range(len(train))]).changes.T
    with capsys.disabled():
        for method, settings in (("exact", {"leverage_correction": False}), ("cg", {"tolerance": 1e-6}), ("lissa", {})):
            started = time.process_time()
            found = influence(model, train, test, method=method, top_k=None, **settings)
            seconds = time.process_time() - started
            print(f"\n{method}: Pearson {pearson(found.scores, truth):.6f} with leave-one-out, {seconds:.2f} s")
            assert pearson(found.scores, truth) > 0.999
