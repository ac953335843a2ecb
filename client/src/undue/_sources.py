"""What can be registered, told apart by what it is and by the file's extension."""

import os
from pathlib import Path

from ._errors import invalid
from .v1 import datasets_pb2, models_pb2

MODEL_FORMATS = {".onnx": models_pb2.Model.FORMAT_ONNX, ".pt2": models_pb2.Model.FORMAT_PT2}
DATASET_FORMATS = {".npz": datasets_pb2.FileSource.FORMAT_NPZ, ".parquet": datasets_pb2.FileSource.FORMAT_PARQUET}

_MODEL_ADVICE = {
    ".pt": "may run code when it is opened; pass the nn.Module with example_inputs, or a .pt2 of torch.export.save",
    ".pkl": "runs code when it is opened; export the model as .onnx (for scikit-learn: skl2onnx) or pass an nn.Module",
    ".h5": "is not read; export the model as .onnx (tf2onnx)",
    ".safetensors": "holds weights without a model; load them into the nn.Module and pass that with example_inputs",
}
_MODEL_ADVICE |= {".pth": _MODEL_ADVICE[".pt"], ".ckpt": _MODEL_ADVICE[".pt"], ".bin": _MODEL_ADVICE[".pt"]}
_MODEL_ADVICE |= {".pickle": _MODEL_ADVICE[".pkl"], ".joblib": _MODEL_ADVICE[".pkl"], ".keras": _MODEL_ADVICE[".h5"]}

_DATASET_ADVICE = {
    ".csv": "is not read; pass undue.Arrays, or write it as .parquet (pandas.DataFrame.to_parquet)",
    ".npy": "is not read; pass undue.Arrays(inputs=numpy.load(path), targets=…)",
    ".pkl": "runs code when it is opened; pass undue.Arrays",
    ".pt": "may run code when it is opened; pass undue.Arrays",
}


def model_file(source: object) -> tuple[Path, models_pb2.Model.Format.ValueType]:
    """Return the path of a model's file and its format.

    Raises:
        InvalidArgument: it is no path, or of a format that is not read.
    """
    path = _path(source, "a path of a .onnx or .pt2 file, an nn.Module or an ExportedProgram")
    suffix = path.suffix.lower()
    if suffix not in MODEL_FORMATS:
        advice = _MODEL_ADVICE.get(suffix, "is not read; models are .onnx or .pt2 files, or an nn.Module")
        raise invalid("source", f"{path.name}: {suffix or 'no extension'} {advice}", reason="MODEL_UNSUPPORTED")
    return path, MODEL_FORMATS[suffix]


def dataset_file(source: object) -> tuple[Path, datasets_pb2.FileSource.Format.ValueType]:
    """Return the path of a data file and its format.

    Raises:
        InvalidArgument: it is no path, or of a format that is not read.
    """
    path = _path(source, "undue.Arrays or a path of a .npz or .parquet file")
    suffix = path.suffix.lower()
    if suffix not in DATASET_FORMATS:
        advice = _DATASET_ADVICE.get(suffix, "is not read; data sets are .npz or .parquet files, or undue.Arrays")
        raise invalid("source", f"{path.name}: {suffix or 'no extension'} {advice}")
    return path, DATASET_FORMATS[suffix]


def _path(source: object, expected: str) -> Path:
    if not isinstance(source, (str, os.PathLike)):
        raise invalid("source", f"is a {type(source).__name__}; pass {expected}")
    return Path(os.fsdecode(source)).expanduser()
