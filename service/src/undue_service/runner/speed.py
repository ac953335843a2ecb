"""How fast this device is and how much memory a model takes, measured once when a model is registered."""

import resource
import time

import torch

from undue_service.domain.specs import Speed
from undue_service.engine.gradients import row_bytes
from undue_service.engine.objective import Objective

_SIZE = 768
"""Of the timed matrix product: large enough to run at full speed, 10–50 ms on two cores."""
_REPEATS = 3


def measure_speed(objective: Objective, row_seconds: float) -> Speed:
    """Return what `domain.costs` needs to know; `row_seconds` was measured on the model's sample."""
    # ru_maxrss is in KiB on Linux, which runners run on.
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Speed(row_seconds, _flops_per_second(objective.program.device), base, row_bytes(objective))


def _flops_per_second(device: torch.device) -> float:
    matrix = torch.ones(_SIZE, _SIZE, dtype=torch.float64, device=device)
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * _SIZE**3 / best
