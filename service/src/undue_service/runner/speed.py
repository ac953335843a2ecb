"""How fast this device is and how much memory a model takes, measured once when a model is registered."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from undue_service.domain.reports import Speed
from undue_service.engine.curvature import Hessian
from undue_service.engine.data import Rows, TensorRows
from undue_service.engine.gradients import block_rows, loss_gradients, row_bytes, training_batches
from undue_service.engine.objective import Objective

ROWS = 1024
"""Of the sample, at most."""
COLUMNS = 16
"""Of the timed product with the Hessian, at most."""
TRIES = 5
BUDGET_SECONDS = 0.5
"""Of the tries of one kind, about."""
_SIZE = 768
"""Of the timed matrix product: large enough to run at full speed, 10–50 ms on two cores."""


def measure_speed(objective: Objective, sample: Rows) -> Speed:
    """Return what `domain.costs` needs to know, from the first rows of a model's sample."""
    size = min(ROWS, len(sample), block_rows(objective, 2**28))
    batch = next(training_batches(objective, sample, size))
    theta = objective.theta

    def gradients() -> None:
        float(loss_gradients(objective, batch).norms()[0] + objective.losses(theta, batch)[0].detach())

    row_seconds = _seconds(gradients) / size
    product_seconds = 0.0
    if objective.head is None:
        rows = TensorRows(batch.inputs, batch.targets, batch.weights)
        # A product costs less than twice a gradient, as far as that is known before.
        columns = max(1, min(COLUMNS, int(BUDGET_SECONDS / (2 * row_seconds * size))))
        ones = torch.ones(objective.space.dim, columns, dtype=theta.dtype, device=theta.device)
        hessian = Hessian(objective, rows)
        product_seconds = _seconds(lambda: float(hessian.matmat(ones)[0, 0].detach())) / (size * columns)
    flops_per_second = _flops_per_second(theta.device)
    return Speed(row_seconds, product_seconds, flops_per_second, held_bytes(theta.device), row_bytes(objective))


def peak_bytes(device: torch.device) -> int:
    """Return the most memory of the device that this process has held so far: its own on a CPU, torch's on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in KiB on Linux, which runners run on


def held_bytes(device: torch.device) -> int:
    """Return the memory of the device that this process holds now."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _flops_per_second(device: torch.device) -> float:
    matrix = torch.ones(_SIZE, _SIZE, dtype=torch.float64, device=device)
    return 2 * _SIZE**3 / _seconds(lambda: float((matrix @ matrix)[0, 0]))


def _seconds(work: Callable[[], object]) -> float:
    """Return the shortest time of some tries: on a busy machine the others are mostly waiting.

    The work ends in reading a number, which waits for the device. The first try warms up.
    """
    work()
    best, spent = float("inf"), 0.0
    for _ in range(TRIES):
        started = time.perf_counter()
        work()
        taken = time.perf_counter() - started
        best, spent = min(best, taken), spent + taken
        if spent > BUDGET_SECONDS:
            break
    return best
