"""TRAK: its projection, the paper's formula over checkpoints, and what changes no score."""

import numpy as np
import pytest
import torch

from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.methods import REGISTRY, Checkpoint, Problem
from undue_service.engine.methods.trak import RIDGE
from undue_service.engine.projection import Projection
from unit.engine.dense import gradients, lists_to_matrix, other_weights
from unit.engine.test_taps import MODELS, opened, placed


@pytest.mark.parametrize("name", ["mlp", "conv2d", "conv2d same, groups", "embedding", "norms", "used twice"])
@pytest.mark.parametrize("rank", [3, 64, 70])
def test_every_layer_is_projected_by_the_same_signs(name, rank):
    make, x, _ = MODELS[name]
    torch.manual_seed(0)
    objective = opened(make(), x)
    project = Projection(objective.taps.blocks, min(rank, objective.space.dim - 1), seed=5)
    R = project.dense()
    block = loss_gradients(objective, placed(objective, x))
    torch.testing.assert_close(project(block), block.dense() @ R, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(R.abs(), torch.full_like(R, project.rank**-0.5))


def test_the_signs_are_those_of_the_seed_and_independent():
    make, x, _ = MODELS["conv2d"]
    objective = opened(make(), x)
    R, same, other = (Projection(objective.taps.blocks, 100, seed).dense() for seed in (1, 1, 2))
    torch.testing.assert_close(R, same, rtol=0, atol=0)
    P = len(R)
    for A in (R.T @ R - R.square().sum(0).diag(), R.T @ other, R @ R.T - torch.eye(P)):
        spread = A.square().mean().sqrt()
        assert spread < 2 * max(P**0.5 / 100, 0.1)
        assert abs(A.mean()) < 0.02


def test_dimensions_beyond_the_parameters_are_none():
    make, x, _ = MODELS["mlp"]
    objective = opened(make(), x)
    project = Projection(objective.taps.blocks, 10**6, seed=0)
    assert project.features == objective.space.dim
    torch.testing.assert_close(project.dense(), torch.eye(objective.space.dim, dtype=torch.float64))


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_logistic", "squared_error"])
@pytest.mark.parametrize("memory", [2**30, 8_000], ids=["kept", "streamed"])
def test_the_papers_formula_over_checkpoints(case, loss, memory):
    """Mean over the checkpoints of φ_tᵀ(ΦᵀΦ)⁻¹φ_i, times the mean of 1 − p_i (equation 17), in our sign."""
    c = case(loss, False, outputs=1 if loss == "squared_error" else None)
    n, k, seed = len(c.x), 9, 4
    checkpoints = [Checkpoint(weights, 0.1) for weights in other_weights(c.objective, 3)]
    terms, pulls = [], []
    for number, one in enumerate(checkpoints):
        objective = c.objective.at(one.parameters)
        batch = objective.place(next(c.rows.batches(1000)))
        theta = objective.theta.clone().requires_grad_()
        if loss == "squared_error":
            f = objective.outputs(theta, batch.inputs)[:, 0]
            pulls.append((f - batch.targets[:, 0]).detach())
        else:
            f = objective.measurement(theta, batch, "margin")
            pulls.append(1 - torch.exp(-objective.losses(theta, batch)).detach())
        phi = torch.stack([torch.autograd.grad(value, theta, retain_graph=True)[0] for value in f])
        phi = phi @ Projection(objective.taps.blocks, k, seed + number).dense()
        G = phi.T @ phi
        costs = objective.losses(theta, batch) if loss == "squared_error" else f
        own = torch.stack([torch.autograd.grad(cost, theta, retain_graph=True)[0] for cost in costs])
        own = own @ Projection(objective.taps.blocks, k, seed + number).dense()
        G = G + RIDGE * G.diagonal().mean() * torch.eye(k, dtype=torch.float64)
        terms.append(own @ torch.linalg.solve(G, phi.T))
    wanted = (torch.stack(terms).mean(0) * torch.stack(pulls).mean(0)).numpy()
    settings = {"method": "trak", "rank": k, "seed": seed, "checkpoints": checkpoints, "memory_bytes": memory}
    measurement = "loss" if loss == "squared_error" else "margin"
    found = influence(c.objective, c.rows, c.rows, top_k=n, measurement=measurement, **settings)
    np.testing.assert_allclose(lists_to_matrix(found, n), wanted, rtol=1e-9, atol=1e-11 * abs(wanted).max())
    kept = REGISTRY["trak"].fit(Problem(c.objective, c.rows, rank=k, memory_bytes=memory)).models[0].kept
    assert (kept is not None) == (memory == 2**30)


@pytest.mark.parametrize("rank", [5, 10**6])
def test_self_influence_is_the_diagonal(case, rank):
    c = case("cross_entropy", False, weighted=True)
    checkpoints = [Checkpoint(weights, 0.1) for weights in other_weights(c.objective, 2)]
    settings = {"method": "trak", "rank": rank, "seed": 3, "checkpoints": checkpoints[:1]}
    matrix = lists_to_matrix(influence(c.objective, c.rows, c.rows, top_k=len(c.x), **settings), len(c.x))
    own = self_influence(c.objective, c.rows, **settings)
    np.testing.assert_allclose(own.scores, np.diag(matrix)[own.train.rows], rtol=1e-9)


def test_the_seed_changes_the_scores_and_says_how_sure_they_are(case):
    c = case("cross_entropy", False)
    found = [
        influence(c.objective, c.rows, c.rows, method="trak", rank=12, seed=seed, top_k=None).scores
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert abs(found[0] - found[2]).max() > 1e-3 * abs(found[0]).max()
    assert np.corrcoef(found[0].ravel(), found[2].ravel())[0, 1] > 0.5


def test_a_weight_of_two_is_the_row_twice(case):
    c = case("binary_logistic", False)
    weights = torch.ones(len(c.x), dtype=torch.float64)
    weights[3] = 2
    twice = type(c.rows)({"x": torch.cat([c.x, c.x[3:4]])}, torch.cat([c.y, c.y[3:4]]))
    once = type(c.rows)({"x": c.x}, c.y, weights)
    settings = {"method": "trak", "rank": 8, "top_k": None}
    found = influence(c.objective, twice, c.rows, **settings).scores
    found[:, 3] += found[:, -1]
    np.testing.assert_allclose(
        influence(c.objective, once, c.rows, **settings).scores, found[:, :-1], rtol=1e-5, atol=1e-7
    )
    assert gradients(c).shape[1] > 8


def test_every_seed_that_a_request_may_have_draws_signs():
    make, x, _ = MODELS["mlp"]
    objective = opened(make(), x)
    drawn = [Projection(objective.taps.blocks, 4, seed).dense() for seed in (20_261_124, 2**63 - 1)]
    assert not torch.equal(*drawn)
