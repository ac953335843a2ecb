"""Indexes in memory, within a budget of bytes: the one that was asked least recently goes first.

What counts is the files of an index, which are mapped, what is made of them on opening, and the model, once for all
indexes of it. Not counted is what the system's cache holds of training data, and what CSV, compressed IDX, image and
Parquet data take on disk: they are written once, on opening, into nameless files in which any row is found at once.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from undue_service.datasets.opening import open_source
from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.reports import OpenedReport
from undue_service.domain.tasks import HeldIndex, IndexedDataset
from undue_service.engine.index import FittedIndex, Searcher, Shard, precision
from undue_service.engine.objective import Objective
from undue_service.runner.opening import Models
from undue_service.runner.place import Place

from .building import index_objective
from .files import FIT, HeldFiles, Manifest, check_uploaded
from .origin import origin_of
from .parts import placed_shard
from .rows import JoinedRows, NamedSource
from .watch import Watch

WARM_SECONDS = 1.0
"""That opening takes, at most, for reading training data ahead."""
WARM_ROWS = 64
"""At a time."""

_Model = tuple[object, ...]
"""All that an objective is made of."""


@dataclass(frozen=True)
class Resident:
    """An index that answers."""

    held: HeldIndex
    manifest: Manifest
    model: _Model
    objective: Objective
    fitted: FittedIndex
    shards: Mapping[str, Shard]
    """By the sha256 of their files."""
    sources: Mapping[str, NamedSource]
    """By the name of the data set's version, which never changes."""
    rows: JoinedRows
    searcher: Searcher
    watch: Watch

    @property
    def nbytes(self) -> int:
        """Return what it takes beside the model."""
        return self.manifest.resident_bytes


class Residents:
    """The indexes that a runner holds."""

    def __init__(self, models: Models, budget: int, memory_bytes: int) -> None:
        """Hold indexes in `budget` bytes, with `memory_bytes` beside them for the intermediate values of a block."""
        self._models = models
        self._budget = budget
        self._memory = memory_bytes
        self._held: OrderedDict[str, Resident] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Return what they take together with their models."""
        return self._with({})

    def find(self, index: str, revision: str) -> Resident | None:
        """Return an index, if it is there as it is now."""
        found = self._held.get(index)
        if found is None or found.held.revision != revision:
            return None
        self._held.move_to_end(index)
        return found

    def drop(self, index: str) -> None:
        """Let an index go."""
        self._held.pop(index, None)

    def open(self, held: HeldIndex, place: Place) -> OpenedReport:
        """Hold an index. Of an earlier revision, what did not change stays as it is.

        Raises:
            FailedPrecondition: INDEX_STALE; INDEX_DAMAGED; DATASET_CHANGED.
            ResourceExhausted: OUT_OF_MEMORY where it does not fit alone.
            Error: whatever is wrong with the model or the data.
        """
        found = self.find(held.name, held.revision)
        if found is None:
            earlier = self._held.pop(held.name, None)  # nobody asks for it again, whether or not the new one opens
            found = self._opened(held, earlier, place)
            self._held[held.name] = found
        return OpenedReport(held.name, found.nbytes)

    def _opened(self, held: HeldIndex, earlier: Resident | None, place: Place) -> Resident:
        files = HeldFiles(held, place.artifacts)
        manifest, names = files.manifest, [one.name for one in held.datasets]
        manifest.origin.check(held.name, origin_of(held.spec, held.model, held.datasets), names)
        watch = Watch([one.source for one in held.datasets])
        watch.check()
        check_uploaded(held, earlier.held if earlier is not None else None, place.artifacts)
        objective = self._objective(held, manifest, earlier, place)
        pieces = _Pieces(earlier, files, objective, place)
        rows = JoinedRows([pieces.source(one) for one in held.datasets])
        fitted, shards = pieces.fitted(), [pieces.shard(role) for role in manifest.shards]
        if pieces.opened:
            _warm(rows, shards)
        return Resident(
            held=held,
            manifest=manifest,
            model=_model(held),
            objective=objective,
            fitted=fitted,
            shards={file.sha256: one for file, one in zip(manifest.shards.values(), shards, strict=True)},
            sources={one.name: pieces.source(one) for one in held.datasets},
            rows=rows,
            searcher=Searcher(fitted, objective, shards, rows, erased=held.erased, memory_bytes=self._memory),
            watch=watch,
        )

    def _objective(self, held: HeldIndex, manifest: Manifest, earlier: Resident | None, place: Place) -> Objective:
        """Return the model, of another index where there is one of it; and make room for it and for the index."""
        model, needed = _model(held), manifest.resident_bytes
        there = [one for one in (earlier, *self._held.values()) if one is not None and one.model == model]
        if there:
            objective = there[0].objective
        else:
            self._make_room(held.name, needed, {})
            objective = index_objective(held.spec, held.model, self._models, place)
            self._models.forget()  # what it was made of would take the memory once more
        self._make_room(held.name, needed, {model: objective})
        return objective

    def _make_room(self, index: str, needed: int, models: Mapping[_Model, Objective]) -> None:
        """Let indexes go until so many bytes are free beside these models."""
        while self._held and self._with(models) + needed > self._budget:
            self._held.popitem(last=False)
        takes = self._with(models) + needed
        if takes > self._budget:
            text = (
                f"{index} takes {takes / 2**20:,.1f} MiB of memory in a runner, with its model, and the indexes of a "
                f"runner may take {self._budget / 2**20:,.1f} MiB: raise the service's setting serve_bytes, or build "
                "it over fewer parameters"
            )
            metadata = {"index": index, "bytes": str(takes), "limit": str(self._budget)}
            raise ResourceExhausted(Reason.OUT_OF_MEMORY, text, metadata=metadata)

    def _with(self, models: Mapping[_Model, Objective]) -> int:
        """Return what the indexes take with their models, and with these."""
        held = {one.model: one.objective for one in self._held.values()} | dict(models)
        return sum(one.nbytes for one in self._held.values()) + sum(map(objective_bytes, held.values()))


class _Pieces:
    """What an index is opened from: of its earlier revision what stays, the rest from its files.

    Attributes:
        opened: how many data sets were opened anew.
    """

    def __init__(self, earlier: Resident | None, files: HeldFiles, objective: Objective, place: Place) -> None:
        self._files = files
        self._objective = objective
        self._place = place
        fits = earlier is not None and earlier.objective is objective
        self._earlier = earlier if fits else None
        self._sources = dict(earlier.sources) if earlier is not None else {}
        self.opened = 0

    def fitted(self) -> FittedIndex:
        """Return what all rows share."""
        file, earlier = self._files.manifest.files[FIT], self._earlier
        if earlier is not None and earlier.manifest.files[FIT].sha256 == file.sha256:
            return earlier.fitted
        return FittedIndex.of(self._objective, self._files.tensors(FIT), self._files.manifest.fitted)

    def shard(self, role: str) -> Shard:
        """Return the rows of a file."""
        sha256 = self._files.manifest.files[role].sha256
        if self._earlier is not None and sha256 in self._earlier.shards:
            return self._earlier.shards[sha256]
        return placed_shard(self._files.tensors(role), self._objective)

    def source(self, dataset: IndexedDataset) -> NamedSource:
        """Return a data set, open for rows from anywhere."""
        if dataset.name not in self._sources:
            place = self._place
            found = open_source(dataset.source, place.artifacts.__getitem__, place.scratch, by_row=True)
            self._sources[dataset.name] = NamedSource(dataset.name, found)
            self.opened += 1
        return self._sources[dataset.name]


def _warm(rows: JoinedRows, shards: Sequence[Shard]) -> None:
    """Read the rows of the largest keys once, which are listed most often: images are decoded, files come from disk."""
    numbers = torch.cat([shard.rows for shard in shards])
    order = torch.argsort(torch.cat([shard.keys for shard in shards]), descending=True)
    end = time.monotonic() + WARM_SECONDS
    for _ in rows.batches(WARM_ROWS, numbers[order].tolist()):
        if time.monotonic() >= end:
            return


def objective_bytes(objective: Objective) -> int:
    """Return the memory of a model's weights and of what the engine makes of them."""
    program = objective.program
    tensors = (*program.parameters.values(), *program.constants.values())
    return sum(one.nbytes for one in (*tensors, objective.theta, objective.l2, objective.l2_mask))


def _model(held: HeldIndex) -> _Model:
    model = held.model
    return (
        f"{model.digest} {model.format} {model.architecture!r}",
        model.output,
        model.objective,
        held.spec.parameters or model.parameters,
        precision(held.spec.method),
    )
