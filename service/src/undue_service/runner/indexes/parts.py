"""Rows encoded part by part, so that a build that is interrupted goes on where it was."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from undue_service.domain.reports import Produced
from undue_service.engine.data import Rows
from undue_service.engine.gradients import each_block
from undue_service.engine.index import Encoder, FittedIndex, RowBlock, Shard
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress
from undue_service.runner.tensor_files import read_tensors, write_tensors
from undue_service.runner.workspace import Workspace

from .files import IndexFile, shard_role

PART_ROWS = 8192
PART_BYTES = 64 << 20
"""A part ends with the block of rows that comes to either."""
SHARD_ROWS = 65_536
SHARD_BYTES = 512 << 20
"""Likewise a shard, with the part."""


@dataclass(frozen=True)
class Encoding:
    """Which rows are encoded, and with what."""

    fitted: FittedIndex
    objective: Objective
    rows: Rows
    select: range
    """Numbers of the rows, in the index and of `rows`."""
    memory_bytes: int
    """Budget of the intermediate values of a block of rows."""
    progress: Progress


def encoded(encoding: Encoding, workspace: Workspace) -> Iterator[list[RowBlock]]:
    """Yield the rows in parts, from the workspace as far as they are there.

    Raises:
        InvalidArgument: TARGETS_MISSING; whatever is wrong with a row.
        FailedPrecondition: NON_FINITE_RESULT, LEVERAGE_UNAVAILABLE.
        OSError: the disk is full, or another failure of the file system.
    """
    whole = encoding.select
    kept = {int(name.split("-")[1]): name for name in workspace.names() if name.startswith("rows-")}
    done = whole.start
    encoding.progress("rows", 0, len(whole))
    while done < whole.stop:
        found = workspace.find(kept.pop(done)) if done in kept else None
        if found is not None:
            blocks = _blocks(found[0])
            yield blocks
            done += _rows(blocks)
            encoding.progress("rows", done - whole.start, len(whole))
            continue
        until = min((first for first in kept if first > done), default=whole.stop)
        for blocks in _fresh(encoding, range(done, until)):
            workspace.keep(f"rows-{done:012d}", _tensors(blocks))
            yield blocks
            done += _rows(blocks)


def _fresh(encoding: Encoding, select: range) -> Iterator[list[RowBlock]]:
    encoder = Encoder(encoding.fitted, encoding.objective)
    size = min(PART_ROWS, encoder.block_rows(encoding.memory_bytes))
    blocks: list[RowBlock] = []
    done = select.start - encoding.select.start
    for _, block in each_block(encoding.objective, encoding.rows, size, encoder.encode, select):
        blocks.append(block)
        done += len(block.rows)
        encoding.progress("rows", done, len(encoding.select))
        if _rows(blocks) + size > PART_ROWS or _bytes(blocks) >= PART_BYTES:
            yield blocks
            blocks = []
    if blocks:
        yield blocks


class Shards:
    """Writes shards as their rows come."""

    def __init__(self, folder: Path, first: int) -> None:
        """Write into a folder, with numbers from `first`."""
        self.files: dict[str, IndexFile] = {}
        self._folder = folder
        self._number = first
        self._blocks: list[RowBlock] = []

    def add(self, blocks: list[RowBlock]) -> None:
        """Take a part.

        Raises:
            OSError: the disk is full, or another failure of the file system.
        """
        if self._blocks and _rows(self._blocks) + _rows(blocks) > SHARD_ROWS:
            self.finish()
        self._blocks += blocks
        if _bytes(self._blocks) >= SHARD_BYTES:
            self.finish()

    def finish(self) -> None:
        """Write what is left.

        Raises:
            OSError: the disk is full, or another failure of the file system.
        """
        if self._blocks:
            self.write(Shard.of(self._blocks))
            self._blocks = []

    def write(self, shard: Shard) -> None:
        """Write a shard.

        Raises:
            OSError: the disk is full, or another failure of the file system.
        """
        role = shard_role(self._number)
        path = self._folder / f"{role}.safetensors"
        digest = write_tensors(path, shard.tensors())
        again = [one for one in (shard.rows, shard.keys, shard.residuals) if one is not None]  # of all shards, joined
        memory = shard.nbytes + sum(one.nbytes for one in again)
        self.files[role] = IndexFile(path.name, digest, path.stat().st_size, memory, len(shard))
        self._number += 1

    def written(self, objective: Objective) -> list[Shard]:
        """Return the shards, mapped."""
        paths = [self._folder / file.name for file in self.files.values()]
        return [placed_shard(read_tensors(path)[0], objective) for path in paths]

    @property
    def produced(self) -> tuple[Produced, ...]:
        """The files that were written."""
        return tuple(Produced(role, file.name) for role, file in self.files.items())


def placed_shard(tensors: Mapping[str, Tensor], objective: Objective) -> Shard:
    """Return the shard of these tensors with what screening reads on the objective's device."""
    device = objective.program.device
    screened = [name for name in tensors if name == "scales" or name.startswith("numbers.")]
    return Shard.from_tensors({**tensors, **{name: tensors[name].to(device) for name in screened}})


def _tensors(blocks: list[RowBlock]) -> dict[str, Tensor]:
    return {f"{place}.{name}": one for place, block in enumerate(blocks) for name, one in block.tensors().items()}


def _blocks(tensors: dict[str, Tensor]) -> list[RowBlock]:
    parts: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        place, name = key.split(".", 1)
        parts.setdefault(int(place), {})[name] = tensor
    return [RowBlock.of(parts[place]) for place in sorted(parts)]


def _rows(blocks: list[RowBlock]) -> int:
    return sum(len(block.rows) for block in blocks)


def _bytes(blocks: list[RowBlock]) -> int:
    return sum(tensor.nbytes for block in blocks for tensor in block.tensors().values())
