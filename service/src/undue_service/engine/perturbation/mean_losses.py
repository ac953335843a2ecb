"""The mean loss of all test rows under several fits at once."""

import torch
from torch import Tensor

from undue_service.engine.data import Rows
from undue_service.engine.gradients import block_rows
from undue_service.engine.heads.block import repeated
from undue_service.engine.heads.coefficients import coefficients_of
from undue_service.engine.heads.rows import parted
from undue_service.engine.objective import Objective


def mean_losses(objective: Objective, test: Rows, thetas: Tensor, *, memory_bytes: int = 2**30) -> Tensor:
    """Return the mean loss of the test rows at each θ_k (K, P), (K,) float64; what lies below a head runs once."""
    total = torch.zeros(len(thetas), dtype=torch.float64)
    K, C = len(thetas), objective.outputs_per_row
    size = block_rows(objective, memory_bytes // 2, 8 * K * C)
    with torch.no_grad():
        for raw in test.batches(size):
            placed = objective.place(raw)
            if objective.head is not None:
                features, f = objective.head.evaluate(placed.inputs)
                batch = objective.explained(placed, f)
                x, offsets = parted(objective, features, f, torch.float64)
                theta = coefficients_of(objective.head, thetas)
                outputs = (x @ theta.reshape(len(theta), K * C)).view(-1, K, C) + offsets[:, None]
                targets = repeated(batch.targets, K)
                losses = objective.loss.losses(outputs.flatten(0, 1), targets).view(-1, K)
            else:
                batch = objective.explained(placed)
                losses = torch.stack([objective.losses(theta, batch) for theta in thetas], dim=1)
            total += losses.sum(dim=0).to("cpu", torch.float64)
    return total / len(test)
