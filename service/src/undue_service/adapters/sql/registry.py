"""Registry in SQL."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, Select, delete, func, insert, select, update

from undue_service.adapters.index_uses import lost_by, named_users
from undue_service.application.ports import Deleted, Page
from undue_service.domain.errors import NotFound, Reason
from undue_service.domain.names import Collection, parse_token
from undue_service.domain.resources import Registration, RequestKey
from undue_service.domain.specs import DataSource, FileSource, LocatedFile, ModelSpec, named_resources
from undue_service.wire.codec import JOB, LOCATED_FILES, RESOURCE_SPEC

from .database import page_of, reading, remember, remembered, typed_errors, utc, writing
from .index_rows import index_uses, lose
from .jobs import cancel_jobs, delete_job, insert_job
from .tables import jobs, version_artifacts, versions
from .uses import forget_uses, remember_uses, users_of


class SqlRegistry:
    """Registered models and data sets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @typed_errors
    def add(
        self,
        registration: Callable[[int], Registration],
        tenant: str,
        collection: Collection,
        resource_id: str,
        request: RequestKey | None,
    ) -> Registration:
        """See Registry."""
        with writing(self._engine) as connection:
            known = remembered(connection, tenant, request)
            if known is not None:
                query = _versions(tenant, collection).where(versions.c.seq == int(known))
                row = connection.execute(query).mappings().first()
                if row is None:
                    text = "what this request registered has been deleted: make a new request_id to register it again"
                    raise NotFound(Reason.RESOURCE_NOT_FOUND, text)
                return _load(row)
            mine = (
                (versions.c.tenant == tenant) & (versions.c.collection == collection) & (versions.c.id == resource_id)
            )
            newest = connection.execute(select(func.max(versions.c.version)).where(mine)).scalar()
            new = registration((newest or 0) + 1)
            insert_job(connection, new.validation)
            values = {"tenant": tenant, "collection": collection, "id": resource_id, "version": new.version}
            values |= {**_dump(new.spec), "validation_job": new.validation.id}
            inserted = connection.execute(insert(versions).values(**values, create_time=new.create_time))
            seq = inserted.inserted_primary_key[0]  # type: ignore[index]  # None only for an insert of several rows
            digests = [
                {"version": seq, "digest": digest, "tenant": tenant} for digest in dict.fromkeys(new.spec.digests())
            ]
            if digests:  # files that lie where they are, are no artifacts
                connection.execute(insert(version_artifacts), digests)
            remember(connection, tenant, request, str(seq))
            remember_uses(connection, tenant, new.name, named_resources(new.spec))
        return new

    @typed_errors
    def get(self, tenant: str, collection: Collection, resource_id: str, version: int | None) -> Registration:
        """See Registry."""
        query = (
            _versions(tenant, collection)
            .where(versions.c.id == resource_id)
            .order_by(versions.c.version.desc())
            .limit(1)
        )
        if version is not None:
            query = query.where(versions.c.version == version)
        with reading(self._engine) as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise _missing(collection, resource_id, version)
        return _load(row)

    @typed_errors
    def files(self, tenant: str, resource_id: str, version: int) -> tuple[LocatedFile, ...]:
        """See Registry."""
        mine = (versions.c.tenant == tenant) & (versions.c.collection == "datasets") & (versions.c.id == resource_id)
        query = select(versions.c.files).where(mine, versions.c.version == version, versions.c.spec != "")
        with reading(self._engine) as connection:
            row = connection.execute(query).first()
        if row is None:
            raise _missing("datasets", resource_id, version)
        return LOCATED_FILES.load(row[0]) if row[0] is not None else ()

    @typed_errors
    def list(
        self, tenant: str, collection: Collection, resource_id: str | None, limit: int, before: int | None
    ) -> Page[Registration]:
        """See Registry."""
        query = _versions(tenant, collection).order_by(versions.c.seq.desc())
        if resource_id is not None:
            query = query.where(versions.c.id == resource_id)
        if before is not None:
            query = query.where(versions.c.seq < before)
        with reading(self._engine) as connection:
            rows, more = page_of(connection, query, limit, lambda row: len(row["spec"]) + len(row["body"]))
        return Page(tuple(_load(row) for row in rows), rows[-1]["seq"] if more else None)

    @typed_errors
    def delete(
        self,
        tenant: str,
        collection: Collection,
        resource_id: str,
        version: int | None,
        check: Callable[[tuple[Registration, ...], tuple[str, ...]], None],
        now: datetime,
    ) -> Deleted:
        """See Registry. A deleted version keeps its row, for its number, but neither its spec nor its validation."""
        query = _versions(tenant, collection).where(versions.c.id == resource_id).order_by(versions.c.version)
        if version is not None:
            query = query.where(versions.c.version == version)
        with writing(self._engine) as connection:
            rows = connection.execute(query).mappings().all()
            if not rows:
                raise _missing(collection, resource_id, version)
            found = tuple(_load(row) for row in rows)
            names = tuple(one.name for one in found)
            users = users_of(connection, tenant, names)
            of_indexes = index_uses(connection, tenant, names)
            check(found, named_users(users, of_indexes))
            needing = (parse_token("user", user, "jobs") for user in users if user.startswith("jobs/"))
            cancelled = cancel_jobs(connection, tenant, needing, now)
            cancelled += lose(connection, tenant, lost_by(users, of_indexes), now)
            for row, one in zip(rows, found, strict=True):
                delete_job(connection, tenant, one.validation.id)
                forget_uses(connection, tenant, one.name)
                connection.execute(delete(version_artifacts).where(version_artifacts.c.version == row["seq"]))
                connection.execute(update(versions).where(versions.c.seq == row["seq"]).values(spec="", files=None))
        return Deleted(found, cancelled)


def _missing(collection: Collection, resource_id: str, version: int | None) -> NotFound:
    name = f"{collection}/{resource_id}" + (f"/versions/{version}" if version is not None else "")
    return NotFound(Reason.RESOURCE_NOT_FOUND, f"there is no {name}", metadata={"resource": name})


def _versions(tenant: str, collection: Collection) -> Select[Any]:
    same = (jobs.c.tenant == versions.c.tenant) & (jobs.c.id == versions.c.validation_job)
    # Without the files, which may be many megabytes, and which whoever reads the data asks for.
    columns = [column for column in versions.c if column is not versions.c.files]
    query = select(*columns, jobs.c.body).join(jobs, same)
    return query.where(versions.c.tenant == tenant, versions.c.collection == collection)


def _dump(spec: ModelSpec | DataSource) -> dict[str, str | None]:
    files = None
    if isinstance(spec, FileSource) and spec.listed_apart:
        files = LOCATED_FILES.dump(tuple(file for file in spec.files if isinstance(file, LocatedFile))).decode()
        spec = replace(spec, files=())
    return {"spec": RESOURCE_SPEC.dump(spec).decode(), "files": files}


def _load(row: RowMapping) -> Registration:
    spec, validation = RESOURCE_SPEC.load(row["spec"]), JOB.load(row["body"])
    create_time = utc(row, "create_time")
    return Registration(row["tenant"], row["collection"], row["id"], row["version"], spec, validation, create_time)
