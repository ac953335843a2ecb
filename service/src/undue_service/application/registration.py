"""Register models and data sets: a new version and the job that validates it, in one transaction."""

from dataclasses import replace

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.jobs import Job
from undue_service.domain.names import Collection, check_id, new_token, parse_version
from undue_service.domain.resources import Registration, RequestKey
from undue_service.domain.specs import DatasetValidation, DataSource, ModelSpec, ModelValidation

from .changes import Changes
from .ports import ArtifactStore, Clock, Metrics, Page, Registry


class Registrations:
    """Use cases of ModelService and DatasetService."""

    def __init__(
        self, registry: Registry, artifacts: ArtifactStore, changes: Changes, metrics: Metrics, clock: Clock
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._changes = changes
        self._metrics = metrics
        self._clock = clock

    def create_model(self, tenant: str, model_id: str, spec: ModelSpec, request: RequestKey | None) -> Registration:
        """Register a model.

        Raises:
            InvalidArgument: the id or the objective is wrong.
            FailedPrecondition: the sample data set is not READY; UPLOAD_INCOMPLETE.
            NotFound: the sample data set does not exist.
        """
        return self._create(tenant, "models", check_id("model_id", model_id), spec, request)

    def create_dataset(
        self, tenant: str, dataset_id: str, source: DataSource, request: RequestKey | None
    ) -> Registration:
        """Register a data set.

        Raises:
            InvalidArgument: the id is wrong.
            FailedPrecondition: UPLOAD_INCOMPLETE.
        """
        return self._create(tenant, "datasets", check_id("dataset_id", dataset_id), source, request)

    def get(self, tenant: str, collection: Collection, field: str, name: str) -> Registration:
        """Return the version that `name`, a field of a request, names.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """
        resource_id, version = parse_version(field, name, collection)
        return self._registry.get(tenant, collection, resource_id, version)

    def list(
        self, tenant: str, collection: Collection, parent: str, limit: int, before: int | None
    ) -> Page[Registration]:
        """Return versions of one resource or, with an empty parent, of all; newest first."""
        resource_id = parse_version("parent", parent, collection)[0] if parent else None
        return self._registry.list(tenant, collection, resource_id, limit, before)

    def _settled(self, tenant: str, spec: ModelSpec | DataSource) -> ModelSpec | DataSource:
        """Return the spec with the version of its sample that it means today."""
        if not isinstance(spec, ModelSpec) or spec.sample is None:
            return spec
        return replace(spec, sample=self.get(tenant, "datasets", "model.sample", spec.sample).ready().name)

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
        spec: ModelSpec | DataSource,
        request: RequestKey | None,
    ) -> Registration:
        now = self._clock.now()
        made: list[int] = []

        def registration(version: int) -> Registration:
            # Only for a request that is new: a repeated one gets its version back whatever has been registered since.
            made.append(version)
            self._renew(tenant, spec)
            settled = self._settled(tenant, spec)
            name = f"{collection}/{resource_id}/versions/{version}"
            check = ModelValidation(name) if collection == "models" else DatasetValidation(name)
            return Registration(
                tenant, collection, resource_id, version, settled, Job(tenant, new_token(), check, now), now
            )

        created = self._registry.add(registration, tenant, collection, resource_id, request)
        if made:
            self._metrics.job_submitted(created.validation.spec.kind)
            self._changes.queued()
        return created
