"""Arrays sent one by one: raw little-endian bytes in C order, mapped into memory."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from undue_service.domain.reports import ColumnSchema
from undue_service.domain.specs import ArraysSource, SchemaSpec, TensorRef

from .dtypes import NUMERIC, little
from .layout import ARRAYS_ID, ARRAYS_TARGET, ARRAYS_WEIGHT, check_column
from .refusals import bad_column, rows_mismatch
from .source import Array
from .table import TableSource
from .texts import ArrayTexts, Part, Texts, Utf8Texts, group_part


def open_arrays(source: ArraysSource, resolve: Callable[[str], Path]) -> TableSource:
    """Return the data set; `resolve` finds an artifact by its digest.

    Raises:
        InvalidArgument: DATASET_MALFORMED where a file is not of its declared type and shape; ROWS_MISMATCH.
        ResourceExhausted: it is beyond the limits.
    """
    refs = {f"inputs[{name}]": ref for name, ref in source.inputs.items()}
    spec = SchemaSpec(
        inputs={name: (f"inputs[{name}]",) for name in source.inputs},
        target=None if source.targets is None else ARRAYS_TARGET,
        id=None if source.ids is None else ARRAYS_ID,
        weight=None if source.weights is None else ARRAYS_WEIGHT,
        groups=tuple(source.groups),
    )
    optional = ((ARRAYS_TARGET, source.targets), (ARRAYS_WEIGHT, source.weights))
    refs |= {name: ref for name, ref in optional if ref is not None}
    columns = {name: _mapped(name, ref, resolve(ref.digest)) for name, ref in refs.items()}
    texts = {} if source.ids is None else {ARRAYS_ID: source.ids}
    texts |= {f"groups[{name}]": ref for name, ref in source.groups.items()}
    lengths = {name: ref.shape[0] for name, ref in (*refs.items(), *texts.items()) if ref.shape}
    if len(set(lengths.values())) > 1:
        raise rows_mismatch(lengths)
    ids = None if source.ids is None else _texts(Part(ARRAYS_ID), source.ids, resolve)
    groups = {name: _texts(group_part(f"groups[{name}]"), ref, resolve) for name, ref in source.groups.items()}
    return TableSource(spec, columns, ids, groups)


def _texts(part: Part, ref: TensorRef, resolve: Callable[[str], Path]) -> Texts:
    path = resolve(ref.digest)
    if ref.dtype != "utf8":
        return ArrayTexts(_mapped(part.column, ref, path), part)
    if len(ref.shape) != 1 or ref.shape[0] < 0:
        raise bad_column(part.column, f"has shape {ref.shape}; {part.values} are strings or integers, one a row")
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    return Utf8Texts(content, part, ref.shape[0])


def _mapped(name: str, ref: TensorRef, path: Path) -> Array:
    if not ref.shape or min(ref.shape) < 0:
        raise bad_column(name, f"has shape {ref.shape}; its first axis must be rows")
    check_column(ColumnSchema(name, ref.dtype, ref.shape[1:]))
    dtype = little(NUMERIC[ref.dtype])
    declared, size = prod(ref.shape) * dtype.itemsize, path.stat().st_size
    if declared != size:
        text = f"is {size:,} bytes long; {ref.dtype} of shape {ref.shape} takes {declared:,}"
        raise bad_column(name, text)
    if size == 0:  # nothing cannot be mapped
        return np.empty(ref.shape, dtype)
    return np.memmap(path, dtype, "r", shape=ref.shape)
