"""A `.pt2` archive to an ExportedProgram."""

import tempfile
from pathlib import Path

import torch
from torch.export.pt2_archive._package import load_pt2

from undue_service.models.opened import OpenedModel
from undue_service.models.refusals import PT2_EXPORT, malformed, quoted
from undue_service.models.running import require_rows_stay_rows

from .recurrent import unroll
from .sanitising import sanitise


def open_pt2(path: Path, scratch: Path) -> OpenedModel:
    """Return the model in a `.pt2` archive, by way of a sanitised one below `scratch`.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED, UNSUPPORTED_OPERATORS, STATIC_BATCH.
        FailedPrecondition: TORCH_VERSION.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        fresh = sanitise(path, Path(folder))
        exported = _load(fresh.path)
    require_rows_stay_rows(exported, fresh.inputs, fresh.outputs, PT2_EXPORT)
    exported = unroll(exported)
    return OpenedModel(exported, fresh.inputs, fresh.outputs, None, fresh.warnings)


def _load(path: Path) -> torch.export.ExportedProgram:
    """Load a sanitised archive. `torch.export.load` would go on to older formats where this one fails."""
    try:
        program: torch.export.ExportedProgram = load_pt2(str(path)).exported_programs["model"]
    except Exception as error:
        raise malformed(f"torch cannot load the program: {quoted(error)}") from error
    return program
