"""The client: where everything starts."""

import os
from types import TracebackType
from typing import Any, Self

from undue import _convert, _convert_jobs, _specs
from undue._embedded import EmbeddedService
from undue._explain_results import ExplainResult
from undue._grpc_aio import in_thread
from undue._indexes import Alias, Index
from undue._inputs import Measurement
from undue._resources import Dataset, Estimate, Model, ServerInfo
from undue.v1 import jobs_pb2, server_info_pb2

from .connection import AsyncConnection
from .explaining import explain
from .group_calls import AsyncGroupCalls
from .indexes import AsyncIndexes
from .influence_calls import AsyncInfluenceCalls
from .kinds import AsyncJobs
from .mislabel_calls import AsyncMislabelCalls
from .perturb_calls import AsyncPerturbCalls
from .registries import AsyncDatasets, AsyncModels
from .retraining_calls import AsyncRetrainingCalls


class AsyncClient(AsyncInfluenceCalls, AsyncRetrainingCalls, AsyncPerturbCalls, AsyncMislabelCalls, AsyncGroupCalls):
    """A connection to a service; close it, or use it as a context manager.

    Calls that meet an unavailable service are made again for a few seconds, watches for about a minute; a request that
    was sent twice counts once. A blocking client may be shared by threads, an asyncio client by the tasks of its event
    loop. None survives a fork: make one in each process.

    Args:
        address: "host:port" or "unix:/path".

    Attributes:
        models: register, get and list models.
        datasets: register, get and list data sets.
        indexes: build, change, get and list indexes.
        jobs: get and list jobs.

    Raises:
        InvalidArgument: the address is empty.
    """

    def __init__(self, address: str) -> None:
        super().__init__(AsyncConnection(address))
        self.models = AsyncModels(self._connection)
        self.datasets = AsyncDatasets(self._connection)
        self.indexes = AsyncIndexes(self._connection)
        self.jobs = AsyncJobs(self._connection)
        self._service: EmbeddedService | None = None

    @classmethod
    async def local(cls, data_dir: str | os.PathLike[str] | None = None) -> Self:
        """Start an embedded service and return its client. The service ends with `close`, or with this process.

        Args:
            data_dir: folder that keeps its state, held by one service at a time; None is a temporary folder that goes
                with the service.

        Raises:
            FailedPrecondition: `undue-service` is not installed, or another service holds the folder (DATA_DIR_LOCKED).
            InvalidArgument: the folder cannot be made.
            Internal: the service could not start; the message has the end of its log.
            Unavailable: the service did not start in time.
        """
        service = await in_thread(EmbeddedService, data_dir)
        client = cls(service.address)
        client._service = service
        return client

    @property
    def address(self) -> str:
        """Where the service listens; another process of this user may connect to an embedded one there."""
        return self._connection.address

    async def explain(
        self,
        index: Index | Alias | str,
        inputs: object,
        targets: object = None,
        *,
        measurement: Measurement = "loss",
        top_k: int = 10,
        exact: bool = False,
        with_instances: bool = True,
        timeout: float | None = None,
    ) -> ExplainResult:
        """Say which training rows made the model say what it says of some rows, from an index that is held in memory.

        Positive means that removing the training row raises the row's cost: it is helpful. Rows beyond 256, or 4 MiB,
        are asked about in several calls, of the same index; the first call after a while waits until it is read.

        Args:
            index: an index, an alias, or a name of either; a bare word is an alias.
            inputs: one array, or a dict of input name to array; rows first: `x[None]` for a single one.
            targets: labels or numbers, one a row; None explains the predicted label, or a regression's prediction
                itself.
            measurement: which cost, as in `influence`.
            top_k: how many helpful and how many harmful rows to list, 1,000 at most.
            exact: guarantee the lists, by scanning every row that could be in them.
            with_instances: let the listed rows come with the answer; else `.example` reads each on demand.
            timeout: seconds that all calls may take together; None is a minute for each.

        Returns:
            One explanation for each row, as a sequence; `.recall` says how complete the lists are.

        Raises:
            InvalidArgument: an argument is wrong, or the rows do not fit the model.
            NotFound: there is no such index or alias.
            FailedPrecondition: the index is not READY, or not of this model and data any more (INDEX_STALE,
                DATASET_CHANGED), or damaged (INDEX_DAMAGED).
            QuotaExceeded: too many callers wait (TOO_MANY_REQUESTS), or the index does not fit the memory.
            DeadlineExceeded: no answer came within the timeout.
            Unavailable: the service cannot be reached.
        """
        return await explain(
            self._connection, index, inputs, targets, measurement, top_k, exact, with_instances, timeout
        )

    async def estimate(
        self, model: Model | str, *, train: Dataset | str, test: Dataset | str | None = None, **arguments: Any
    ) -> Estimate:
        """Say what a job would take, without queueing it: the request is checked as if it were.

        Args:
            model: the model, or its name; registered with a sample, on which its speed was measured.
            train: the data set that it was trained on.
            test: as in `influence`; None is for `self_influence`, `leverage` and `suspects`.
            **arguments: the other arguments of `influence`, or those of `retrain`, `mislabels` or `perturb` if one is
                among them that it alone has; with `kind`, those of `fidelity`; with `by`, those of `group_influence`;
                with `other`, those of `compare`; without `test`, those of `self_influence` or, with `dfbeta`, of
                `leverage`, or, with `rankings`, of `suspects`.

        Raises:
            InvalidArgument: an argument is wrong.
            NotFound: model or data set does not exist.
            FailedPrecondition: model or data set is not READY, or the model was registered without a sample.
            Unavailable: the service cannot be reached.
        """
        request = jobs_pb2.CreateJobRequest(job=_specs.any_job(model, train, test, arguments), validate_only=True)
        return _convert_jobs.estimate((await self._connection.call(self._connection.jobs.CreateJob, request)).estimate)

    async def server_info(self) -> ServerInfo:
        """Return versions, methods, limits and devices of the service.

        Raises:
            Unavailable: the service cannot be reached.
        """
        request = server_info_pb2.GetServerInfoRequest()
        return _convert.server_info(await self._connection.call(self._connection.server.GetServerInfo, request))

    async def close(self) -> None:
        """Close the connection, and stop an embedded service. Twice does nothing more."""
        await self._connection.close()
        if self._service is not None:
            await in_thread(self._service.stop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"
