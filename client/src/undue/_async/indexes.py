"""Build, change, look up and list indexes, and the aliases that mean them."""

import uuid
from collections.abc import AsyncIterator, Iterable
from typing import cast

from undue import _convert_indexes, _convert_jobs, _specs
from undue._errors import DeadlineExceeded, Error, Unavailable
from undue._indexes import Alias, Index
from undue._inputs import index_name, resource_name, row_numbers
from undue._resources import Dataset, Estimate, Model
from undue._schema import Arrays
from undue.v1 import indexes_pb2, jobs_pb2

from .connection import AsyncConnection, all_pages
from .index_jobs import AsyncIndexJob
from .registries import AsyncDatasets

_ROWS_AT_ONCE = 100_000


class AsyncIndexes:
    """The indexes of a service: `client.indexes`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def build(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        method: str | None = None,
        damping: float | None = None,
        parameters: Iterable[str] | None = None,
        leverage_correction: bool | None = None,
        seed: int = 0,
    ) -> AsyncIndexJob:
        """Queue a job that builds an index, from which `client.explain` answers.

        Args:
            model: the model, or its name; without a version, the newest.
            train: the data set that it was trained on.
            method: "exact", "gauss_newton" or "ekfac"; None is `exact` for a linear head of up to 12,000 parameters,
                else `ekfac`.
            damping: λ in H + λI, as in `client.influence`.
            parameters: fnmatch patterns of the parameters that the scores run over; None means those that the model
                registered.
            leverage_correction: correct for the leverage of each training row, as in `client.influence`.
            seed: of whatever the method draws at random.

        Returns:
            The job; its result is the index.

        Raises:
            InvalidArgument: an argument is wrong, or the method has no index.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY.
            Unavailable: the service cannot be reached.
        """
        index = _specs.index(
            model,
            train=train,
            method=method,
            damping=damping,
            parameters=parameters,
            leverage_correction=leverage_correction,
            seed=seed,
        )
        request = indexes_pb2.CreateIndexRequest(index=index, request_id=str(uuid.uuid4()))
        created = await self._connection.call(self._connection.indexes.CreateIndex, request)
        of_job = jobs_pb2.GetJobRequest(name=created.job)
        return AsyncIndexJob(self._connection, await self._connection.call(self._connection.jobs.GetJob, of_job))

    async def estimate(
        self,
        model: Model | str,
        *,
        train: Dataset | str,
        method: str | None = None,
        damping: float | None = None,
        parameters: Iterable[str] | None = None,
        leverage_correction: bool | None = None,
        seed: int = 0,
    ) -> Estimate:
        """Say what building would take, without queueing it: the request is checked as if it were.

        Args:
            model: as in `build`; registered with a sample, on which its speed was measured.
            train: as in `build`.
            method: as in `build`.
            damping: as in `build`.
            parameters: as in `build`.
            leverage_correction: as in `build`.
            seed: as in `build`.

        Raises:
            InvalidArgument: an argument is wrong, or the method has no index.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or the model was registered without a sample.
            Unavailable: the service cannot be reached.
        """
        index = _specs.index(
            model,
            train=train,
            method=method,
            damping=damping,
            parameters=parameters,
            leverage_correction=leverage_correction,
            seed=seed,
        )
        request = indexes_pb2.CreateIndexRequest(index=index, validate_only=True)
        created = await self._connection.call(self._connection.indexes.CreateIndex, request)
        return _convert_jobs.estimate(created.estimate)

    async def get(self, name: str) -> Index:
        """Return an index, by its name or by an alias; a bare word is an alias.

        Raises:
            InvalidArgument: it is neither's name.
            NotFound: there is no such index or alias.
            Unavailable: the service cannot be reached.
        """
        request = indexes_pb2.GetIndexRequest(name=index_name("name", name))
        return _convert_indexes.index(await self._connection.call(self._connection.indexes.GetIndex, request))

    async def list(self) -> AsyncIterator[Index]:
        """Yield all indexes, newest first.

        Raises:
            Unavailable: the service cannot be reached.
        """
        request = indexes_pb2.ListIndexesRequest()
        async for message in all_pages(self._connection, self._connection.indexes.ListIndexes, request, "indexes"):
            yield _convert_indexes.index(cast(indexes_pb2.Index, message))

    async def delete(self, name: Index | str, *, force: bool = False, etag: str | None = None) -> None:
        """Delete an index, its jobs and its files; jobs of it that have not ended are cancelled.

        Args:
            name: the index, or its name.
            force: delete it although aliases name it; they go with it.
            etag: delete only what was seen: the `.etag` it had then.

        Raises:
            NotFound: there is no such index.
            FailedPrecondition: aliases name it (RESOURCE_IN_USE), or it has changed (ETAG_MISMATCH).
            Unavailable: the service cannot be reached.
        """
        name = resource_name("name", "indexes", name)
        request = indexes_pb2.DeleteIndexRequest(name=name, etag=etag or "", force=force)
        await self._connection.call(self._connection.indexes.DeleteIndex, request)

    async def extend(self, index: Index | str, *, rows: Dataset | Arrays | str) -> AsyncIndexJob:
        """Queue a job that appends rows. Their numbers follow those of the rows that are there.

        The curvature stays as it was fitted; `report.staleness` says how far the rows have moved from it.

        Args:
            index: the index, or its name.
            rows: a data set, all of whose rows are appended, or its name; or `undue.Arrays`, which are registered
                first, as a version of `datasets/index-{id of the index}-rows`.

        Returns:
            The job; its result is the index with those rows.

        Raises:
            InvalidArgument: an argument is wrong, or the rows do not fit the model.
            NotFound: index or data set does not exist.
            FailedPrecondition: the data set is not READY, the index was not built (RESOURCE_NOT_READY), or a job builds
                or changes it already (INDEX_BUSY).
            JobFailed: arrays were refused when they were checked; the reason says why.
            Unavailable: the service cannot be reached.
        """
        name = resource_name("index", "indexes", index)
        datasets = AsyncDatasets(self._connection)
        sent = None
        if isinstance(rows, Arrays):
            sent = await datasets.register(f"index-{name.rpartition('/')[2]}-rows", rows)
        added = resource_name("rows", "datasets", rows if sent is None else sent)
        request = indexes_pb2.ExtendIndexRequest(name=name, dataset=added, request_id=str(uuid.uuid4()))
        try:
            job = await self._connection.call(self._connection.indexes.ExtendIndex, request)
        except (Unavailable, DeadlineExceeded):
            raise  # the job may have been queued
        except Error:
            if sent is not None:
                await datasets.delete(sent)
            raise
        return AsyncIndexJob(self._connection, job)

    async def erase(self, index: Index | str, *, rows: Iterable[int]) -> Index:
        """Take rows out of every later answer, at once. Their bytes leave the index's files with `compact`.

        The data set that they were registered with keeps them.

        Args:
            index: the index, or its name.
            rows: their numbers in the index, as `explain` tells them. One that was erased before stays so.

        Returns:
            The index without them.

        Raises:
            InvalidArgument: a row is out of range (ROW_OUT_OF_RANGE), or none would be left.
            NotFound: there is no such index.
            FailedPrecondition: it was not built.
            Unavailable: the service cannot be reached.
        """
        name = resource_name("index", "indexes", index)
        numbers = row_numbers("rows", rows, empty="is empty; name the rows that are to be erased")
        found = indexes_pb2.Index()
        for first in range(0, len(numbers), _ROWS_AT_ONCE):
            request = indexes_pb2.EraseRowsRequest(name=name, rows=numbers[first : first + _ROWS_AT_ONCE])
            found = await self._connection.call(self._connection.indexes.EraseRows, request)
        return _convert_indexes.index(found)

    async def compact(self, index: Index | str) -> AsyncIndexJob:
        """Queue a job that writes the index's files anew without the rows that were erased.

        Args:
            index: the index, or its name.

        Returns:
            The job; its result is the index.

        Raises:
            InvalidArgument: it is no index's name.
            NotFound: there is no such index.
            FailedPrecondition: it was not built, or a job builds or changes it already (INDEX_BUSY).
            Unavailable: the service cannot be reached.
        """
        name = resource_name("index", "indexes", index)
        request = indexes_pb2.CompactIndexRequest(name=name, request_id=str(uuid.uuid4()))
        job = await self._connection.call(self._connection.indexes.CompactIndex, request)
        return AsyncIndexJob(self._connection, job)

    async def set_alias(self, alias: Alias | str, index: Index | str) -> Alias:
        """Let an alias mean an index from now on: a call of `explain` is answered by the one or by the other.

        Args:
            alias: the alias, or its name: lower-case letters, digits and hyphens, starting with a letter.
            index: the index, or its name.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: there is no such index.
            FailedPrecondition: the index is not READY.
            Unavailable: the service cannot be reached.
        """
        means = indexes_pb2.Alias(
            name=resource_name("alias", "aliases", alias), index=resource_name("index", "indexes", index)
        )
        request = indexes_pb2.SetAliasRequest(alias=means)
        return _convert_indexes.alias(await self._connection.call(self._connection.indexes.SetAlias, request))

    async def alias(self, name: str) -> Alias:
        """Return an alias.

        Raises:
            InvalidArgument: it is no alias's name.
            NotFound: there is no such alias.
            Unavailable: the service cannot be reached.
        """
        request = indexes_pb2.GetAliasRequest(name=resource_name("name", "aliases", name))
        return _convert_indexes.alias(await self._connection.call(self._connection.indexes.GetAlias, request))

    async def aliases(self) -> AsyncIterator[Alias]:
        """Yield all aliases, by their names.

        Raises:
            Unavailable: the service cannot be reached.
        """
        request = indexes_pb2.ListAliasesRequest()
        async for message in all_pages(self._connection, self._connection.indexes.ListAliases, request, "aliases"):
            yield _convert_indexes.alias(cast(indexes_pb2.Alias, message))

    async def delete_alias(self, name: Alias | str) -> None:
        """Delete an alias; the index that it meant stays.

        Raises:
            InvalidArgument: it is no alias's name.
            NotFound: there is no such alias.
            Unavailable: the service cannot be reached.
        """
        request = indexes_pb2.DeleteAliasRequest(name=resource_name("name", "aliases", name))
        await self._connection.call(self._connection.indexes.DeleteAlias, request)
