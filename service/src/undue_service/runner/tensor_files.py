"""Tensors on disk: safetensors files that are there as a whole or not at all."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors under a name that has them all or none, and return the file's sha256.

    Raises:
        OSError: the disk is full, or another failure of the file system.
    """
    # Not np.ascontiguousarray, which gives a single number an axis.
    arrays = {name: np.asarray(tensor.detach().cpu().numpy(), order="C") for name, tensor in tensors.items()}
    data = save(arrays, None if metadata is None else dict(metadata))
    part = path.with_name(f"{path.name}.tmp")
    part.write_bytes(data)
    part.rename(path)
    return hashlib.sha256(data).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, which stay mapped, and its metadata.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path.name} holds no tensors: {error}") from error


def sha256_of(path: Path) -> str:
    """Return the digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
