"""Influence without parts of it (Koh & Liang 2017, section 2.2 and figure 1), to see what each of them does.

score(i, t) = (w_i/n) ∇m_tᵀ H⁻¹ J_iᵀ r_i with r_i = ∂ℓ_i/∂f, J_i the outputs' derivative in θ:

- "no_curvature": the identity for H⁻¹, the inner product of two gradients;
- "no_loss": r_i/‖r_i‖ for r_i, so that a row counts alike however well it is fitted. In a binary logistic regression it
  drops σ(−y f), the paper's "train loss" term. A score is linear in r_i, so it is divided by ‖r_i‖, whatever the model;
- "neither": both.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from undue_service.domain.comparison_findings import Variant
from undue_service.engine.data import Rows
from undue_service.engine.gradients import block_rows, output_gradients, training_batches
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

Matrix = NDArray[np.float32]


def residual_norms(
    objective: Objective, train: Rows, *, memory_bytes: int = 2**30, progress: Progress = silent
) -> NDArray[np.float64]:
    """Return ‖∂ℓ_i/∂f‖₂ of every training row, (n,).

    Args:
        objective: at its registered weights.
        train: the n rows.
        memory_bytes: budget of a block.
        progress: told after each block.
    """
    norms = np.empty(len(train))
    done = 0
    for batch in training_batches(objective, train, block_rows(objective, memory_bytes // 2)):
        with torch.no_grad():
            f = objective.outputs(objective.theta, batch.inputs)
        targets = batch.targets
        residuals = output_gradients(f, lambda f, targets=targets: objective.loss.losses(f, targets))
        norms[batch.index.numpy()] = residuals.norm(dim=1).to("cpu", torch.float64).numpy()
        done += len(batch.index)
        progress("residuals", done, len(train))
    return norms


def variants(scores: Matrix, inner_products: Matrix, norms: NDArray[np.float64]) -> Mapping[Variant, Matrix]:
    """Return the scores without parts of them, (m, n) each; a row without any residual keeps its 0.

    Args:
        scores: of a method that solves with a curvature, (m, n).
        inner_products: (w_i/n) ∇m_tᵀ ∇ℓ_i, (m, n).
        norms: ‖r_i‖, (n,).
    """
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return {
        "no_curvature": inner_products,
        "no_loss": (scores * scale).astype(np.float32),
        "neither": (inner_products * scale).astype(np.float32),
    }
