"""Where the rows of a data set come from: messages of the API into values of the domain, and back."""

import math
from collections.abc import Callable
from typing import Any, cast

from undue.v1 import datasets_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import (
    SEVERAL_FILES,
    ArraysSource,
    DataSource,
    FileSource,
    SchemaSpec,
    TensorRef,
    TransformSpec,
    UploadedFile,
)

from .enums import DTYPES, FILE_FORMATS

Digest = Callable[[str, str | bytes], str]
"""(field, upload name or bytes) → sha256 of the artifact that holds them."""

MAX_SCHEMA_BYTES = 2 << 20
"""A data set is answered with its schema, and clients take 4 MiB."""
MAX_COLUMNS = 100_000
"""Of all inputs of a data set together."""

ITEM_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
}
ITEM_BYTES |= {"int64": 8, "uint64": 8, "float64": 8}


def read(dataset: datasets_pb2.Dataset, digest: Digest) -> DataSource:
    """Return the source that a request names. Files that a URI means are found later, by who may look.

    Raises:
        InvalidArgument: bytes that do not fit their declared shape, too many columns, or several files of a format
            that is one file.
    """
    return _arrays(dataset.arrays, digest) if dataset.HasField("arrays") else _file(dataset.file, digest)


def write(source: DataSource, message: datasets_pb2.Dataset) -> None:
    """Say in a message where the rows come from, without their bytes."""
    if isinstance(source, ArraysSource):
        _write_arrays(source, message.arrays)
    else:
        _write_file(source, message.file)


def _arrays(arrays: datasets_pb2.ArraysSource, digest: Digest) -> ArraysSource:
    sent = {f"{part}[{name}]": one for part in ("inputs", "groups") for name, one in getattr(arrays, part).items()}
    sent |= {part: getattr(arrays, part) for part in ("targets", "ids", "weights") if arrays.HasField(cast(Any, part))}
    for name, tensor in sent.items():
        check_tensor(f"dataset.arrays.{name}", tensor)
    # What may still be refused comes before what is kept: a request that fails leaves no bytes.
    uploads_first = sorted(sent.items(), key=lambda item: item[1].HasField("data"))
    refs = {name: _tensor(f"dataset.arrays.{name}", tensor, digest) for name, tensor in uploads_first}
    return ArraysSource(
        inputs={name: refs[f"inputs[{name}]"] for name in sorted(arrays.inputs)},
        targets=refs.get("targets"),
        ids=refs.get("ids"),
        weights=refs.get("weights"),
        groups={name: refs[f"groups[{name}]"] for name in sorted(arrays.groups)},
    )


def check_tensor(field: str, tensor: tensors_pb2.Tensor) -> None:
    """Raise InvalidArgument (INVALID_FIELD) where the bytes of a tensor do not fit its type and shape."""
    dtype = DTYPES.to_domain(f"{field}.dtype", tensor.dtype)
    item = ITEM_BYTES.get(dtype)  # a string has no fixed size
    shape = tuple(tensor.shape)
    if math.prod(shape) >= 1 << 48:
        raise InvalidArgument.at(f"{field}.shape", f"{shape} is larger than anything that can be sent")
    if item is not None and tensor.HasField("data") and len(tensor.data) != item * math.prod(shape):
        text = f"{len(tensor.data):,} bytes; {dtype} of shape {shape} has {item * math.prod(shape):,}"
        raise InvalidArgument.at(f"{field}.data", text)


def _tensor(field: str, tensor: tensors_pb2.Tensor, digest: Digest) -> TensorRef:
    dtype, shape = DTYPES.to_domain(f"{field}.dtype", tensor.dtype), tuple(tensor.shape)
    if tensor.HasField("upload"):
        return TensorRef(dtype, shape, digest(f"{field}.upload", tensor.upload))
    return TensorRef(dtype, shape, digest(f"{field}.data", tensor.data))


def _file(file: datasets_pb2.FileSource, digest: Digest) -> FileSource:
    format_: Any = FILE_FORMATS.to_domain("dataset.file.format", file.format)
    if len(file.files) > 1 and format_ not in SEVERAL_FILES:
        text = f"names {len(file.files):,} files; {format_} is one file (several: {', '.join(sorted(SEVERAL_FILES))})"
        raise InvalidArgument.at("dataset.file.files", text)
    if format_ == "idx" and len({one.name for one in file.files}) < len(file.files):
        raise InvalidArgument.at("dataset.file.files", "two files have one name; each of IDX is a column of its own")
    schema = _schema(file.schema)
    files = tuple(
        UploadedFile(one.name, digest(f"dataset.file.files[{place}].upload", one.upload))
        for place, one in enumerate(file.files)
    )
    return FileSource(format_, files, schema, file.uri or None)


def _schema(schema: datasets_pb2.Schema) -> SchemaSpec:
    if sum(len(columns.columns) for columns in schema.inputs.values()) > MAX_COLUMNS:
        raise InvalidArgument.at("dataset.file.schema.inputs", f"names more than {MAX_COLUMNS:,} columns")
    if schema.ByteSize() > MAX_SCHEMA_BYTES:
        raise InvalidArgument.at("dataset.file.schema", f"is longer than {MAX_SCHEMA_BYTES:,} bytes")
    inputs = sorted(schema.inputs.items())
    return SchemaSpec(
        inputs={name: tuple(columns.columns) for name, columns in inputs},
        target=schema.target or None,
        id=schema.id or None,
        weight=schema.weight or None,
        groups=tuple(schema.groups),
        transforms={name: _transform(columns.transform) for name, columns in inputs if columns.HasField("transform")},
    )


def _transform(message: datasets_pb2.Transform) -> TransformSpec:
    scale = message.scale if message.HasField("scale") else 1.0
    return TransformSpec(tuple(message.row_shape), scale, tuple(message.mean), tuple(message.std))


def _write_arrays(source: ArraysSource, message: datasets_pb2.ArraysSource) -> None:
    for name, ref in source.inputs.items():
        message.inputs[name].CopyFrom(_tensor_message(ref))
    for name, ref in source.groups.items():
        message.groups[name].CopyFrom(_tensor_message(ref))
    for part in ("targets", "ids", "weights"):
        ref = getattr(source, part)
        if ref is not None:
            getattr(message, part).CopyFrom(_tensor_message(ref))


def _tensor_message(ref: TensorRef) -> tensors_pb2.Tensor:
    return tensors_pb2.Tensor(dtype=DTYPES.to_proto(ref.dtype), shape=ref.shape)


def _write_file(source: FileSource, message: datasets_pb2.FileSource) -> None:
    message.format = FILE_FORMATS.to_proto(source.format)
    message.uri = source.uri or ""
    # A folder may hold a hundred thousand images: more names than an answer can carry, and than anybody reads.
    for file in () if source.listed_apart else source.files:
        message.files.add().name = file.name
    schema, spec = message.schema, source.schema
    for name, columns in spec.inputs.items():
        schema.inputs[name].columns.extend(columns)
        if name in spec.transforms:
            schema.inputs[name].transform.CopyFrom(_transform_message(spec.transforms[name]))
    schema.target = spec.target or ""
    schema.id = spec.id or ""
    schema.weight = spec.weight or ""
    schema.groups.extend(spec.groups)


def _transform_message(spec: TransformSpec) -> datasets_pb2.Transform:
    return datasets_pb2.Transform(row_shape=spec.row_shape, scale=spec.scale, mean=spec.mean, std=spec.std)
