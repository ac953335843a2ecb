"""What a model file becomes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from undue_service.domain.reports import ColumnSchema

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Parting:
    """The first tensor in which two implementations of one file differ."""

    tensor: str
    """Its name in the file."""
    operator: str
    """What computes it."""
    expected: str
    """Its number by onnxruntime where they differ most, or its shape."""
    actual: str
    """Likewise by the program."""


@dataclass(frozen=True)
class OpenedModel:
    """A model in its canonical form."""

    exported: torch.export.ExportedProgram
    """Training IR on the CPU. Parameters carry the names of the file, the first axis of each input is the batch."""
    inputs: tuple[ColumnSchema, ...]
    """In the order of the program's user inputs, by the file's own names; a shape is that of one row."""
    outputs: tuple[str, ...]
    """In the order of the program's user outputs."""
    reference: Callable[[Arrays], dict[str, np.ndarray]] | None
    """Runs the original file by onnxruntime, inputs and outputs by name. None where nothing else reads the format."""
    warnings: tuple[str, ...] = ()
    locate: Callable[[Arrays, float], Parting | None] | None = None
    """Finds where `reference` and the program part on a few rows, beyond a tolerance. None where there is none."""
