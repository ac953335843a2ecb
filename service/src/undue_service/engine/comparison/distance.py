"""Distances between rows in the space of the inputs."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason
from undue_service.engine.data import Batch, Rows
from undue_service.engine.progress import Progress, silent

_MOST_ROWS = 4096


def distances(
    train: Rows,
    test: Rows,
    rows: Sequence[int],
    inputs: Sequence[str],
    *,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Return ‖x_t − x_i‖₂ of the inputs as the data sets hold them, laid flat one after the other: (m, n).

    Args:
        train: the n training rows.
        test: the test rows.
        rows: numbers of the m test rows.
        inputs: names of the inputs.
        memory_bytes: budget of a block.
        progress: told after each block.

    Raises:
        InvalidArgument: INPUT_MISMATCH for an input that a data set has not, or that has other shapes in the two.
        FailedPrecondition: NON_FINITE_RESULT.
    """
    points = torch.cat([flat(batch, inputs) for batch in test.batches(len(rows), rows)])
    found = np.empty((len(rows), len(train)), dtype=np.float32)
    size = max(1, min(_MOST_ROWS, memory_bytes // (8 * (2 * points.shape[1] + 2 * len(rows)))))
    done = 0
    for batch in train.batches(size):
        block = flat(batch, inputs)
        if block.shape[1] != points.shape[1]:
            text = f"a training row has {block.shape[1]:,} numbers in its inputs, a test row {points.shape[1]:,}"
            raise InvalidArgument.at("distance_inputs", text, Reason.INPUT_MISMATCH)
        # Not by ‖x‖² + ‖y‖² − 2xᵀy, which loses what is near.
        near = torch.cdist(points, block, compute_mode="donot_use_mm_for_euclid_dist")
        if not bool(torch.isfinite(near).all()):
            bad = int(batch.index[int((~torch.isfinite(near)).any(dim=0).nonzero()[0, 0])])
            text = f"the distance of training row {bad} is not a finite number; check its inputs and the test rows'"
            raise FailedPrecondition(Reason.NON_FINITE_RESULT, text, metadata={"row": str(bad)})
        found[:, batch.index.numpy()] = near.to(torch.float32).numpy()
        done += len(batch.index)
        progress("distances", done, len(train))
    return found


def flat(batch: Batch, inputs: Sequence[str]) -> Tensor:
    """Return the numbers of some inputs, (B, d) float64.

    Raises:
        InvalidArgument: INPUT_MISMATCH for an input that is not there.
    """
    missing = next((name for name in inputs if name not in batch.inputs), None)
    if missing is not None:
        text = f"there is no input {missing!r}; the data set has {', '.join(map(repr, batch.inputs))}"
        raise InvalidArgument.at("distance_inputs", text, Reason.INPUT_MISMATCH)
    return torch.cat([batch.inputs[name].to(torch.float64).flatten(1) for name in inputs], dim=1)
