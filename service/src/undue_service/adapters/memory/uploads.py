"""UploadStore and Inventory in memory."""

import threading
from dataclasses import replace
from datetime import datetime

from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.resources import RequestKey, Upload

from .jobs import MemoryJobStore, Requests
from .registry import MemoryRegistry


class MemoryUploadStore:
    """UploadStore in memory."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.requests = Requests()
        self._uploads: dict[tuple[str, str], Upload] = {}

    def add(self, upload: Upload, request: RequestKey | None) -> Upload:
        """See UploadStore."""
        with self._lock:
            known = self.requests.remembered(upload.tenant, request)
            if known is not None:
                return self.get(upload.tenant, str(known))
            self._uploads[upload.tenant, upload.id] = upload
            self.requests.remember(upload.tenant, request, upload.id)
            return upload

    def get(self, tenant: str, upload_id: str) -> Upload:
        """See UploadStore."""
        with self._lock:
            if (tenant, upload_id) not in self._uploads:
                name = f"uploads/{upload_id}"
                raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
            return self._uploads[tenant, upload_id]

    def finish(self, tenant: str, upload_id: str) -> Upload:
        """See UploadStore."""
        with self._lock:
            self._uploads[tenant, upload_id] = replace(self.get(tenant, upload_id), finished=True)
            return self._uploads[tenant, upload_id]

    def all(self) -> tuple[Upload, ...]:
        """Return every upload of every tenant, for the inventory."""
        with self._lock:
            return tuple(self._uploads.values())

    def drop(self, tenant: str, upload_id: str) -> None:
        """Forget an upload and its request, for the inventory."""
        with self._lock:
            self._uploads.pop((tenant, upload_id), None)
            self.requests.drop(lambda owner, resource, _: (owner, resource) == (tenant, upload_id))


class MemoryInventory:
    """Inventory over the stores in memory."""

    def __init__(self, jobs: MemoryJobStore, registry: MemoryRegistry, uploads: MemoryUploadStore) -> None:
        self._jobs = jobs
        self._registry = registry
        self._uploads = uploads

    def referenced(self) -> set[tuple[str, str]]:
        """See Inventory."""
        with self._jobs.lock:
            indexes = self._registry.indexes.all()
            replaced = {job.id for index in indexes for job in index.jobs if job != index.current}
            jobs = [row.job for row in self._jobs.rows() if row.job.id not in replaced]
            results = {(job.tenant, digest) for job in jobs for digest in job.results.values()}
            specs = {(one.tenant, digest) for one in self._registry.versions() for digest in one.spec.digests()}
        return results | specs | {(upload.tenant, upload.sha256) for upload in self.uploads()}

    def unfinished_jobs(self) -> set[str]:
        """See Inventory."""
        with self._jobs.lock:
            return {row.job.id for row in self._jobs.rows() if not row.job.state.ended}

    def uploads(self) -> tuple[Upload, ...]:
        """See Inventory."""
        return self._uploads.all()

    def drop_upload(self, tenant: str, upload_id: str) -> None:
        """See Inventory."""
        self._uploads.drop(tenant, upload_id)

    def drop_requests(self, before: datetime) -> int:
        """See Inventory."""
        requests = (self._jobs.requests, self._uploads.requests)
        return sum(one.drop(lambda _tenant, _resource, time: time < before) for one in requests)
