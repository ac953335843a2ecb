"""Turn the jobs of an index, and the index itself, into what a runner is told."""

from undue_service.domain.index_jobs import IndexBuild, IndexExtend, IndexJob
from undue_service.domain.indexes import Index
from undue_service.domain.jobs import Job
from undue_service.domain.names import parse_token
from undue_service.domain.specs import ModelSpec
from undue_service.domain.tasks import (
    HeldIndex,
    IndexBuildTask,
    IndexCompactTask,
    IndexedDataset,
    IndexExtendTask,
)

from .ports import ErasureStore, IndexStore
from .registration import Registrations
from .validated import dataset_report, model_spec

IndexTask = IndexBuildTask | IndexExtendTask | IndexCompactTask


class IndexTasks:
    """What a runner is told of indexes, with the digests of the artifacts that it reads."""

    def __init__(self, registrations: Registrations, indexes: IndexStore, erasures: ErasureStore) -> None:
        self._registrations = registrations
        self._indexes = indexes
        self._erasures = erasures

    def task(self, job: Job, spec: IndexJob) -> tuple[IndexTask, tuple[str, ...]]:
        """Return the task of a job that builds or changes an index.

        Raises:
            FailedPrecondition: RESOURCE_NOT_READY.
            NotFound: the index, its model or one of its data sets is gone.
        """
        index = self._indexes.get(job.tenant, parse_token("index", spec.index, "indexes"))
        if isinstance(spec, IndexBuild):
            model, digest = self._model(index)
            train = self._dataset(index, index.spec.train)
            digests = {"model": digest, "train": train.digest}
            needed = (*model.digests(), *train.source.digests())
            return IndexBuildTask(index.spec, model, train, digests), needed
        held, needed = self.held(index.ready())
        digests = {"model": self._model(index)[1], "train": held.datasets[0].digest}
        if isinstance(spec, IndexExtend):
            added = self._dataset(index, spec.dataset)
            return IndexExtendTask(held, added, digests), (*needed, *added.source.digests())
        return IndexCompactTask(held, digests), needed

    def held(self, index: Index) -> tuple[HeldIndex, tuple[str, ...]]:
        """Return an index that is ready as its files and tombstones are now.

        Raises:
            NotFound: its model or one of its data sets is gone.
        """
        assert index.current is not None  # noqa: S101  it is ready
        model, _ = self._model(index)
        datasets = tuple(self._dataset(index, name) for name in index.datasets)
        files = dict(index.current.results)
        # Rows that were erased since the index was read are among these: then it is opened again, under its revision.
        erased = self._erasures.erased(index.tenant, index.id)
        held = HeldIndex(index.name, index.revision, index.spec, model, datasets, files, erased)
        sources = (digest for one in datasets for digest in one.source.digests())
        return held, (*files.values(), *model.digests(), *sources)

    def _model(self, index: Index) -> tuple[ModelSpec, str]:
        """Return the model of an index, and the digest of its file."""
        found = self._registrations.get(index.tenant, "models", "model", index.spec.model).ready()
        return model_spec(found), found.content_digest

    def _dataset(self, index: Index, name: str) -> IndexedDataset:
        found = self._registrations.get(index.tenant, "datasets", "dataset", name).ready()
        source = self._registrations.source(found)
        return IndexedDataset(found.name, source, found.content_digest, dataset_report(found).rows)
