"""Take files in, in chunks."""

import hashlib
import threading
from collections.abc import Callable

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.names import new_token, parse_token
from undue_service.domain.resources import RequestKey, Upload

from .ports import ArtifactStore, Clock, Staging, UploadStore

MAX_CHUNK_BYTES = 1 << 20


class Uploads:
    """Use cases of UploadService."""

    def __init__(
        self, store: UploadStore, artifacts: ArtifactStore, staging: Staging, clock: Clock, max_bytes: int
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._staging = staging
        self._clock = clock
        self._locks = tuple(threading.RLock() for _ in range(64))
        self.max_bytes = max_bytes

    def create(self, tenant: str, size: int, sha256: str, request: RequestKey | None) -> Upload:
        """Declare a file; one whose bytes this tenant has already is finished at once.

        Raises:
            InvalidArgument: the size is not that of the bytes that are here.
            ResourceExhausted: UPLOAD_TOO_LARGE.
        """
        if size == 0 and sha256 != hashlib.sha256().hexdigest():
            raise InvalidArgument.at("upload.sha256", "is not that of no bytes", Reason.DIGEST_MISMATCH)
        if size > self.max_bytes:
            text = (
                f"{size:,} bytes are more than the {self.max_bytes:,} that this service takes (UNDUE_MAX_UPLOAD_BYTES)"
            )
            raise ResourceExhausted(Reason.UPLOAD_TOO_LARGE, text, metadata={"limit_bytes": str(self.max_bytes)})
        known = self._artifacts.renew(tenant, sha256)
        if known is not None and known != size:
            raise InvalidArgument.at("upload.size_bytes", f"{size:,} is wrong: the bytes of this digest are {known:,}")
        upload = Upload(tenant, new_token(), size, sha256, self._clock.now(), finished=known is not None)
        return self._settled(self._store.add(upload, request))

    def get(self, tenant: str, name: str) -> Upload:
        """Return an upload.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._settled(self._store.get(tenant, parse_token("name", name, "uploads")))

    def received(self, upload: Upload) -> int:
        """Return how many bytes of it have arrived."""
        return upload.size if upload.finished else self._staging.size(upload.tenant, upload.id)

    def writer(self, tenant: str, name: str) -> Callable[[int, bytes, bytes], Upload]:
        """Return a function that takes (offset, data, sha256 of data) and returns the upload as it stands.

        Raises:
            NotFound: RESOURCE_NOT_FOUND.
        """
        upload = self.get(tenant, name)

        def write(offset: int, data: bytes, sha256: bytes) -> Upload:
            if len(data) > MAX_CHUNK_BYTES:
                text = f"{len(data):,} bytes; a chunk holds at most {MAX_CHUNK_BYTES:,}"
                raise InvalidArgument.at("data", text, Reason.UPLOAD_TOO_LARGE)
            if hashlib.sha256(data).digest() != sha256:
                text = f"the chunk at offset {offset} has another digest: send it again"
                raise InvalidArgument.at("sha256", text, Reason.DIGEST_MISMATCH)
            if offset + len(data) > upload.size:
                text = f"the chunk at offset {offset} goes beyond the declared {upload.size:,} bytes"
                raise InvalidArgument.at("data", text, Reason.UPLOAD_TOO_LARGE)
            # A client that resumes may meet its own first stream, still writing: one chunk at a time.
            with self._lock(upload):
                if self.get(tenant, name).finished:
                    text = f"{upload.name} is finished and takes no more chunks"
                    metadata = {"received_bytes": str(upload.size)}
                    raise FailedPrecondition(Reason.UPLOAD_OFFSET_MISMATCH, text, metadata=metadata)
                size = self._staging.append(tenant, upload.id, offset, data)
                return self._finish(upload) if size == upload.size else upload

        return write

    def finished_digest(self, tenant: str, field: str, name: str) -> str:
        """Return the digest of a finished upload that a request refers to.

        Raises:
            FailedPrecondition: UPLOAD_INCOMPLETE.
            NotFound: RESOURCE_NOT_FOUND.
        """
        upload = self._settled(self._store.get(tenant, parse_token(field, name, "uploads")))
        if not upload.finished:
            text = f"{upload.name} has {self.received(upload):,} of {upload.size:,} bytes: write the rest first"
            raise FailedPrecondition(Reason.UPLOAD_INCOMPLETE, text)
        return upload.sha256

    def keep(self, tenant: str, data: bytes) -> str:
        """Keep bytes that came inside a request and return their sha256."""
        key = new_token()
        try:
            self._staging.append(tenant, key, 0, data)
            return self._artifacts.keep(tenant, self._staging.path(tenant, key))
        finally:
            self._staging.discard(tenant, key)

    def _settled(self, upload: Upload) -> Upload:
        """Return the upload, finished if its bytes are here: the service may have died before it noted that."""
        if upload.finished or not (self._kept(upload) or self.received(upload) == upload.size):
            return upload
        with self._lock(upload):  # not while a chunk is written, the last one above all
            if self._kept(upload):
                self._staging.discard(upload.tenant, upload.id)
                return self._store.finish(upload.tenant, upload.id)
            if self.received(upload) != upload.size:
                return upload
            try:
                return self._finish(upload)
            except InvalidArgument:
                return upload  # wrong bytes, and by now discarded: whoever asks learns that it stands at 0

    def _kept(self, upload: Upload) -> bool:
        return self._artifacts.contains(upload.tenant, upload.sha256)

    def _lock(self, upload: Upload) -> threading.RLock:
        return self._locks[hash(upload.id) % len(self._locks)]

    def _finish(self, upload: Upload) -> Upload:
        try:
            if upload.size == 0:
                self._staging.append(upload.tenant, upload.id, 0, b"")
            self._artifacts.keep(upload.tenant, self._staging.path(upload.tenant, upload.id), upload.sha256)
        except InvalidArgument:
            # The bytes are not what was declared: none is worth keeping, and the same upload may be tried again.
            self._staging.discard(upload.tenant, upload.id)
            raise
        return self._store.finish(upload.tenant, upload.id)
