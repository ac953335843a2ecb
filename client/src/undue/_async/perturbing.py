"""Perturb jobs: read what the attacks did, and on demand the rows that they poisoned."""

from undue import _convert_jobs, _convert_perturbing
from undue._errors import Unavailable
from undue._grpc_aio import sleep
from undue._perturb_results import PerturbResult, Poisoned
from undue._retry import FOLLOW
from undue.v1 import perturbation_pb2

from .connection import AsyncConnection, pages
from .jobs import AsyncJob

_PAGE_ROWS = 1000


class AsyncPerturbJob(AsyncJob):
    """A job that perturbs training rows so that predictions flip."""

    async def result(self, timeout: float | None = None, progress: bool | None = None) -> PerturbResult:
        """Wait for the job and return what it found.

        Args:
            timeout: seconds to wait; None waits for ever. The job goes on either way.
            progress: whether to show a bar on standard error; None shows it on a terminal.

        Raises:
            JobFailed: it failed; reason and metadata say why.
            Cancelled: somebody cancelled it.
            DeadlineExceeded: it has not ended within the timeout.
            Unavailable: the service stayed away.
        """
        await self.wait(timeout, progress)
        request = perturbation_pb2.ListPerturbationsRequest(parent=self.name, page_size=_PAGE_ROWS)
        found = []
        async for page in pages(self._connection, self._connection.jobs.ListPerturbations, request):
            found += [_convert_perturbing.attack(each) for each in page.perturbations]
        return _convert_perturbing.perturb_result(
            self._message.perturbation,
            found,
            _convert_jobs.diagnostics(self._message.diagnostics),
            AsyncPoisonedRows(self._connection, self.name),
        )


class AsyncPoisonedRows:
    """The rows that the attacks of one job poisoned, by attack; what was read once is kept."""

    def __init__(self, connection: AsyncConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._known: dict[int, Poisoned] = {}

    async def get(self, attack: int) -> Poisoned:
        """Return those of an attack; a broken stream is read again.

        Raises:
            NotFound: the job has been deleted.
            Unavailable: the service cannot be reached.
        """
        pauses = FOLLOW.pauses()
        while attack not in self._known:
            try:
                request = perturbation_pb2.ReadPoisonedRowsRequest(name=self._name, attacks=[attack])
                stream = self._connection.download(self._connection.jobs.ReadPoisonedRows, request)
                messages = [message async for message in stream]
            except Unavailable as error:
                pause = next(pauses, None)
                if pause is None:
                    raise error
                await sleep(pause)
            else:
                self._known[attack] = _convert_perturbing.poisoned(self._name, attack, messages)
        return self._known[attack]
