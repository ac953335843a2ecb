"""The element types that a data set may have."""

from typing import Any

import numpy as np

_NAMES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
NUMERIC: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in _NAMES}
"""By NumPy's name, in the byte order of this machine."""

LISTED = ", ".join(_NAMES)


def little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in the byte order of stored and digested values."""
    return dtype.newbyteorder("<")
