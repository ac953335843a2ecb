"""Tensors of a `.pt2` program: what the graph declares of them, and the raw bytes of those that are stored."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch._export.serde import schema

from undue_service.models.limits import MAX_RANK
from undue_service.models.refusals import malformed, quoted, unsafe, unsupported

from .archive import Archive
from .expressions import parse_expression
from .strict import make, parse_json, read

FLOATS = {schema.ScalarType.FLOAT: "float32", schema.ScalarType.DOUBLE: "float64"}
DTYPES = {
    **FLOATS,
    schema.ScalarType.LONG: "int64",
    schema.ScalarType.INT: "int32",
    schema.ScalarType.BOOL: "bool",
}
CPU = schema.Device(type="cpu", index=None)
_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Where a model may have been exported. It is loaded on the CPU; the engine moves it."""
_MAX_SIZE = 2**48


def size(value: schema.SymInt) -> schema.SymInt:
    """Return a size with its expression rebuilt.

    Raises:
        InvalidArgument: MODEL_UNSAFE, MODEL_UNSUPPORTED, MODEL_MALFORMED.
    """
    if value.type == "as_int":
        if not 0 <= value.as_int <= _MAX_SIZE:
            raise malformed(f"a tensor of the program has the size {value.as_int}")
        return value
    text = parse_expression(value.as_expr.expr_str).text
    hint = value.as_expr.hint
    if hint is not None and (hint.type != "as_int" or not 0 <= hint.as_int <= _MAX_SIZE):
        raise malformed("the example of a size is not a natural number")
    return make(schema.SymInt, as_expr=schema.SymExpr(expr_str=text, hint=hint))


def device(value: schema.Device) -> schema.Device:
    """Return the CPU for a device that is known.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED.
    """
    if value.type not in _DEVICES:
        raise unsupported(f"the program is made for the device {quoted(value.type)}; export it on the CPU")
    return CPU


def tensor_meta(meta: schema.TensorMeta, what: str) -> schema.TensorMeta:
    """Return a tensor's declared type and sizes, rebuilt and on the CPU.

    Raises:
        InvalidArgument: MODEL_UNSAFE, MODEL_UNSUPPORTED, MODEL_MALFORMED.
    """
    if meta.layout != schema.Layout.Strided:
        raise unsupported(f"{what} is sparse; make it dense before the export")
    if meta.dtype not in DTYPES:
        name = schema.ScalarType(meta.dtype).name
        raise unsupported(f"{what} is {name}; supported are float32, float64, int64, int32 and bool")
    if len(meta.sizes) != len(meta.strides) or len(meta.sizes) > MAX_RANK:
        raise malformed(f"{what} has {len(meta.sizes)} sizes and {len(meta.strides)} strides, or more than {MAX_RANK}")
    return replace(
        meta,
        sizes=[size(value) for value in meta.sizes],
        strides=[size(value) for value in meta.strides],
        storage_offset=size(meta.storage_offset),
        device=device(meta.device),
    )


def fixed(values: Sequence[schema.SymInt], what: str) -> tuple[int, ...]:
    """Return sizes that are numbers.

    Raises:
        InvalidArgument: MODEL_MALFORMED.
    """
    if any(value.type != "as_int" for value in values):
        raise malformed(f"{what} has no fixed shape")
    return tuple(value.as_int for value in values)


def read_payloads(
    archive: Archive, config: str, folder: str, wanted: Mapping[str, schema.TensorMeta], trained: Iterable[str]
) -> tuple[schema.PayloadConfig, dict[str, bytes]]:
    """Return the table and the bytes of the stored tensors that a program reads.

    Args:
        archive: where they are.
        config: record that holds the table.
        folder: folder of the records with the bytes.
        wanted: name of a tensor to what the graph declares of it. Others are left out.
        trained: those that are parameters.

    Raises:
        InvalidArgument: MODEL_UNSAFE for a pickle, MODEL_MALFORMED for a tensor that is not within its bytes, is not
            what the graph declares, or holds NaN or infinity; MODEL_UNSUPPORTED for its type.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    stored = read(schema.PayloadConfig, parse_json(archive.text(config), config), config).config
    for name, payload in stored.items():
        if payload.use_pickle:
            raise unsafe(f"the tensor {quoted(name)} is stored as a pickle; a model is a graph and plain tensors")
    missing = sorted(set(wanted) - set(stored))
    if missing:
        raise malformed(f"the archive lacks the tensors {quoted(', '.join(missing))}")
    parameters = set(trained)
    table: dict[str, schema.PayloadMeta] = {}
    contents: dict[str, bytes] = {}
    for name, declared in wanted.items():
        payload = stored[name]
        path = payload.path_name
        if folder + path not in archive.records or "/" in path:
            raise malformed(f"the tensor {quoted(name)} is in {quoted(path)}, which the archive does not have")
        if payload.tensor_meta is None:
            raise malformed(f"the tensor {quoted(name)} has no type")
        meta = tensor_meta(payload.tensor_meta, f"the tensor {quoted(name)}")
        if path not in contents:
            contents[path] = archive.read(folder + path)
        _check_stored(name, meta, declared, contents[path])
        if name in parameters and meta.dtype not in FLOATS:
            raise unsupported(f"the parameter {quoted(name)} is {DTYPES[meta.dtype]}, not float32 or float64")
        table[name] = replace(payload, tensor_meta=meta, is_param=name in parameters)
    return schema.PayloadConfig(config=table), contents


def _check_stored(name: str, meta: schema.TensorMeta, declared: schema.TensorMeta, content: bytes) -> None:
    what = f"the tensor {quoted(name)}"
    sizes, strides = fixed(meta.sizes, what), fixed(meta.strides, what)
    (offset,) = fixed([meta.storage_offset], what)
    if meta.dtype != declared.dtype or sizes != fixed(declared.sizes, what):
        raise malformed(f"{what} is stored as {DTYPES[meta.dtype]} {sizes}, which is not what the graph declares")
    dtype = np.dtype(DTYPES[meta.dtype])
    if len(content) % dtype.itemsize:
        raise malformed(f"{what} has {len(content)} bytes, no multiple of {dtype.itemsize}")
    count, numel = len(content) // dtype.itemsize, math.prod(sizes)
    last = offset + sum((length - 1) * stride for length, stride in zip(sizes, strides, strict=True))
    if numel and (numel > count or last >= count):
        raise malformed(f"{what} of shape {sizes} reaches beyond its {len(content)} bytes")
    if dtype.kind == "f" and not np.isfinite(np.frombuffer(content, dtype)).all():
        raise malformed(f"{what} holds NaN or infinity; the training that made it diverged")
