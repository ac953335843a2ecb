"""A Parquet data set written out once, so that any rows of it are found at once.

Its own blocks are decoded row group by row group: 100 rows from anywhere mean most of the file. Numbers keep the type
that the files have (uint8 stays uint8), and transforms are applied when rows are read.
"""

import numpy as np

from undue_service.domain.specs import SchemaSpec

from .limits import block_rows
from .parquet import ParquetSource
from .scratch import Scratch, ScratchFile
from .source import Array, spans
from .table import TableSource
from .texts import Part, Texts, Utf8Texts, group_part

_TEXT_BLOCK_ROWS = block_rows(1024)


def unpacked(source: ParquetSource, spec: SchemaSpec, scratch: Scratch) -> TableSource:
    """Return the same data in nameless files, which are mapped.

    Raises:
        InvalidArgument: DATASET_MALFORMED when damage is met.
        ResourceExhausted: UPLOAD_TOO_LARGE; STORAGE_FULL.
    """
    files: dict[str, ScratchFile] = {}
    like: dict[str, Array] = {}
    for _, block in source.stored():
        for name, values in block.items():
            if name not in files:
                files[name], like[name] = scratch.file(), values[:0]
            files[name].write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    rows = len(source)
    columns = {name: file.mapped(like[name].dtype, (rows, *like[name].shape[1:])) for name, file in files.items()}
    ids, groups = _texts(source, spec, scratch)
    return TableSource(spec, columns, ids, groups)


def _texts(source: ParquetSource, spec: SchemaSpec, scratch: Scratch) -> tuple[Texts | None, dict[str, Texts]]:
    """Return the ids, where there are any, and the columns of groups."""
    ids = None if spec.id is None else scratch.file()
    groups = {name: scratch.file() for name in source.schema.groups}
    for start, stop in spans(len(source), _TEXT_BLOCK_ROWS):
        here = range(start, stop)
        if ids is not None:
            ids.write(_terminated(source.ids(here)))
        if groups:
            for name, texts in source.groups(here).items():
                groups[name].write(_terminated(texts))
    rows = len(source)
    held = None if ids is None or spec.id is None else _mapped(ids, Part(spec.id), rows)
    return held, {name: _mapped(file, group_part(name), rows) for name, file in groups.items()}


def _mapped(file: ScratchFile, part: Part, rows: int) -> Utf8Texts:
    return Utf8Texts(file.mapped(np.dtype(np.uint8), (file.size,)), part, rows)


def _terminated(texts: list[str]) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)
