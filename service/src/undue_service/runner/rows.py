"""A data set's columns as the engine's rows."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from undue_service.datasets.source import Columns, DatasetSource
from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.data import Batch

# torch knows these only in part; int64 holds every value of the first two.
_WIDER = {np.dtype(np.uint16): np.int64, np.dtype(np.uint32): np.int64}


class SourceRows:
    """The engine's Rows over a data set source."""

    def __init__(self, source: DatasetSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield the rows in order, at most `size` at a time; only `rows`, in that order, if given."""
        for columns in self._source.batches(rows, size):
            yield batch(columns)


def batch(columns: Columns) -> Batch:
    """Return a batch of the engine over the same values."""
    return Batch(
        inputs={name: tensor(array) for name, array in columns.inputs.items()},
        targets=None if columns.targets is None else tensor(columns.targets),
        weights=None if columns.weights is None else tensor(columns.weights),
        index=torch.from_numpy(columns.index),
    )


def tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor.

    Raises:
        FailedPrecondition: DATASET_MALFORMED for a value beyond 64 signed bits.
    """
    if array.dtype == np.uint64:
        if array.size and array.max() > np.iinfo(np.int64).max:
            text = "a uint64 column has values beyond 2^63: send it as float64, or as int64 codes"
            raise FailedPrecondition(Reason.DATASET_MALFORMED, text)
        array = array.astype(np.int64)
    array = array.astype(_WIDER.get(array.dtype, array.dtype), copy=False)
    # Memory-mapped rows are read-only, which torch warns of; nothing here writes to them, but a copy settles it.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
