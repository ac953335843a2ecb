"""A `.pt2` archive as a zip file from a stranger: which records it has, all within bounds, none interpreted."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from undue_service.domain.errors import InvalidArgument
from undue_service.models.foreign import of_records, of_start
from undue_service.models.limits import MAX_ENTRIES, MAX_FILE_BYTES, MAX_GRAPH_BYTES, too_large
from undue_service.models.refusals import PT2_EXPORT, malformed, quoted, unsafe, unsupported
from undue_service.models.zips import ZIP_START, open_zip

PROGRAM = "models/model.json"
WEIGHTS_CONFIG = "data/weights/model_weights_config.json"
CONSTANTS_CONFIG = "data/constants/model_constants_config.json"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
LEGACY_PROGRAM = "serialized_exported_program.json"
"""Where torch before 2.9 put the graph; in the root of the archive, which then has no folder of its own."""

_READ = re.compile(
    rf"{PROGRAM}|{WEIGHTS_CONFIG}|{CONSTANTS_CONFIG}|{WEIGHTS}weight_[0-9]+|{CONSTANTS}tensor_[0-9]+"
    r"|archive_format|archive_version|byteorder"
)
_NOT_READ = re.compile(
    r"data/sample_inputs/model\.pt|\.data/version|\.data/serialization_id|\.format_version|\.storage_alignment"
)
"""Written by every export, sample inputs (a pickle) among them. They are never opened."""
_EXTRA = re.compile(r"extra/.+")
_PICKLES = re.compile(r"data/(weights|constants)/(model\.pt|custom_obj_[0-9]+|opaque_obj_[0-9]+)")
_COMPILED = re.compile(r"data/(aotinductor|executorch|mtia)\b.*|.*\.(so|dylib|dll|cubin|ptx|pte)", re.DOTALL)


@dataclass(frozen=True)
class Archive:
    """The records of one archive, by their names below its root folder."""

    file: zipfile.ZipFile
    records: Mapping[str, zipfile.ZipInfo]
    extra: tuple[str, ...]
    """Files that their author put in beside the model; they are left out."""

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """Return one record.

        Raises:
            InvalidArgument: MODEL_MALFORMED, it is missing, or not of the length and checksum that the archive says.
            ResourceExhausted: UPLOAD_TOO_LARGE.
        """
        if name not in self.records:
            raise malformed(f"the archive has no {quoted(name)}; write it with\n    {PT2_EXPORT}")
        size = self.records[name].file_size
        if size > limit:
            raise too_large(f"{quoted(name)} in bytes", size, limit)
        try:
            with self.file.open(self.records[name]) as record:
                content = record.read(size + 1)
        except Exception as error:
            raise malformed(f"{quoted(name)} in the archive is damaged: {quoted(error)}") from error
        if len(content) != size:
            raise malformed(f"{quoted(name)} in the archive is {len(content)} bytes long, not {size}")
        return content

    def text(self, name: str) -> str:
        """Return one record as text.

        Raises:
            InvalidArgument: MODEL_MALFORMED.
            ResourceExhausted: UPLOAD_TOO_LARGE.
        """
        try:
            return self.read(name, MAX_GRAPH_BYTES).decode()
        except UnicodeDecodeError as error:
            raise malformed(f"{quoted(name)} in the archive is not text") from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive and check every entry of its table of contents.

    Raises:
        InvalidArgument: MODEL_MALFORMED, MODEL_UNSAFE, or MODEL_UNSUPPORTED for TorchScript.
        ResourceExhausted: UPLOAD_TOO_LARGE.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise too_large("the .pt2 file in bytes", size, MAX_FILE_BYTES)
    _check_kind(path)
    with open_zip(path) as file:
        entries = file.infolist()
        if len(entries) > MAX_ENTRIES:
            raise too_large("the number of records in the archive", len(entries), MAX_ENTRIES)
        _check_entries(entries, size)
        yield _sort(file, entries)


def _check_kind(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise malformed("the .pt2 file is empty")
    found = of_start(start)
    if found is not None:
        raise found
    if not start.startswith(ZIP_START):
        raise malformed(f"this is not a .pt2 archive, which is a zip file. Write it with\n    {PT2_EXPORT}")


def _check_entries(entries: list[zipfile.ZipInfo], archive_size: int) -> None:
    if not entries:
        raise malformed("the archive is empty")
    for entry in entries:
        parts = entry.filename.split("/")
        readable = entry.filename == entry.orig_filename and entry.filename.isprintable()
        if not readable or "\\" in entry.filename or {"", ".", ".."} & set(parts):
            raise unsafe(f"the archive has a record with the path {quoted(entry.orig_filename)}")
    if min(entry.header_offset for entry in entries) != 0:
        raise malformed("the .pt2 file is truncated, or has something else before the archive")
    _check_format({entry.filename.partition("/")[2] for entry in entries}, {entry.filename for entry in entries})
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            name = quoted(entry.filename)
            raise malformed(f"{name} in the archive is compressed; torch.export.save compresses nothing")
        if entry.flag_bits & 0x1:
            raise malformed(f"{quoted(entry.filename)} in the archive is encrypted")
    total = sum(entry.file_size for entry in entries)
    if total > archive_size:
        raise malformed(f"the archive declares {total:,} bytes of records, but is {archive_size:,} bytes long")


def _sort(file: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> Archive:
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise unsafe(f"the archive has the record {quoted(twice)} twice")
    if LEGACY_PROGRAM in names:
        return Archive(file, {entry.filename: entry for entry in entries}, ())
    root = names[0].split("/")[0] + "/"
    outside = [name for name in names if not name.startswith(root)]
    if outside:
        raise malformed(f"the archive's records are not all in the folder {quoted(root)}: {quoted(outside[0])}")
    records = {entry.filename.removeprefix(root): entry for entry in entries}
    extra = []
    for name in records:
        if _EXTRA.fullmatch(name) and not _COMPILED.fullmatch(name):
            extra.append(name)
        elif not _READ.fullmatch(name) and not _NOT_READ.fullmatch(name):
            raise _foreign(name)
    return Archive(file, records, tuple(extra))


def _check_format(records: set[str], names: set[str]) -> None:
    if "archive_format" in records or LEGACY_PROGRAM in names:
        return
    raise of_records(records) or malformed(f"this zip archive is not a .pt2 archive. Write it with\n    {PT2_EXPORT}")


def _foreign(name: str) -> InvalidArgument:
    if _COMPILED.fullmatch(name):
        return unsafe(f"the archive holds compiled code, {quoted(name)}; save the exported program alone")
    if _PICKLES.fullmatch(name):
        return unsafe(f"the archive holds a pickle, {quoted(name)}; a model is a graph and plain tensors")
    if re.fullmatch(r"models/.+\.json", name):
        return unsupported(
            f"the archive holds another program, {quoted(name)}; save one program with torch.export.save"
        )
    return unsafe(f"the archive holds {quoted(name)}, which torch.export.save does not write")
