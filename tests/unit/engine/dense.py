"""The formulas written out on one dense batch: what every fast path is compared with."""

import numpy as np
import torch


def gradients(c):
    """∇ℓ_i of every row by plain autograd, one by one, (n, P)."""
    return row_gradients(c.objective, c.objective.place(next(c.rows.batches(1000))))


def row_gradients(objective, batch, cost=None):
    """∇ cost_i of every row of a placed batch (the loss by default) by plain autograd, one by one, (n, P)."""
    theta = objective.theta.clone().requires_grad_()
    costs = (cost or objective.losses)(theta, batch)
    return torch.stack([torch.autograd.grad(one, theta, retain_graph=True)[0] for one in costs])


def hessian(c, damping):
    n = len(c.x)
    batch = c.objective.place(next(c.rows.batches(1000)))
    w = torch.ones(n, dtype=torch.float64) if c.weights is None else c.weights

    def value(theta):
        return (w * c.objective.losses(theta, batch)).sum() / n + 0.5 * (c.objective.l2 * theta.square()).sum()

    return torch.func.hessian(value)(c.objective.theta) + damping * torch.eye(
        c.objective.space.dim, dtype=torch.float64
    )


def lists_to_matrix(found, n):
    """The whole matrix in float64 from lists of full length."""
    scores = np.zeros((len(found.helpful_rows), n))
    for rows, values in ((found.helpful_rows, found.helpful_scores), (found.harmful_rows, found.harmful_scores)):
        for t in range(len(scores)):
            kept = rows[t] >= 0
            scores[t, rows[t][kept]] = values[t][kept]
    return scores


def other_weights(objective, count, seed=3):
    """Parameters near the registered ones, by name."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: value + 0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
            for name, value in objective.program.parameters.items()
        }
        for _ in range(count)
    ]


def _weights(c):
    return torch.ones(len(c.x), dtype=torch.float64) if c.weights is None else c.weights


def gauss_newton(c, damping):
    """(1/n) Σ w_i J_iᵀ (∂²ℓ_i/∂f²) J_i + diag(l2) + λI, row by row, each derivative by torch.func."""
    theta, objective = c.objective.theta, c.objective
    batch = objective.place(next(c.rows.batches(1000)))
    total = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for i, w in enumerate(_weights(c)):
        inputs = {name: tensor[i : i + 1] for name, tensor in batch.inputs.items()}
        f, y = objective.outputs(theta, inputs)[0], batch.targets[i : i + 1]
        J = torch.func.jacrev(lambda t, inputs=inputs: objective.outputs(t, inputs)[0])(theta)
        S = torch.func.hessian(lambda f, y=y: objective.loss.losses(f[None], y)[0])(f)
        total += w / len(c.x) * J.T @ S @ J
    return total + torch.diag(objective.l2) + damping * torch.eye(len(theta), dtype=torch.float64)


def empirical_fisher(c, damping):
    g = gradients(c)
    moments = (g * _weights(c)[:, None]).T @ g / len(g)
    return moments + torch.diag(c.objective.l2) + damping * torch.eye(g.shape[1], dtype=torch.float64)
