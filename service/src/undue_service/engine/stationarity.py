"""Whether the registered weights are a minimum of the registered objective on this data."""

from torch import Tensor

from undue_service.domain.specs import Stationarity

from .data import Rows
from .gradients import block_rows, loss_gradients, training_batches
from .objective import Objective
from .progress import Progress, silent


def stationarity(objective: Objective, train: Rows, *, memory_bytes: int = 2**30, progress: Progress = silent) -> Stationarity:
    """Return ‖∇R(θ̂)‖ over the selected parameters, the same relative to the mean of ‖∇ℓ_i‖, and the mean loss."""
    n = len(train)
    total: Tensor = objective.l2 * objective.theta
    norms = losses = 0.0
    done = 0
    for batch in training_batches(objective, train, block_rows(objective, memory_bytes)):
        gradients = loss_gradients(objective, batch)
        total = total + gradients.total(batch.weights) / n
        norms += float(gradients.norms().sum())
        losses += float(objective.losses(objective.theta, batch).sum())
        done += len(batch.index)
        progress("stationarity", done, n)
    norm = float(total.norm())
    return Stationarity(gradient_norm=norm, relative=norm * n / norms if norms > 0 else 0.0, mean_loss=losses / n)


def fit_warnings(objective: Objective, found: Stationarity) -> tuple[str, ...]:
    return ()
