"""What can be registered, told apart by what it is and by the file's extension."""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ._columns import idx_column
from ._errors import Error, invalid
from ._foreign import refuse_foreign
from .v1 import datasets_pb2, models_pb2

MODEL_FORMATS = {".onnx": models_pb2.Model.FORMAT_ONNX, ".pt2": models_pb2.Model.FORMAT_PT2}

DatasetFormat = Literal["npz", "parquet", "csv", "idx", "image_folder"]
FORMATS: dict[DatasetFormat, datasets_pb2.FileSource.Format.ValueType] = {
    name: datasets_pb2.FileSource.Format.Value(f"FORMAT_{name.upper()}") for name in get_args(DatasetFormat)
}
AnyPath = str | os.PathLike[str]
Source = AnyPath | Sequence[AnyPath] | Mapping[str, AnyPath]
"""A path, paths of several files, columns and their paths, or a URI."""
_SEVERAL: tuple[DatasetFormat, ...] = ("parquet", "csv", "idx")
_EXTENSIONS: dict[str, DatasetFormat] = {
    ".npz": "npz",
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".idx": "idx",
    ".idx.gz": "idx",
    "-ubyte": "idx",
    "-ubyte.gz": "idx",
    ".zip": "image_folder",
}
_ENDINGS = ".npz, .parquet, .csv, .csv.gz, .idx, -ubyte, -ubyte.gz or a folder of images"

MAX_FILES = 10_000
"""As many the service takes at once."""

_MODEL_ADVICE = {
    ".pt": "may run code when it is opened; pass the nn.Module with example_inputs, or a .pt2 of torch.export.save",
    ".pkl": "runs code when it is opened; export the model as .onnx (for scikit-learn: skl2onnx) or pass an nn.Module",
    ".h5": "is not read; export the model as .onnx (tf2onnx)",
    ".safetensors": "holds weights without a model: say what they are loaded into (architecture=), or load them into "
    "the nn.Module and pass that with example_inputs",
}
_MODEL_ADVICE |= {".pth": _MODEL_ADVICE[".pt"], ".ckpt": _MODEL_ADVICE[".pt"], ".bin": _MODEL_ADVICE[".pt"]}
_MODEL_ADVICE |= {".pickle": _MODEL_ADVICE[".pkl"], ".joblib": _MODEL_ADVICE[".pkl"], ".keras": _MODEL_ADVICE[".h5"]}

_DATASET_ADVICE = {
    ".npy": "is not read; pass undue.Arrays(inputs=numpy.load(path), targets=…)",
    ".pkl": "runs code when it is opened; pass undue.Arrays",
    ".pt": "may run code when it is opened; pass undue.Arrays",
    ".xlsx": "is not read; pass undue.Arrays, or write it as .csv",
    ".json": "is not read; pass undue.Arrays, or write it as .parquet (pandas.DataFrame.to_parquet)",
}
_DATASET_ADVICE |= {".jsonl": _DATASET_ADVICE[".json"], ".feather": _DATASET_ADVICE[".json"]}


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files to send, by the names that they are sent under."""

    format: DatasetFormat
    files: tuple[tuple[str, Path], ...]


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder of images to pack and send."""

    path: Path
    format: DatasetFormat = "image_folder"


@dataclass(frozen=True, slots=True)
class Reference:
    """Files that the service reads where they lie; nothing is opened here."""

    format: DatasetFormat
    uri: str


def model_file(source: object) -> tuple[Path, models_pb2.Model.Format.ValueType]:
    """Return the path of a model's file and its format.

    Raises:
        InvalidArgument: it is no path, or of a format that is not read: by its content, where torch or pickle wrote it.
    """
    if isinstance(source, Mapping):
        raise invalid("source", "is a mapping of weights: say what they are loaded into (architecture=)")
    path = _path(source, "a path of a .onnx or .pt2 file, an nn.Module or an ExportedProgram")
    refuse_foreign(path)
    suffix = path.suffix.lower()
    if suffix not in MODEL_FORMATS:
        advice = _MODEL_ADVICE.get(suffix, "is not read; models are .onnx or .pt2 files, or an nn.Module")
        raise invalid("source", f"{path.name}: {suffix or 'no extension'} {advice}", reason="MODEL_UNSUPPORTED")
    return path, MODEL_FORMATS[suffix]


def dataset_source(source: object, file_format: DatasetFormat | None = None) -> LocalFiles | LocalFolder | Reference:
    """Return what a data set is made of: files, a folder, or a reference to what the service reads itself.

    Raises:
        InvalidArgument: it is nothing of the kind, of a format that is not read, or names no file.
    """
    if file_format is not None and file_format not in FORMATS:
        raise invalid("format", f"{file_format!r} is not one of {', '.join(FORMATS)}")
    given = file_format
    if isinstance(source, str) and "://" in source:
        return Reference(given or _format_of_uri(source), source)
    if isinstance(source, Mapping):
        return _columns(source, given)
    if isinstance(source, (list, tuple)):
        return _files([_path(each, "a list of paths") for each in source], given)
    path = _path(source, "undue.Arrays, a path, a list of paths, a dict of column to path (IDX) or a URI")
    if path.is_dir():
        if given not in (None, "image_folder"):
            ending = ".csv" if given == "csv" else ".parquet" if given == "parquet" else ""
            raise invalid("source", f"{path} is a folder; name its files: {path}/*{ending}")
        return LocalFolder(path)
    if re.search("[*?]", str(path)) and not path.exists():
        return _files(_matches(path), given)
    return _files([path], given)


def _columns(source: Mapping[Any, Any], given: DatasetFormat | None) -> LocalFiles:
    if given not in (None, "idx"):
        raise invalid("source", f"a dict of column to path is for IDX, whose files are one column each; {given} is not")
    if not source:
        raise invalid("source", "names no file")
    files = []
    for name, each in source.items():
        if not isinstance(name, str) or not name:
            raise invalid("source", f"{name!r} is not the name of a column")
        path = _path(each, "a path for each column")
        if given is None and _format_of(path.name) != "idx":
            raise invalid("source", f"{path.name} is not IDX (.idx, -ubyte); a dict of column to path is for IDX alone")
        files.append((_sendable(name), path))
    return LocalFiles("idx", tuple(files))


def _files(paths: Sequence[Path], given: DatasetFormat | None) -> LocalFiles:
    if not paths:
        raise invalid("source", "names no file")
    if len(paths) > MAX_FILES:
        raise invalid("source", f"names {len(paths):,} files; {MAX_FILES:,} are sent at most: join some of them")
    formats = {given} if given else {_format_of(path.name) for path in paths}
    if len(formats) > 1:
        raise invalid("source", f"mixes {' and '.join(sorted(formats))}; a data set has one format")
    file_format = formats.pop()
    if len(paths) > 1 and file_format not in _SEVERAL:
        raise invalid("source", f"names {len(paths)} files; {file_format} is one (several: {', '.join(_SEVERAL)})")
    names = [_sendable(idx_column(path.name) if file_format == "idx" else path.name) for path in paths]
    if file_format == "idx" and len(set(names)) < len(names):
        raise invalid("source", "two files would be one column; name the columns: {'image': path, 'label': path}")
    return LocalFiles(file_format, tuple(zip(names, paths, strict=True)))


def _sendable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise invalid("source", f"the name {name!a} is not UTF-8; rename the file") from None
    return name


def _matches(pattern: Path) -> list[Path]:
    """Return the files that a pattern means, in the order of their names; only * and ? are wild, as in a URI."""
    found = sorted(glob.glob(str(pattern).replace("[", "[[]")))
    if not found:
        raise invalid("source", f"{pattern} matches no file")
    folders = [path for path in found if os.path.isdir(path)]
    if folders:
        raise invalid("source", f"{pattern} matches a folder, {folders[0]}; match files")
    return [Path(path) for path in found]


def _format_of(name: str) -> DatasetFormat:
    found = _known_format(name)
    if found is None:
        raise _unknown(name)
    return found


def _format_of_uri(uri: str) -> DatasetFormat:
    """Return the format by the extension; what has none is a folder of images, for nothing is opened here."""
    path = uri.partition("://")[2]
    name = path.rpartition("/")[2]
    found = _known_format(name)
    if found is None and re.search(r"(?<=.)\.|[*?]", name):  # a folder has neither as a rule
        raise _unknown(name)
    return found or "image_folder"


def _known_format(name: str) -> DatasetFormat | None:
    return next((known for ending, known in _EXTENSIONS.items() if name.lower().endswith(ending)), None)


def _unknown(name: str) -> Error:
    suffix = Path(name).suffix.lower()
    known = f"is not read; data sets are {_ENDINGS}, or undue.Arrays; where the name does not tell, format= does"
    what = suffix or "no folder of that name, and a file without extension"
    return invalid("source", f"{name}: {what} {_DATASET_ADVICE.get(suffix, known)}")


def _path(source: object, expected: str) -> Path:
    if isinstance(source, str) and "://" in source:
        raise invalid("source", f"{source!r} is a URI; pass one alone, with * in its last part for several files")
    if not isinstance(source, (str, os.PathLike)):
        raise invalid("source", f"is a {type(source).__name__}; pass {expected}")
    return Path(os.fsdecode(source)).expanduser()
