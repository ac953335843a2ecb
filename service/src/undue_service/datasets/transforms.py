"""What is done to an input's values before a model sees them."""

from math import prod

import numpy as np

from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import TransformSpec

from .limits import MAX_RANK
from .refusals import bad_input
from .source import Array


class Transform:
    """y = ((x · scale) − mean) / std, in another shape of row.

    x is cast to float32 first; scale, mean and std are rounded to float32; the three operations follow each other in
    this order, each rounded to float32. mean and std are one number or one for each entry of the row's first axis.
    """

    def __init__(self, spec: TransformSpec, column: ColumnSchema) -> None:
        """Check a transform against the input that it is given; `column` is that input as the file holds it.

        Raises:
            InvalidArgument: DATASET_MALFORMED where shapes do not fit or a number is none of float32.
        """
        shape = spec.row_shape or column.shape
        if len(shape) > MAX_RANK or any(size < 1 for size in shape) or prod(shape) != prod(column.shape):
            text = f"has rows of shape {column.shape}, {prod(column.shape):,} values, and none of shape {shape}"
            raise bad_input(column.name, f"{text}: give a row_shape with as many values")
        self.column = ColumnSchema(column.name, "float32", shape)
        self._scale = _numbers("scale", (spec.scale,), self.column)
        self._mean = _numbers("mean", spec.mean or (0.0,), self.column)
        self._std = _numbers("std", spec.std or (1.0,), self.column)
        if not bool((self._std > 0).all()):
            raise bad_input(column.name, "has a std that is not positive in float32")

    def __call__(self, values: Array) -> Array:
        """Return the values as the model sees them, (B, *row_shape) float32."""
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as not finite
            x = values.astype(np.float32).reshape(len(values), *self.column.shape)
            x *= self._scale
            x -= self._mean
            x /= self._std
        return x


def _numbers(what: str, given: tuple[float, ...], column: ColumnSchema) -> Array:
    """Return numbers in float32, shaped to meet the first axis of a row."""
    axes = len(column.shape)
    with np.errstate(over="ignore"):
        numbers = np.asarray(given, np.float64).astype(np.float32)
    if not bool(np.isfinite(numbers).all()):
        raise bad_input(column.name, f"has a {what} that is not finite in float32")
    if len(numbers) == 1:
        return numbers.reshape(())
    if axes == 0 or len(numbers) != column.shape[0]:
        text = f"has rows of shape {column.shape}, and {len(numbers):,} numbers as {what}"
        raise bad_input(column.name, f"{text}: give one, or one for each entry of the first axis")
    return numbers.reshape(-1, *(1,) * (axes - 1))
