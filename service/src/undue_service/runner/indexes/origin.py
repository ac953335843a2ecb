"""What an index is made of: where any of it is another one now, its scores would be too."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.specs import ModelSpec
from undue_service.domain.tasks import IndexedDataset
from undue_service.runner.place import scoring_digest

FORMAT = 1
"""Of the files."""


@dataclass(frozen=True, slots=True)
class DatasetOrigin:
    """A data set whose rows an index holds."""

    digest: str
    rows: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for of the scores."""

    method: str
    damping: float | None
    parameters: tuple[str, ...]
    leverage_correction: bool | None
    seed: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What an index is made of."""

    model: str
    """sha256 of its file."""
    objective: str
    """sha256 over the objective, the output that it is of, and the parameters that are registered."""
    settings: Settings
    datasets: tuple[DatasetOrigin, ...]
    code: str
    """`scoring_digest`."""
    torch: str
    """Its version."""

    def check(self, index: str, now: "Origin", names: Sequence[str]) -> None:
        """Hold what an index was made of against what there is now.

        Args:
            index: its name.
            now: what it would be made of now.
            names: of the data sets.

        Raises:
            FailedPrecondition: INDEX_STALE naming what differs.
        """
        different = []
        if self.model != now.model:
            different.append("for another model")
        if self.objective != now.objective:
            different.append("for another objective, output or selection of parameters of the model")
        settings, wanted = asdict(self.settings), asdict(now.settings)
        different += [
            f"with {name} {value!r} (asked for is {wanted[name]!r})"
            for name, value in settings.items()
            if value != wanted[name]
        ]
        if len(self.datasets) != len(now.datasets):
            different.append(f"from {len(self.datasets):,} data sets (there are {len(now.datasets):,})")
        pairs = zip(names, self.datasets, now.datasets, strict=False)
        different += [f"from other data than {name} holds" for name, was, is_now in pairs if was != is_now]
        if self.code != now.code:
            different.append("by another version of the service's engine")
        if self.torch != now.torch:
            different.append(f"with another version of torch ({self.torch}, and this is {now.torch})")
        if different:
            raise stale(index, different)


def origin_of(spec: IndexSpec, model: ModelSpec, datasets: Sequence[IndexedDataset]) -> Origin:
    """Return what an index would be made of now."""
    objective = {"objective": asdict(model.objective), "output": model.output, "parameters": model.parameters}
    if model.architecture is not None:
        objective["architecture"] = str(model.architecture)
    return Origin(
        model=model.digest,
        objective=hashlib.sha256(json.dumps(objective, sort_keys=True).encode()).hexdigest(),
        settings=Settings(spec.method, spec.damping, spec.parameters, spec.leverage_correction, spec.seed),
        datasets=tuple(DatasetOrigin(one.digest, one.rows) for one in datasets),
        code=scoring_digest(),
        torch=torch.__version__,
    )


def stale(index: str, different: Sequence[str]) -> FailedPrecondition:
    """Return the error for an index that was made of something else."""
    text = f"{index} was built {'; '.join(different)}: build it anew"
    return FailedPrecondition(Reason.INDEX_STALE, text, metadata={"index": index})
