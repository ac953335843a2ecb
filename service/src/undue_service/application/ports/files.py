"""Ports: files, sent, left by runners, or lying where they are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from undue_service.domain.comparison_findings import CompareFinding
from undue_service.domain.group_findings import GroupFinding
from undue_service.domain.mislabels import MislabelCurve, RankingName
from undue_service.domain.perturb_jobs import Perturbation, PoisonedRow
from undue_service.domain.results import (
    Comparison,
    Counterfactual,
    Explanation,
    Instances,
    LeverageBlock,
    ScoredExample,
)
from undue_service.domain.specs import FileFormat, LocatedFile


@dataclass(frozen=True, slots=True)
class Held:
    """A file that a store holds."""

    tenant: str
    key: str
    """Its digest, or the upload that it belongs to."""
    modified: datetime


class ArtifactStore(Protocol):
    """Files named by their sha256, a name space for each tenant."""

    def contains(self, tenant: str, digest: str) -> bool:
        """Return whether the artifact is there."""

    def path(self, tenant: str, digest: str) -> Path:
        """Return a local path to read the artifact at.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """

    def keep(self, tenant: str, source: Path, digest: str | None = None) -> str:
        """Move a file in and return its sha256, which must be `digest` where that is given.

        Raises:
            InvalidArgument: DIGEST_MISMATCH.
        """

    def renew(self, tenant: str, digest: str) -> int | None:
        """Let an artifact count as new, and return its size; None where it is gone.

        Whoever is about to write a reference to an artifact renews it first: `remove` then spares it until the
        reference can be seen.
        """

    def held(self) -> Iterator[Held]:
        """Yield every artifact of every tenant."""

    def remove(self, tenant: str, digest: str, before: datetime) -> bool:
        """Remove an artifact if it was last kept or renewed before `before`, and return whether it was."""


class Staging(Protocol):
    """Files on their way in."""

    def size(self, tenant: str, key: str) -> int:
        """Return how many bytes have arrived."""

    def append(self, tenant: str, key: str, offset: int, data: bytes) -> int:
        """Write a chunk where the file ends and return the new size.

        Raises:
            InvalidArgument: UPLOAD_OFFSET_MISMATCH.
            ResourceExhausted: STORAGE_FULL.
        """

    def path(self, tenant: str, key: str) -> Path:
        """Return where the bytes are."""

    def discard(self, tenant: str, key: str) -> None:
        """Forget what has arrived."""

    def held(self) -> Iterator[Held]:
        """Yield what has arrived of every upload of every tenant."""

    def scratch(self, key: str) -> Path:
        """Return a fresh empty folder for a job; one left by an earlier attempt is emptied."""

    def workspace(self, key: str) -> Path:
        """Return a job's folder for what a later attempt can go on from, with what earlier ones left in it."""

    def workspaces(self) -> Iterator[str]:
        """Yield the keys of all such folders."""

    def discard_workspace(self, key: str) -> None:
        """Remove such a folder."""

    def take(self, folder: Path, name: str) -> Path:
        """Copy a file that a runner left in its scratch folder to where the runner cannot reach it.

        Raises:
            Internal: the name is not that of a plain file in the folder.
        """

    def discard_scratch(self, key: str) -> None:
        """Remove a job's folder."""


class SourceLocator(Protocol):
    """Finds the files of data sets that are read where they lie."""

    def locate(self, uri: str, file_format: FileFormat) -> tuple[LocatedFile, ...]:
        """Return the files that a URI means, in the order of their names.

        The files of IDX are called after the columns that they are; images by their paths below the folder.

        Raises:
            InvalidArgument: URI_REFUSED, whether or not there is something where nobody may look; too many files.
            NotFound: URI_NOT_FOUND.
        """


class ResultReader(Protocol):
    """Result files that runners leave."""

    def rows(self, path: Path) -> Instances:
        """Return the rows that a RowsTask read.

        Raises:
            ValueError: the file is not one of such rows.
        """

    def explanations(self, path: Path, start: int, count: int) -> tuple[tuple[Explanation, ...], int | None]:
        """Return at most `count` explanations from position `start` on, and where the next ones start."""

    def explanation_blocks(self, path: Path) -> Iterator[tuple[Explanation, ...]]:
        """Yield all explanations, some at a time."""

    def self_influences(self, path: Path, start: int, count: int) -> tuple[tuple[ScoredExample, ...], int | None]:
        """Return at most `count` ranked rows from position `start` on, and where the next ones start."""

    def self_influence_blocks(self, path: Path) -> Iterator[tuple[ScoredExample, ...]]:
        """Yield all ranked rows, some at a time."""

    def measured(self, path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the test rows that counterfactuals are about, and their costs before anything was removed."""

    def counterfactuals(self, path: Path, start: int, count: int) -> tuple[tuple[Counterfactual, ...], int | None]:
        """Return at most `count` counterfactuals from position `start` on, and where the next ones start."""

    def counterfactual_blocks(self, path: Path) -> Iterator[tuple[Counterfactual, ...]]:
        """Yield all counterfactuals, some at a time."""

    def compared(self, path: Path) -> npt.NDArray[np.int64]:
        """Return the test rows that comparisons are about."""

    def comparisons(self, path: Path, start: int, count: int) -> tuple[tuple[Comparison, ...], int | None]:
        """Return at most `count` comparisons from position `start` on, and where the next ones start."""

    def comparison_blocks(self, path: Path) -> Iterator[tuple[Comparison, ...]]:
        """Yield all comparisons, some at a time."""

    def leverage_blocks(self, path: Path) -> Iterator[LeverageBlock]:
        """Yield what all training rows do to a linear head, some rows at a time."""

    def mislabel_curves(self, path: Path) -> tuple[MislabelCurve, ...]:
        """Return what each ranking found."""

    def suspects(
        self, path: Path, start: int, count: int
    ) -> tuple[tuple[tuple[RankingName, ScoredExample], ...], int | None]:
        """Return at most `count` listed rows from position `start` on, and where the next ones start."""

    def group_findings(self, path: Path) -> Iterator[tuple[GroupFinding, ...]]:
        """Yield what a group influence job found, some of it at a time."""

    def compare_findings(self, path: Path) -> Iterator[tuple[CompareFinding, ...]]:
        """Yield what a compare job found, some of it at a time."""

    def score_blocks(self, path: Path) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield (first row, float32 block) over the score matrix."""


class PerturbationReader(Protocol):
    """Result files of perturb jobs."""

    def perturbations(self, path: Path, start: int, count: int) -> tuple[tuple[Perturbation, ...], int | None]:
        """Return at most `count` attacks from position `start` on, and where the next ones start."""

    def attacks(self, path: Path) -> int:
        """Return how many attacks a file of poisoned rows is of."""

    def poisoned(self, path: Path, attacks: Iterable[int]) -> Iterator[PoisonedRow]:
        """Yield the rows that some attacks poisoned, in their order."""
