"""UploadStore in SQL."""

from sqlalchemy import Connection, Engine, RowMapping, insert, select, update

from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.resources import RequestKey, Upload

from .database import reading, remember, remembered, typed_errors, utc, writing
from .tables import uploads


class SqlUploadStore:
    """What was declared of uploads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @typed_errors
    def add(self, upload: Upload, request: RequestKey | None) -> Upload:
        """See UploadStore."""
        with writing(self._engine) as connection:
            known = remembered(connection, upload.tenant, request)
            if known is not None:
                return _get(connection, upload.tenant, known)
            row = {
                name: getattr(upload, name) for name in ("tenant", "id", "size", "sha256", "finished", "create_time")
            }
            connection.execute(insert(uploads).values(**row))
            remember(connection, upload.tenant, request, upload.id)
        return upload

    @typed_errors
    def get(self, tenant: str, upload_id: str) -> Upload:
        """See UploadStore."""
        with reading(self._engine) as connection:
            return _get(connection, tenant, upload_id)

    @typed_errors
    def finish(self, tenant: str, upload_id: str) -> Upload:
        """See UploadStore."""
        with writing(self._engine) as connection:
            mine = (uploads.c.tenant == tenant) & (uploads.c.id == upload_id)
            connection.execute(update(uploads).where(mine).values(finished=True))
            return _get(connection, tenant, upload_id)


def load_upload(row: RowMapping) -> Upload:
    """Return the upload of a row."""
    return Upload(row["tenant"], row["id"], row["size"], row["sha256"], utc(row, "create_time"), row["finished"])


def _get(connection: Connection, tenant: str, upload_id: str) -> Upload:
    query = select(uploads).where(uploads.c.tenant == tenant, uploads.c.id == upload_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        name = f"uploads/{upload_id}"
        raise NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})
    return load_upload(row)
