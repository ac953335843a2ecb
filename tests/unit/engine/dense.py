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
