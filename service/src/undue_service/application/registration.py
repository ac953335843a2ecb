"""Register models and data sets: a new version and the job that validates it, in one transaction."""

import logging
from collections.abc import Callable
from dataclasses import replace

from undue_service.domain.architectures import Architectures
from undue_service.domain.errors import Error, FailedPrecondition, Reason
from undue_service.domain.jobs import Job
from undue_service.domain.names import Collection, check_id, new_token, parse_version
from undue_service.domain.resources import Registration, RequestKey, ResourceState
from undue_service.domain.specs import DataSource, FileSource, ModelSpec
from undue_service.domain.validations import DatasetValidation, ModelValidation

from .changes import Changes
from .ports import ArtifactStore, Clock, Metrics, Page, Registry, SourceLocator

VERSIONS_AT_ONCE = 50

log = logging.getLogger(__name__)


class Registrations:
    """Use cases of ModelService and DatasetService."""

    def __init__(
        self,
        registry: Registry,
        artifacts: ArtifactStore,
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
        locator: SourceLocator,
        architectures: Architectures | None = None,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._locator = locator
        self.architectures = architectures or Architectures()

    def create_model(self, tenant: str, model_id: str, spec: ModelSpec, request: RequestKey | None) -> Registration:
        """Register a model.

        Raises:
            InvalidArgument: the id or the objective is wrong; ARCHITECTURE_UNKNOWN, or an option of it is wrong.
            FailedPrecondition: the sample data set is not READY; UPLOAD_INCOMPLETE.
            NotFound: the sample data set does not exist.
        """
        checked = check_id("model_id", model_id)
        return self._create(tenant, "models", checked, lambda: self._settled(tenant, spec), request)

    def create_dataset(
        self, tenant: str, dataset_id: str, source: DataSource, request: RequestKey | None
    ) -> Registration:
        """Register a data set.

        Raises:
            InvalidArgument: the id is wrong; URI_REFUSED.
            NotFound: URI_NOT_FOUND.
            FailedPrecondition: UPLOAD_INCOMPLETE.
        """
        checked = check_id("dataset_id", dataset_id)
        # Folders are read before the transaction, which they would hold up. What that came to matters only where the
        # request is new: a repeated one gets its version back whatever has become of the files.
        found: DataSource | Error
        try:
            found = self._located(source)
        except Error as error:
            found = error

        def settled() -> DataSource:
            if isinstance(found, Error):
                raise found
            return found

        return self._create(tenant, "datasets", checked, settled, request)

    def get(self, tenant: str, collection: Collection, field: str, name: str) -> Registration:
        """Return the version that `name`, a field of a request, names.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """
        resource_id, version = parse_version(field, name, collection)
        return self._registry.get(tenant, collection, resource_id, version)

    def usable(self, tenant: str, collection: Collection, field: str, name: str) -> Registration:
        """Return the version that `name` means where it is to be used; without one, the newest that has not failed.

        A version that failed can never be used: somebody's typo must not take the name away from who uses it.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
            FailedPrecondition: RESOURCE_NOT_READY.
        """
        resource_id, version = parse_version(field, name, collection)
        newest = self._registry.get(tenant, collection, resource_id, version)
        before: int | None = None
        while version is None and newest.state is ResourceState.FAILED:
            page = self._registry.list(tenant, collection, resource_id, VERSIONS_AT_ONCE, before)
            kept = [one for one in page.items if one.state is not ResourceState.FAILED]
            if kept or page.next_before is None:
                return (kept or [newest])[0].ready()
            before = page.next_before
        return newest.ready()

    def source(self, dataset: Registration) -> DataSource:
        """Return what a version of a data set is read from, with all its files.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """
        assert not isinstance(dataset.spec, ModelSpec)  # noqa: S101  the store keeps the two collections apart
        if isinstance(dataset.spec, FileSource) and dataset.spec.listed_apart:
            return replace(dataset.spec, files=self._registry.files(dataset.tenant, dataset.id, dataset.version))
        return dataset.spec

    def list(
        self, tenant: str, collection: Collection, parent: str, limit: int, before: int | None
    ) -> Page[Registration]:
        """Return versions of one resource or, with an empty parent, of all; newest first."""
        resource_id = parse_version("parent", parent, collection)[0] if parent else None
        return self._registry.list(tenant, collection, resource_id, limit, before)

    def _located(self, source: DataSource) -> DataSource:
        """Return the source with the files that its URI means now."""
        if not isinstance(source, FileSource) or source.uri is None:
            return source
        return replace(source, files=self._locator.locate(source.uri, source.format))

    def _settled(self, tenant: str, spec: ModelSpec) -> ModelSpec:
        """Return the spec with every option of its architecture, and the version of its sample that it means today."""
        if spec.architecture is not None:
            spec = replace(spec, architecture=self.architectures.settle("model.architecture", spec.architecture))
        if spec.sample is None:
            return spec
        return replace(spec, sample=self.usable(tenant, "datasets", "model.sample", spec.sample).name)

    def _renew(self, tenant: str, spec: ModelSpec | DataSource) -> None:
        """See to it that the artifacts are there, and that none is cleaned away before the version can be seen."""
        for digest in spec.digests():
            if self._artifacts.renew(tenant, digest) is None:
                text = f"the bytes of sha256:{digest} are gone: they were uploaded too long ago; upload them again"
                raise FailedPrecondition(Reason.UPLOAD_INCOMPLETE, text, metadata={"sha256": digest})

    def _create(
        self,
        tenant: str,
        collection: Collection,
        resource_id: str,
        settled: Callable[[], ModelSpec | DataSource],
        request: RequestKey | None,
    ) -> Registration:
        now = self._clock.now()
        made: list[int] = []

        def registration(version: int) -> Registration:
            # Only for a request that is new: a repeated one gets its version back whatever has been registered since.
            made.append(version)
            spec = settled()
            self._renew(tenant, spec)
            name = f"{collection}/{resource_id}/versions/{version}"
            check = ModelValidation(name) if collection == "models" else DatasetValidation(name)
            return Registration(
                tenant, collection, resource_id, version, spec, Job(tenant, new_token(), check, now), now
            )

        created = self._registry.add(registration, tenant, collection, resource_id, request)
        if made:
            log.info("version registered", extra={"resource": created.name, "job": created.validation.name})
            self._metrics.job_submitted(created.validation.spec.kind)
            self._changes.queued()
        return created
