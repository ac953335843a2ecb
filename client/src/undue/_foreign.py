"""What torch.save, torch.jit.save and pickle write, told apart by content. Nothing is unpickled."""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from ._errors import InvalidArgument, invalid

Foreign = Literal["torchscript", "tensors", "objects", "pickle"]
""""tensors" and "objects" are of torch.save: plain containers of tensors, or Python objects such as a whole module."""

_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""At the start of what torch.save wrote before 1.6."""
_LEGACY_PICKLES = 4
"""Magic number, version, system and the object itself."""
_PLAIN = frozenset(("torch", "torch._utils", "torch._tensor", "torch.storage", "torch.serialization", "collections"))
"""Modules of what torch writes for tensors."""
_PLAIN_NAMES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "torch.nn.parameter": ("Parameter", "Buffer"),
        "builtins": ("set", "frozenset", "bytearray", "complex"),
        "__builtin__": ("set", "frozenset", "bytearray", "complex"),
        "_codecs": ("encode",),
        "numpy": ("dtype", "ndarray"),
        "numpy.core.multiarray": ("scalar", "_reconstruct"),
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
    }.items()
    for name in names
)
"""And for plain containers and numbers beside them."""
_PICKLE_BYTES = 1 << 26

_TORCHSCRIPT = (
    "is TorchScript, from which influence cannot be computed. Export it as ONNX, and register that:\n"
    '    torch.onnx.export(torch.jit.load("model.pt"), (x,), "model.onnx", dynamo=False, do_constant_folding=False,\n'
    '        input_names=["input"], output_names=["output"],\n'
    '        dynamic_axes={"input": {0: "rows"}, "output": {0: "rows"}})'
)
_OBJECTS = (
    "holds Python objects, which run code when they are opened. Where you trust it, open it "
    "yourself and register what is in it:\n"
    '    client.models.register(name, torch.load("model.pt", weights_only=False), objective=…, example_inputs=X[:2])'
)
_TENSORS = (
    "holds weights without a model: say what they are loaded into (architecture=), or load them into the nn.Module and "
    "pass that with example_inputs"
)
_PICKLE = (
    "is a pickle, which runs code when it is opened; export the model as .onnx (for scikit-learn: skl2onnx) or pass an "
    "nn.Module"
)


def foreign(path: Path) -> tuple[Foreign, str] | None:
    """Return what a file is, and the objects that it would make; None where it is nothing of the kind, or no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(15)
        if start.startswith(b"PK\x03\x04"):
            return _of_zip(path)
        if start[:1] != b"\x80" or start[1:2] > b"\x05" or start[8:9] == b"{":  # safetensors: a length, then JSON
            return None
        if _LEGACY_MAGIC not in start:
            return "pickle", ""
        file.seek(0)
        return _of_objects(file, _LEGACY_PICKLES)


def refuse_foreign(path: Path, field: str = "source") -> None:
    """Complain of a file that is no model, with the line that makes one of it.

    Raises:
        InvalidArgument: MODEL_UNSAFE for pickled objects, MODEL_UNSUPPORTED for the others.
    """
    found = foreign(path)
    if found is not None:
        raise refusal(path, *found, field=field)


def refusal(path: Path, kind: Foreign, objects: str, field: str = "source") -> InvalidArgument:
    """Return the error that says what to do with a file."""
    text = {"torchscript": _TORCHSCRIPT, "objects": _OBJECTS, "tensors": _TENSORS, "pickle": _PICKLE}[kind]
    named = f" ({objects})" if objects else ""
    reason = "MODEL_UNSAFE" if kind in ("objects", "pickle") else "MODEL_UNSUPPORTED"
    return invalid(field, f"{path.name}{named} {text}", reason=reason)


def _of_zip(path: Path) -> tuple[Foreign, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            if min(info.header_offset for info in archive.infolist()) > 0:
                return None  # a truncated archive whose last whole part is an archive itself
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if "archive_format" in names:
                return None  # torch.export
            if "constants.pkl" in names or any(name.startswith("code/") for name in names):
                return "torchscript", ""
            if "data.pkl" not in names:
                return None
            with archive.open(names["data.pkl"]) as file:
                return _of_objects(file, 1)  # type: ignore[arg-type]  # it reads as a file does
    except Exception:  # noqa: BLE001  zipfile raises whatever a damaged record makes it stumble over
        return None  # no archive that can be told apart; the service says what is wrong with it


def _of_objects(file: BinaryIO, pickles: int) -> tuple[Foreign, str]:
    strange = list(dict.fromkeys(name for name in _globals(file, pickles) if not _is_plain(name)))
    return ("objects", ", ".join(strange[:3]) + (", …" if len(strange) > 3 else "")) if strange else ("tensors", "")


def _is_plain(name: str) -> bool:
    return name.rpartition(".")[0] in _PLAIN or name in _PLAIN_NAMES


def _globals(file: BinaryIO, pickles: int) -> Iterator[str]:
    """Yield what pickles would import, read as data."""
    texts: list[str] = []
    for _ in range(pickles):
        try:
            for opcode, argument, position in pickletools.genops(file):
                if position is not None and position > _PICKLE_BYTES:
                    yield "more than can be looked through"
                    return
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
        except (ValueError, UnicodeDecodeError, EOFError, MemoryError, OverflowError):
            yield "damaged"
            return
