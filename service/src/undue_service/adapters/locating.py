"""Files of data sets that are read where they lie: what a URI means, and whether it may.

A URI is text from a stranger. It is decoded once, never joined to anything, and everything it leads to, through links
too, must really lie below a folder that the operator named. What lies elsewhere is refused in the same words whether it
exists or not. Where a path leads is settled once, and what is found there is then reached without following any link,
so that nothing comes of changing a folder into one in between.
"""

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from undue._columns import idx_column
from undue_service.domain.errors import Error, InvalidArgument, NotFound, Reason
from undue_service.domain.specs import SEVERAL_FILES, FileFormat, LocatedFile
from undue_service.wire.located import Walk, located_file

FIELD = "dataset.file.uri"

MAX_FILES = 10_000
"""That one URI may match; the same as an upload may have."""
MAX_ENTRIES = 100_000
"""Files and folders below a folder of images. Each is written into the registration and sent to a runner."""
MAX_TEXT_BYTES = 16 << 20
"""Of their names and paths together, so that two data sets fit a task's frame."""

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_WILD = re.compile("([*?])")
_BAD_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


class LocalLocator:
    """SourceLocator over folders of this machine."""

    def __init__(self, roots: Sequence[Path], private: Path | None = None) -> None:
        """Take the folders that may be read, and one that may not though it lies below them: the service's own."""
        self._roots = tuple(roots)
        self._private = private

    def locate(self, uri: str, file_format: FileFormat) -> tuple[LocatedFile, ...]:
        """See SourceLocator."""
        reference = _parse(uri)
        if not self._roots:
            text = "cannot be read: the operator has named no folder in UNDUE_DATASET_ROOTS; upload the files instead"
            raise _refused(uri, text)
        try:
            with Walk() as walk:
                return _Search(uri, self._roots, self._private, walk).files(reference, file_format)
        except OSError as error:
            raise _unreadable(uri, error) from None


@dataclass(frozen=True, slots=True)
class _Reference:
    folder: str
    """Decoded, absolute."""
    last: str
    """Decoded, or a pattern of fnmatch."""
    is_pattern: bool


def _parse(uri: str) -> _Reference:
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() != "file":
        raise _refused(
            uri, "is not read; this version reads file:///… and no other kind, so upload what lies elsewhere"
        )
    host, _, path = rest.partition("/")
    if host.lower() not in ("", "localhost"):
        raise _refused(uri, f"names the host {host!r}; write file:///folder/file")
    parts = [part for part in path.split("/") if part]
    if not parts:
        raise _refused(uri, "names no file; write file:///folder/file")
    *folders, last = parts
    if any(_WILD.search(part) for part in folders):
        raise _refused(uri, "has a wildcard before its last part, which alone may have some")
    folder = "/" + "/".join(_name(uri, part) for part in folders)
    if _WILD.search(last):
        return _Reference(folder, _pattern(uri, last), is_pattern=True)
    return _Reference(folder, _name(uri, last), is_pattern=False)


def _name(uri: str, part: str) -> str:
    text = _decoded(uri, part)
    if text in (".", ".."):
        raise _refused(uri, "has a part that is '.' or '..'; write the path out")
    return text


def _decoded(uri: str, part: str) -> str:
    """Return one part of a path without percent signs, decoded once."""
    if _BAD_PERCENT.search(part):
        raise _refused(uri, "has a % without two hexadecimal digits; write %25 for the character itself")
    try:
        text = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise _refused(uri, "decodes to what is not UTF-8") from None
    if "/" in text or _CONTROL.search(text):
        raise _refused(uri, "has a part that decodes to a slash or a control character")
    return text


def _pattern(uri: str, part: str) -> str:
    """Return a last part as a pattern of fnmatch, in which only an undecoded * and ? are wild."""
    pieces = _WILD.split(part)
    literal = [re.sub(r"([*?[])", r"[\1]", _decoded(uri, piece)) for piece in pieces[::2]]
    wild = [*pieces[1::2], ""]
    return "".join(text + wildcard for text, wildcard in zip(literal, wild, strict=True))


class _Search:
    """One look at the folders, for one URI."""

    def __init__(self, uri: str, roots: Sequence[Path], private: Path | None, walk: Walk) -> None:
        self._uri = uri
        self._walk = walk
        self._roots = [os.path.realpath(root) for root in roots]
        self._private = os.path.realpath(private) if private is not None else None

    def files(self, reference: _Reference, file_format: FileFormat) -> tuple[LocatedFile, ...]:
        if file_format == "image_folder":
            return self._images(reference)
        found = self._matches(reference) if reference.is_pattern else [self._named(reference)]
        if len(found) > 1 and file_format not in SEVERAL_FILES:
            text = f"means {len(found):,} files; {file_format} is one file"
            raise InvalidArgument.at(FIELD, f"{_quoted(self._uri)} {text}: name it")
        if file_format == "idx":
            # Each file is a column, and is called what its column is called.
            found = [(idx_column(name), path) for name, path in found]
            if len({name for name, _ in found}) < len(found):
                text = f"means several files of one column: {', '.join(name for name, _ in found)[:500]}"
                raise InvalidArgument.at(FIELD, f"{_quoted(self._uri)} {text}; match one of each")
        return self._located(found)

    def _named(self, reference: _Reference) -> tuple[str, str]:
        return reference.last, os.path.join(reference.folder, reference.last)

    def _matches(self, reference: _Reference) -> list[tuple[str, str]]:
        folder = self._real(reference.folder)
        match = re.compile(fnmatch.translate(reference.last)).match
        hidden = reference.last.startswith(".")
        names = []
        with self._listed(folder) as entries:
            for entry in entries:
                if match(entry.name) and (hidden or not entry.name.startswith(".")):
                    names.append(entry.name)
                    if len(names) > MAX_FILES:
                        raise self._too_much(f"matches more than {MAX_FILES:,} files: join some")
        if not names:
            raise NotFound(Reason.URI_NOT_FOUND, f"{_quoted(self._uri)} matches no file")
        return [(name, os.path.join(folder, name)) for name in sorted(names)]

    def _images(self, reference: _Reference) -> tuple[LocatedFile, ...]:
        folder = os.path.join(reference.folder, reference.last)
        if reference.is_pattern:
            raise _refused(self._uri, "has wildcards; name the folder that holds a folder for each class")
        real = self._real(folder)
        if not self._is_folder(real):
            raise _refused(self._uri, "is a file; name the folder that holds a folder for each class, or upload it")
        found = sorted(self._below(real))
        if not found:
            raise NotFound(Reason.URI_NOT_FOUND, f"{_quoted(self._uri)} holds no file")
        return self._located(found)

    def _below(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield name and path of every file below a folder; names that start with a dot are passed over."""
        count = 0
        waiting: list[tuple[str, str, tuple[str, ...]]] = [("", folder, ())]
        while waiting:
            prefix, place, above = waiting.pop()
            real = self._real(place)
            if real in above:
                raise _refused(self._uri, f"holds a link that leads back to where it is: {prefix!r}")
            with self._listed(real) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    count += 1
                    if count > MAX_ENTRIES:
                        raise self._too_much(f"holds more than {MAX_ENTRIES:,} files: upload the folder instead")
                    name = prefix + entry.name
                    path = os.path.join(real, entry.name)
                    # Where a link leads is checked before anything is asked about it.
                    if self._leads_to_folder(path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False):
                        waiting.append((f"{name}/", path, (*above, real)))
                    else:
                        yield name, path

    def _located(self, found: Sequence[tuple[str, str]]) -> tuple[LocatedFile, ...]:
        files, size = [], 0
        for name, path in found:
            try:
                file = self._one(name, path)
                size += len(f"{file.name}{file.path}".encode())
            except UnicodeEncodeError:
                raise _refused(self._uri, f"means a file whose name is not UTF-8: {name!a}; rename it") from None
            if size > MAX_TEXT_BYTES:
                raise self._too_much(f"means files whose paths have more than {MAX_TEXT_BYTES:,} bytes: upload them")
            files.append(file)
        return tuple(files)

    def _one(self, name: str, path: str) -> LocatedFile:
        real = self._real(path)
        try:
            descriptor = self._walk.open(real)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._irregular(name) from None
            raise _unreadable(self._uri, error, name) from None
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if stat.S_ISDIR(found.st_mode):
            text = "is or matches a folder; match its files (folder/*.parquet), or register it as image_folder"
            raise _refused(self._uri, f"{text}: {name!r}")
        if not stat.S_ISREG(found.st_mode):
            raise self._irregular(name)
        return located_file(name, real, found)

    def _real(self, path: str) -> str:
        """Return where a path really leads, which must be below a root."""
        real = os.path.realpath(path)
        if not any(_within(real, root) for root in self._roots) or (self._private and _within(real, self._private)):
            text = "is or leads outside of the folders that this service reads, which its operator names in"
            raise _refused(self._uri, f"{text} UNDUE_DATASET_ROOTS")
        return real

    @contextmanager
    def _listed(self, real: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        """Give the entries of a folder, which know their names but not where they are."""
        descriptor = self._walk.open_folder(real)
        try:
            with os.scandir(descriptor) as entries:
                yield entries
        finally:
            os.close(descriptor)

    def _is_folder(self, real: str) -> bool:
        return stat.S_ISDIR(self._walk.status(real).st_mode)

    def _leads_to_folder(self, path: str) -> bool:
        real = self._real(path)
        try:
            return self._is_folder(real)
        except OSError:
            return False  # whoever opens it says why

    def _irregular(self, name: str) -> Error:
        return _refused(self._uri, f"means {name!r}, which is no regular file")

    def _too_much(self, text: str) -> Error:
        return InvalidArgument.at(FIELD, f"{_quoted(self._uri)} {text}")


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _quoted(uri: str) -> str:
    return repr(uri if len(uri) <= 200 else uri[:200] + "…")


def _refused(uri: str, text: str) -> Error:
    return InvalidArgument.at(FIELD, f"{_quoted(uri)} {text}", Reason.URI_REFUSED)


def _unreadable(uri: str, error: OSError, name: str | None = None) -> Error:
    """Return the error for what lies below a root and cannot be read."""
    what = "names what" if name is None else f"means {name!r}, which"
    if error.errno in _NOT_THERE:
        return NotFound(Reason.URI_NOT_FOUND, f"{_quoted(uri)} {what} is not there")
    return _refused(uri, f"{what} cannot be read by the service: {error.strerror}")
