"""Folders of images, one folder a class: a ZIP archive of them, or the files themselves.

    class/…/image.png ─▶ image (C, H, W) uint8 | label: the class's place among the folders | path, the id | class

Rows come in the order of their paths, classes in that of their names, both bytewise.
"""

import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import numpy as np

from undue_service.domain.specs import SchemaSpec

from .archives import BoundedFile, damage_named, members, packing_problem
from .files import DataFile
from .images import SUFFIXES, DecodedImages
from .layout import check_exist
from .limits import MAX_IMAGE_DIRECTORY_BYTES, MAX_IMAGE_FILE_BYTES, MAX_IMAGES, MAX_TEXT_BYTES, too_large
from .refusals import bad_column, bad_file, malformed, quoted
from .scratch import Scratch
from .table import Stored, TableSource
from .texts import ListedTexts

IMAGE, LABEL, PATH, CLASS = "image", "label", "path", "class"
_COLUMNS = (IMAGE, LABEL, PATH, CLASS)
_LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")
_ADVICE = "write it again"


def open_image_folder(files: list[DataFile], spec: SchemaSpec, scratch: Scratch) -> TableSource:
    """Return the data set of the images in one archive, or in files whose names are paths below the folder.

    Raises:
        InvalidArgument: DATASET_MALFORMED for a damaged archive, names that lead elsewhere, files that are no images
            or lie in no class; COLUMN_NOT_FOUND.
        FailedPrecondition: DATASET_CHANGED.
        ResourceExhausted: UPLOAD_TOO_LARGE where it is beyond the limits; STORAGE_FULL.
    """
    check_exist(spec, _COLUMNS)
    if (spec.id or PATH) != PATH or set(spec.groups) - {CLASS}:
        raise malformed(f"of a folder of images, the id is {PATH!r} and the group {CLASS!r}")
    if len(files) == 1 and _begins_like_zip(files[0]):
        archive = _Archive(files[0])
        return _source(archive.paths, archive.folders, archive.read, spec, scratch)
    return _source(_checked(file.name for file in files), set(), _reader(files), spec, scratch)


def _source(
    paths: list[str], folders: set[str], read: Callable[[str], bytes], spec: SchemaSpec, scratch: Scratch
) -> TableSource:
    if not paths:
        raise malformed("the folder holds no images: they lie in folders, one a class")
    paths.sort(key=str.encode)
    parts = [PurePosixPath(path).parts for path in paths]
    for path, steps in zip(paths, parts, strict=True):
        if len(steps) < 2:
            raise bad_file(path, "lies in no folder: the folder that an image lies in is its class")
    classes = sorted({steps[0] for steps in parts} | folders, key=str.encode)
    if len(classes) == 1 and all(len(steps) > 2 for steps in parts):
        text = f"all images lie below one folder, {quoted(classes[0])}: give the folder that holds one folder a class"
        raise malformed(text)
    places = {name: place for place, name in enumerate(classes)}
    labels = np.array([places[steps[0]] for steps in parts], np.int64)
    labels.setflags(write=False)
    images = DecodedImages(paths, lambda row: read(paths[row]), scratch)
    ids = ListedTexts(paths) if spec.id is not None else None
    columns: dict[str, Stored] = {IMAGE: images, LABEL: labels}
    for name in (*(name for names in spec.inputs.values() for name in names), spec.target, spec.weight):
        if name in (PATH, CLASS):
            raise bad_column(name, f"is text; the columns of numbers are {IMAGE!r} and {LABEL!r}")
    return TableSource(spec, columns, ids, {CLASS: ListedTexts(classes, labels)}, tuple(classes))


def _begins_like_zip(data: DataFile) -> bool:
    with data.open() as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _reader(files: list[DataFile]) -> Callable[[str], bytes]:
    named = {file.name: file for file in files}

    def read(path: str) -> bytes:
        with io.BufferedReader(named[path].open()) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_IMAGE_FILE_BYTES:
                raise _too_large(path, size)
            return file.read(size)  # all that it asks for is set aside at once

    return read


class _Archive:
    """A ZIP archive, which stays open."""

    def __init__(self, data: DataFile) -> None:
        with damage_named("ZIP archive", _ADVICE):
            file = BoundedFile(data.open(), MAX_IMAGE_DIRECTORY_BYTES)
            self._archive = zipfile.ZipFile(file)
            self._members = members(self._archive, MAX_IMAGES)
        self.paths = _checked(name for name in self._members if not name.endswith("/"))
        for path in self.paths:
            self._check(path, self._members[path])
        folders = [name.removesuffix("/") for name in self._members if name.endswith("/")]
        # An empty folder is a class too, of which there is no image.
        self.folders = {name.split("/")[0] for name in folders if not _litter(name) and _problem(name) is None}

    def read(self, path: str) -> bytes:
        """Return the content of a member, checked against its CRC."""
        with damage_named("ZIP archive", _ADVICE), self._archive.open(self._members[path]) as member:
            return member.read()  # no more than the directory declares, which has been held against the limit

    @staticmethod
    def _check(path: str, info: zipfile.ZipInfo) -> None:
        problem = packing_problem(info)
        if problem is not None:
            raise bad_file(path, f"{problem}; {_ADVICE}")
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise bad_file(path, "is a link or another special file: put the image itself in the archive")
        if info.file_size > MAX_IMAGE_FILE_BYTES:
            raise _too_large(path, info.file_size)


def _checked(names: Iterable[str]) -> list[str]:
    """Return the paths of images; hidden files and what systems leave in folders are passed over."""
    paths: list[str] = []
    seen: set[str] = set()
    for name in names:
        problem = _problem(name)
        if problem is not None:
            raise bad_file(name, problem)
        if _litter(name):
            continue
        if not name.lower().endswith(SUFFIXES):
            raise bad_file(name, f"is no image ({', '.join(SUFFIXES)}): leave it out")
        if name in seen:
            raise bad_file(name, "is given twice")
        seen.add(name)
        paths.append(name)
    if len(paths) > MAX_IMAGES:
        raise too_large("the number of images", len(paths), MAX_IMAGES)
    return paths


def _problem(name: str) -> str | None:
    """Say why a name is no path below a folder, if it is none."""
    steps = name.split("/")
    if "\\" in name or "\0" in name or any(step in ("", ".", "..") for step in steps) or ":" in steps[0]:
        return "has a name that is no path below the folder"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "has a name that is not valid Unicode text"
    return f"has a name of more than {MAX_TEXT_BYTES:,} bytes" if size > MAX_TEXT_BYTES else None


def _litter(name: str) -> bool:
    return any(step.startswith(".") or step in _LITTER for step in name.split("/"))


def _too_large(path: str, size: int) -> Exception:
    return too_large(f"the size of image {quoted(path)} in bytes", size, MAX_IMAGE_FILE_BYTES)
