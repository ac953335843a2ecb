"""Where one task runs: what it may touch, and which code it runs."""

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import undue_service
from undue_service.datasets.files import check_unchanged
from undue_service.datasets.source import DatasetSource
from undue_service.domain.specs import DataSource

from .sources import Shelf

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """What one task may touch."""

    artifacts: Mapping[str, Path]
    scratch: Path
    report: Report
    shelf: Shelf
    workspace: Path | None = None
    """A folder that outlives the attempt; None for tasks that leave nothing to go on from."""
    attachment: bytes = b""
    """Arrays that came with the task."""
    opened: list[DataSource] = field(default_factory=list)

    def source(self, source: DataSource, keep: bool = False) -> DatasetSource:
        """Open a data set, and keep it open for the next task if asked to."""
        self.opened.append(source)
        return self.shelf.open(source, self.artifacts.__getitem__, self.scratch, keep)

    def check(self) -> None:
        """Raise FailedPrecondition (DATASET_CHANGED) where a file was written to while it was read."""
        for source in self.opened:
            check_unchanged(source)


def libraries() -> dict[str, str]:
    """Return the versions of what computes."""
    names = ("torch", "onnx", "onnxruntime", "numpy", "pillow", "pyarrow", "undue-service")
    return {name: importlib.metadata.version(name) for name in names}


@cache
def code_digest() -> str:
    """Return the sha256 over the service's own sources: two answers with the same digests were computed alike."""
    return _digest("")


@cache
def scoring_digest() -> str:
    """Return the sha256 over the sources that scores depend on: a change elsewhere does not outdate an index."""
    return hashlib.sha256("".join(map(_digest, ("datasets", "engine", "models"))).encode()).hexdigest()


def _digest(part: str) -> str:
    digest = hashlib.sha256()
    root = Path(undue_service.__file__).parent / part
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder) / name
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
