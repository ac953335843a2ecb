"""A file of weights and an architecture to an ExportedProgram."""

import tempfile
from pathlib import Path

import torch

from undue_service.domain.architectures import ArchitectureChoice
from undue_service.models.limits import MAX_FILE_BYTES, too_large
from undue_service.models.opened import OpenedModel
from undue_service.models.pt2 import open_pt2
from undue_service.models.refusals import quoted, unsupported
from undue_service.models.weights import open_weights

from .building import build
from .built import Built
from .loading import load

_TRACED_ROWS = 3
"""Sizes 0 and 1 are constants to torch.export."""


def open_architecture(path: Path, choice: ArchitectureChoice, scratch: Path) -> OpenedModel:
    """Return the model that a file of weights is in an architecture.

    The module is exported as its owner would export it, and read as any `.pt2` archive is.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSUPPORTED, NON_FINITE_DATA; WEIGHTS_MISMATCH; an option is wrong;
            STATIC_BATCH or UNSUPPORTED_OPERATORS of an installed architecture.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    weights = open_weights(path, "safetensors", scratch)
    built = build(choice, "meta")  # takes no memory, whatever the options ask for
    wanted = sum(tensor.nbytes for tensor in built.module.state_dict().values())
    if wanted > MAX_FILE_BYTES:
        raise too_large(f"{choice} in bytes", wanted, MAX_FILE_BYTES)
    load(built.module, weights, choice)
    if any(tensor.is_meta for tensor in built.module.buffers()):
        # A buffer that no file holds: only the module's own code knows its numbers.
        built = build(choice, "cpu")
        load(built.module, weights, choice)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        archive = Path(folder) / "exported.pt2"
        torch.export.save(_export(built, choice, weights), archive)
        return open_pt2(archive, scratch)


def _export(built: Built, choice: ArchitectureChoice, weights: dict[str, torch.Tensor]) -> torch.export.ExportedProgram:
    dtype = torch.float64 if any(one.dtype == torch.float64 for one in weights.values()) else torch.float32
    examples = {
        name: torch.zeros(_TRACED_ROWS, *one.shape[1:], dtype=dtype if one.is_floating_point() else one.dtype)
        for name, one in built.example_inputs.items()
    }
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in examples}
    try:
        return torch.export.export(built.module.eval(), (), examples, dynamic_shapes=shapes)
    except Exception as error:  # of an operator's module; those built in are exported by the tests
        raise unsupported(f"the architecture {choice} cannot be exported: {quoted(error)}") from error
