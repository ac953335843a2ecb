"""An index on disk.

manifest: canonical JSON (sorted keys, no spaces, ASCII), a `Manifest`.
fit: safetensors, what all rows share. shard-…: safetensors, up to 65,536 rows each. What the tensors are is the
engine's (`engine.index`). Every file has its sha256 in the manifest, and the manifest's own is known to the service.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.reports import Diagnostics, Produced
from undue_service.domain.tasks import HeldIndex
from undue_service.runner.tensor_files import read_tensors, sha256_of
from undue_service.wire.codec import Codec

from .origin import FORMAT, Origin, stale

MANIFEST = "manifest"
FIT = "fit"
SHARD = "shard-"
"""Roles; those of shards go on with a number."""


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A file of an index, as it was written."""

    name: str
    sha256: str
    bytes: int
    resident_bytes: int
    """Memory that it takes when it is open."""
    rows: int = 0
    """That it holds."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index is made of, and what was found out when it was."""

    format: int
    origin: Origin
    fitted: dict[str, Any]
    """`FittedIndex.settings`."""
    files: dict[str, IndexFile]
    """By role."""
    recall: float
    recall_queries: int
    staleness: float
    diagnostics: Diagnostics

    @property
    def shards(self) -> dict[str, IndexFile]:
        """The files that hold rows, by role, in the order of their numbers."""
        return {role: self.files[role] for role in sorted(self.files) if role.startswith(SHARD)}

    @property
    def resident_bytes(self) -> int:
        """Memory that the index takes, beside the model."""
        return sum(file.resident_bytes for file in self.files.values())

    def next_shard(self) -> int:
        """Return a number that no shard has."""
        return max((int(role.removeprefix(SHARD)) for role in self.shards), default=-1) + 1


def shard_role(number: int) -> str:
    """Return the role of a shard; roles sort like their numbers."""
    return f"{SHARD}{number:06d}"


_MANIFEST: Codec[Manifest] = Codec(Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> tuple[Produced, int]:
    """Write the manifest and return its size too.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    data = canonical(json.loads(_MANIFEST.dump(manifest)))
    (folder / "manifest.json").write_bytes(data)
    return Produced(MANIFEST, "manifest.json"), len(data)


def canonical(value: object) -> bytes:
    """Return a value as JSON that depends on nothing else."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class HeldFiles:
    """The files of an index that a task was given. Nothing of a file is used before its checksum was compared."""

    def __init__(self, held: HeldIndex, artifacts: Mapping[str, Path]) -> None:
        """Read the manifest.

        Raises:
            FailedPrecondition: INDEX_DAMAGED; INDEX_STALE for a manifest of another format.
        """
        self._held = held
        self._artifacts = artifacts
        data = self._checked(MANIFEST, held.files.get(MANIFEST, "")).read_bytes()
        try:
            found = json.loads(data).get("format")
        except (ValueError, AttributeError) as error:
            raise damaged(held.name, MANIFEST, "is no manifest") from error
        if found != FORMAT:
            raise stale(held.name, [f"in another format ({found}, and this service writes {FORMAT})"])
        try:
            self.manifest = _MANIFEST.load(data)
        except ValueError as error:
            raise damaged(held.name, MANIFEST, "is no manifest") from error
        missing = sorted(self.manifest.files.keys() - held.files.keys())
        if missing:
            raise damaged(held.name, missing[0], "is missing")

    def tensors(self, role: str) -> dict[str, Tensor]:
        """Return the tensors of a file, mapped.

        Raises:
            FailedPrecondition: INDEX_DAMAGED.
        """
        path = self._checked(role, self.manifest.files[role].sha256)
        try:
            return read_tensors(path)[0]
        except ValueError as error:
            raise damaged(self._held.name, role, "does not parse") from error

    def _checked(self, role: str, sha256: str) -> Path:
        path = self._artifacts.get(self._held.files.get(role, ""))
        try:
            if path is None or sha256_of(path) != sha256:
                raise damaged(self._held.name, role, "is not the file that was written" if path else "is missing")
        except FileNotFoundError as error:
            raise damaged(self._held.name, role, "is missing") from error
        return path


def damaged(index: str, role: str, how: str) -> FailedPrecondition:
    """Return the error for a file that is not as it was written."""
    text = f"the file {role!r} of {index} {how}: restore the service's files from a backup, or build the index anew"
    return FailedPrecondition(Reason.INDEX_DAMAGED, text, metadata={"index": index, "role": role})


def check_uploaded(held: HeldIndex, earlier: HeldIndex | None, artifacts: Mapping[str, Path]) -> None:
    """Compare the files that an index's model and data were uploaded as with their digests.

    Args:
        held: the index.
        earlier: its earlier revision, whose files were compared.
        artifacts: files by digest.

    Raises:
        FailedPrecondition: INDEX_DAMAGED.
    """
    known = set(_uploaded(earlier)) if earlier is not None else set()
    for digest, owner in _uploaded(held).items():
        if digest not in known and sha256_of(artifacts[digest]) != digest:
            text = (
                f"an uploaded file of {owner}, which {held.name} reads, is no longer the one that was sent: register "
                "it again and build the index anew"
            )
            raise FailedPrecondition(Reason.INDEX_DAMAGED, text, metadata={"index": held.name, "sha256": digest})


def _uploaded(held: HeldIndex) -> dict[str, str]:
    """Return whose each uploaded file is, by its digest."""
    data = {digest: one.name for one in held.datasets for digest in one.source.digests()}
    return {held.model.digest: held.spec.model} | data
