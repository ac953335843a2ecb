"""How each format holds a table."""

import csv
import gzip
import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dataset_tables import Array, Table
from undue_service.domain.specs import (
    ArraysSource,
    DataSource,
    FileSource,
    LocatedFile,
    SchemaSpec,
    TensorRef,
    TransformSpec,
    UploadedFile,
)
from undue_service.wire.located import located_file


class Files:
    """Files by digest, as the runner is given them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        self.paths: dict[str, Path] = {}

    def new(self) -> Path:
        return self._folder / str(next(self._numbers))

    def keep(self, path: Path) -> str:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.paths[digest] = path
        return digest

    def uploaded(self, name: str, content: bytes) -> UploadedFile:
        path = self.new()
        path.write_bytes(content)
        return UploadedFile(name, self.keep(path))

    def located(self, name: str, content: bytes) -> LocatedFile:
        path = self.new()
        path.write_bytes(content)
        return located(name, path)

    def resolve(self, digest: str) -> Path:
        return self.paths[digest]


def located(name: str, path: Path) -> LocatedFile:
    """Return a file as registration finds it where it lies."""
    return located_file(name, str(path.resolve()), path.stat())


@dataclass(frozen=True)
class Format:
    """How a source is made of a table."""

    build: Callable[[Table, Files], DataSource]
    holds: Callable[[Table], bool] = lambda table: True
    """Whether the format can hold such data."""


def arrays(table: Table, files: Files) -> DataSource:
    def tensor(values: Array) -> TensorRef:
        path = files.new()
        path.write_bytes(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
        return TensorRef(values.dtype.name, values.shape, files.keep(path))

    def text(texts: list[str]) -> TensorRef:
        path = files.new()
        path.write_bytes(b"".join(one.encode() + b"\0" for one in texts))
        return TensorRef("utf8", (len(texts),), files.keep(path))

    return ArraysSource(
        {name: tensor(values) for name, values in table.inputs.items()},
        None if table.targets is None else tensor(table.targets),
        None if table.ids is None else text(table.ids),
        None if table.weights is None else tensor(table.weights),
        {name: text(values) for name, values in table.groups.items()},
    )


def npz(save: Callable[..., None], convert: Callable[[Array], Array] = lambda values: values) -> Format:
    def build(table: Table, files: Files) -> DataSource:
        columns, spec = table.columns()
        stored = {name: convert(values) for name, values in columns.items()}
        stored |= {name: np.array(values, dtype=str) for name, values in table.texts().items()}
        path = files.new()
        with path.open("wb") as file:
            save(file, **stored)
        return FileSource("npz", (UploadedFile(path.name, files.keep(path)),), spec)

    return Format(build)


def thirds(table: Table) -> list[Table]:
    """Return a table in three parts of different lengths."""
    first, second = len(table) // 5, len(table) // 2
    return [table.part(0, first), table.part(first, second), table.part(second, len(table))]


def parquet(
    row_group_size: int = 1 << 20, fixed: bool = True, several: bool = False, where: str = "uploaded", **options: Any
) -> Format:
    def column(values: Array) -> pa.Array:
        flat = pa.array(values.reshape(-1))
        for axis in range(values.ndim - 1, 0, -1):
            size = values.shape[axis]
            offsets = np.arange(0, len(flat) + size, size, dtype=np.int32)
            flat = pa.FixedSizeListArray.from_arrays(flat, size) if fixed else pa.ListArray.from_arrays(offsets, flat)
        return flat

    def build(table: Table, files: Files) -> DataSource:
        _, spec = table.columns()
        made = []
        for part in thirds(table) if several else [table]:
            stored = {name: column(values) for name, values in part.columns()[0].items()}
            stored |= {name: pa.array(values, pa.string()) for name, values in part.texts().items()}
            content = io.BytesIO()
            pq.write_table(pa.table(stored), content, row_group_size=row_group_size, **options)
            made.append(getattr(files, where)(f"part-{len(made)}.parquet", content.getvalue()))
        return FileSource("parquet", tuple(made), spec)

    return Format(build)


def spelled(value: Any) -> str:
    """Return a number as CSV files have it."""
    if isinstance(value, np.bool_):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, np.floating) else str(value)


def csv_text(table: Table) -> tuple[str, SchemaSpec]:
    """Return a table as CSV. An input of float32 comes out of a transform that changes nothing but the type."""
    columns, spec = table.columns()
    flat: dict[str, Any] = {name: values for name, values in columns.items() if values.ndim == 1}
    inputs, transforms = dict(spec.inputs), {}
    for name, values in table.inputs.items():
        if name not in table.stacked and values.ndim > 1:
            pieces = values.reshape(len(values), int(np.prod(values.shape[1:])))
            inputs[name] = tuple(f"{name}.column.{place}" for place in range(pieces.shape[1]))
            flat |= dict(zip(inputs[name], pieces.T, strict=True))
        if values.dtype == np.float32:
            transforms[name] = TransformSpec(row_shape=values.shape[1:])
    texts = table.texts()
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*flat, *texts])
    for row in range(len(table)):
        writer.writerow([*(spelled(values[row]) for values in flat.values()), *(texts[name][row] for name in texts)])
    return out.getvalue(), replace(spec, inputs=inputs, transforms=transforms)


def csv_format(
    several: bool = False, where: str = "uploaded", pack: Callable[[bytes], bytes] = lambda content: content
) -> Format:
    def build(table: Table, files: Files) -> DataSource:
        spec = csv_text(table)[1]
        parts = [pack(csv_text(part)[0].encode()) for part in (thirds(table) if several else [table])]
        made = [getattr(files, where)(f"part-{place}.csv", content) for place, content in enumerate(parts)]
        return FileSource("csv", tuple(made), spec)

    def holds(table: Table) -> bool:
        plain = ("int64", "float64", "bool")
        scalars = [values for values in (table.targets, table.weights) if values is not None]
        return all(
            values.dtype == np.float32 or (values.dtype.name in plain and values.ndim < 3 and values.shape[-1] > 1)
            for values in table.inputs.values()
        ) and all(values.dtype.name in plain and values.ndim == 1 for values in scalars)

    return Format(build, holds)


def idx_bytes(values: Array) -> bytes:
    """Return an array as an IDX file."""
    types = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
    header = bytes([0, 0, types[values.dtype.name], values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


def idx(where: str = "uploaded", pack: Callable[[bytes], bytes] = lambda content: content) -> Format:
    def build(table: Table, files: Files) -> DataSource:
        columns, spec = table.columns()
        columns |= {name: np.array(values, np.int32) for name, values in table.texts().items()}
        made = tuple(getattr(files, where)(name, pack(idx_bytes(values))) for name, values in columns.items())
        return FileSource("idx", made, spec)

    def holds(table: Table) -> bool:
        numbers = ("uint8", "int8", "int16", "int32", "float32", "float64")
        texts = [text for values in table.texts().values() for text in values]
        return all(values.dtype.name in numbers for values in table.columns()[0].values()) and all(
            text.isascii() and text.isdecimal() and text == str(int(text)) and int(text) < 1 << 31 for text in texts
        )

    return Format(build, holds)


def png(pixels: Array, kind: str = "PNG", **options: Any) -> bytes:
    """Return (C, H, W) uint8 as an image file."""
    content = io.BytesIO()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(content, kind, **options)
    return content.getvalue()


IMAGES = SchemaSpec({"": ("image",)}, target="label", id="path", groups=("class",))


def image_folder(zipped: bool, where: str) -> Format:
    def build(table: Table, files: Files) -> DataSource:
        assert table.ids is not None
        # The order in which files come must not matter.
        named = dict(reversed([*zip(table.ids, map(png, table.inputs[""]), strict=True)]))
        if not zipped:
            made = tuple(getattr(files, where)(name, content) for name, content in named.items())
            return FileSource("image_folder", made, IMAGES)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for name, content in named.items():
                file.writestr(name, content)
        return FileSource("image_folder", (getattr(files, where)("digits.zip", archive.getvalue()),), IMAGES)

    def holds(table: Table) -> bool:
        return table.ids is not None and [*table.groups] == ["class"] and table.ids[0].endswith(".png")

    return Format(build, holds)


FORMATS: dict[str, Format] = {
    "arrays": Format(arrays),
    "npz": npz(np.savez),
    "npz-compressed": npz(np.savez_compressed),
    "npz-big-endian": npz(np.savez, lambda values: values.astype(values.dtype.newbyteorder(">"))),
    "npz-fortran": npz(np.savez, np.asfortranarray),
    "parquet": parquet(),
    "parquet-small-groups": parquet(row_group_size=7, fixed=False),
    "parquet-plain": parquet(row_group_size=400, fixed=False, use_dictionary=False, compression="none"),
    "parquet-three-files": parquet(row_group_size=50, several=True, where="located"),
    "csv": csv_format(),
    "csv-gz": csv_format(pack=gzip.compress),
    "csv-three-files": csv_format(several=True, where="located"),
    "idx": idx(where="located"),
    "idx-gz": idx(pack=gzip.compress),
    "image-zip": image_folder(zipped=True, where="uploaded"),
    "image-zip-located": image_folder(zipped=True, where="located"),
    "image-files": image_folder(zipped=False, where="located"),
}
