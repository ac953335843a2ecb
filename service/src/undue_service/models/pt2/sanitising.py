"""Writes a fresh `.pt2` archive from what was checked in a stranger's.

`torch.export.load` unpickles sample inputs, pickled tensors and constants, evaluates shape expressions, and compiles
names into Python. The fresh archive holds a graph put together anew, raw tensors, and sample inputs of no bytes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from torch.export.pt2_archive import PT2ArchiveWriter

from undue_service.domain.reports import ColumnSchema
from undue_service.models.refusals import malformed, unsupported

from .archive import (
    CONSTANTS,
    CONSTANTS_CONFIG,
    LEGACY_PROGRAM,
    PROGRAM,
    WEIGHTS,
    WEIGHTS_CONFIG,
    Archive,
    open_archive,
)
from .programs import CheckedProgram, check_program, check_version
from .strict import dump, parse_json
from .tensors import read_payloads

_SAMPLE_INPUTS = "data/sample_inputs/model.pt"


@dataclass(frozen=True)
class Sanitised:
    """A fresh archive."""

    path: Path
    inputs: tuple[ColumnSchema, ...]
    outputs: tuple[str, ...]
    warnings: tuple[str, ...]


def sanitise(path: Path, scratch: Path) -> Sanitised:
    """Read an uploaded archive as data and write a fresh one into the folder `scratch`.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, MODEL_UNSUPPORTED, UNSUPPORTED_OPERATORS, STATIC_BATCH.
        FailedPrecondition: TORCH_VERSION.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    with open_archive(path) as archive:
        data = parse_json(archive.text(LEGACY_PROGRAM if LEGACY_PROGRAM in archive.records else PROGRAM), "the program")
        check_version(data)
        _check_headers(archive)
        checked = check_program(data)
        fresh = scratch / "sanitised.pt2"
        _write(archive, checked, fresh)
    left_out = (f"{len(archive.extra)} extra files in the archive are left out",) if archive.extra else ()
    return Sanitised(fresh, checked.inputs, checked.outputs, checked.warnings + left_out)


def _check_headers(archive: Archive) -> None:
    if archive.text("archive_format") != "pt2" or archive.text("archive_version") != "0":
        raise malformed("the archive is not of the format pt2, version 0")
    if archive.text("byteorder") != "little":
        raise unsupported("the archive is big-endian; export it on a little-endian machine")


def _write(archive: Archive, checked: CheckedProgram, fresh: Path) -> None:
    wanted = {**checked.parameters, **checked.buffers}
    weights, tensors = read_payloads(archive, WEIGHTS_CONFIG, WEIGHTS, wanted, checked.parameters)
    constants, constant_tensors = read_payloads(archive, CONSTANTS_CONFIG, CONSTANTS, checked.constants, ())
    with PT2ArchiveWriter(str(fresh)) as writer:
        for name, content in tensors.items():
            writer.write_bytes(WEIGHTS + name, content)
        for name, content in constant_tensors.items():
            writer.write_bytes(CONSTANTS + name, content)
        writer.write_string(WEIGHTS_CONFIG, json.dumps(dump(weights)))
        writer.write_string(CONSTANTS_CONFIG, json.dumps(dump(constants)))
        writer.write_string(PROGRAM, json.dumps(dump(checked.program), allow_nan=False))
        writer.write_bytes(_SAMPLE_INPUTS, b"")
