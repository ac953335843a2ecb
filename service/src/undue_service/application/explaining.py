"""Explain live predictions: gather concurrent calls of an index into batches, and give each caller its own answer."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from undue_service.domain.errors import Error, Internal, NotFound, Reason, ResourceExhausted, Unavailable
from undue_service.domain.indexes import Index
from undue_service.domain.jobs import Failure
from undue_service.domain.names import new_token
from undue_service.domain.reports import ExplainReport, TaskResult
from undue_service.domain.results import Answer, Questions
from undue_service.domain.tasks import ExplainCall

from .batches import Asked, Explained, fit, row_bytes, take
from .indexes import Indexes
from .planning import Planner
from .ports import Attachments, ExplainMetrics, RunnerLostError, Work, WorkerPool
from .serving import ServeLane

log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Calls that wait at once, of all tenants."""
MAX_WAITING_BYTES = 256 << 20
"""Of their rows."""
ATTEMPTS = 2
"""A runner that was lost may have been lost to another caller's rows: the second time each is asked by itself."""
EXPLAIN_SECONDS = 120.0
"""A runner that works on one batch for longer hangs."""
EXACT_SECONDS = 600.0
"""So does one that scores every row which could be listed."""
OPEN_SECONDS = 600.0
WARM_INDEXES = 16
"""As many are opened after a start, if there is memory for them."""
MAX_KNOWN = 10_000
"""Of names of indexes, so many are remembered."""
STAGES = ("gradient", "screen", "rescore", "instances")
"""That a runner times."""
STOPPING = "the service is stopping; try again later"


@dataclass(eq=False, slots=True)
class _Line:
    """Who waits for one index, by the name that they called it."""

    tenant: str
    name: str
    waiting: deque[Asked] = field(default_factory=deque)


class Explainer:
    """Use case of Explain. A runner of the serve lane holds the indexes: this process never does.

    A call goes at once where none of its line is at work; what comes meanwhile is the next batch. For one event loop.
    """

    def __init__(
        self,
        indexes: Indexes,
        planner: Planner,
        pool: WorkerPool,
        lane: ServeLane,
        attachments: Attachments,
        metrics: ExplainMetrics,
        window_seconds: float = 0.0,
    ) -> None:
        self._indexes = indexes
        self._planner = planner
        self._pool = pool
        self._lane = lane
        self._attachments = attachments
        self._metrics = metrics
        self._window_seconds = window_seconds
        self._lines: dict[tuple[str, str], _Line] = {}
        self._row_bytes: dict[tuple[str, str], float] = {}  # of the instance of a row, as far as it is known
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = self._waiting_bytes = 0

    async def explain(self, tenant: str, name: str, questions: Questions, call: ExplainCall) -> Explained:
        """Return what one call gets, the index that answered, and what is to be said of the batch.

        A caller that goes away while it waits has nothing run for it; later, it keeps nobody else from an answer.

        Raises:
            Error: what is wrong with this call's rows, as the runner says it.
            FailedPrecondition: RESOURCE_NOT_READY; INDEX_STALE, INDEX_DAMAGED or DATASET_CHANGED.
            InvalidArgument: INVALID_NAME.
            NotFound: RESOURCE_NOT_FOUND.
            ResourceExhausted: TOO_MANY_REQUESTS where `MAX_WAITING` calls wait; OUT_OF_MEMORY; INVALID_FIELD where the
                answer is too large.
            Unavailable: RUNNER_LOST.
        """
        asked: Asked = Asked(questions, call, asyncio.get_running_loop().create_future())
        self._admit(asked)
        self._line(tenant, name).waiting.append(asked)
        try:
            return await asked.answer
        finally:
            self._waiting -= 1
            self._waiting_bytes -= asked.size

    async def warm(self, serve_bytes: int) -> None:
        """Open the indexes that were explained from last, as many as there is memory for."""
        for index in await asyncio.to_thread(self._indexes.recent, WARM_INDEXES):
            needed = index.report.resident_bytes if index.report is not None else 0
            if self._pool.status().resident_bytes + needed > serve_bytes * len(self._pool.status().devices):
                continue
            key = (index.tenant, index.name)
            try:
                async with self._lane.turn(key, self._lane.home(key)) as slot:
                    await self._open(index, slot)
            except (Error, RunnerLostError) as error:
                log.warning("an index could not be opened", extra={"resource": index.name, "cause": str(error)})
            else:
                log.info("index opened", extra={"resource": index.name})

    async def close(self) -> None:
        """Stop; who still waits is told so."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in self._lines.values():
            _fail(line.waiting, Unavailable(Reason.RUNNER_UNAVAILABLE, STOPPING))

    def _admit(self, asked: Asked) -> None:
        if self._waiting >= MAX_WAITING or self._waiting_bytes + asked.size > MAX_WAITING_BYTES:
            text = (
                f"{self._waiting} calls with {self._waiting_bytes >> 20} MiB of rows wait for an explanation already: "
                "try again later, or ask about several rows with each call"
            )
            raise ResourceExhausted(Reason.TOO_MANY_REQUESTS, text, metadata={"limit": str(MAX_WAITING)})
        self._waiting += 1
        self._waiting_bytes += asked.size

    def _line(self, tenant: str, name: str) -> _Line:
        """Return the line of an index, which is served as long as anybody stands in it."""
        line = self._lines.get((tenant, name))
        if line is None:
            line = self._lines[tenant, name] = _Line(tenant, name)
            self._keep(asyncio.create_task(self._serve(line)))
        return line

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)  # the loop alone would let go of it
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, line: _Line) -> None:
        """Ask for a batch after the other until nobody waits."""
        key = (line.tenant, line.name)
        while True:
            async with self._lane.turn(key, self._lane.home(key)) as slot:
                if self._window_seconds:
                    await asyncio.sleep(self._window_seconds)
                batch = take(line.waiting, self._row_bytes.get(key, 0.0))
                if not batch:
                    del self._lines[key]
                    return
                taken = time.perf_counter()
                for one in batch:
                    self._metrics.explain_stage("queue", taken - one.since)
                try:
                    index, calls, result = await self._ask(line, batch, slot)
                except BaseException as error:
                    self._failed(line, batch, error)
                    if not isinstance(error, Exception):
                        raise
                    continue
            # Outside the turn: the runner goes on while what it said is read.
            self._keep(asyncio.create_task(self._deliver(line, batch, index, calls, result)))

    async def _ask(
        self, line: _Line, batch: Sequence[Asked], slot: int
    ) -> tuple[Index, tuple[ExplainCall, ...], TaskResult]:
        calls = tuple(one.call for one in batch)
        attachment = self._attachments.encode_questions([one.questions for one in batch])
        # Read when the batch is made: what was erased before any of its calls came is in no answer.
        index = await asyncio.to_thread(self._indexes.resolve, line.tenant, "index", line.name)
        work = self._planner.plan_explain(line.tenant, new_token(), index, calls, attachment)
        limit = EXACT_SECONDS if any(call.exact for call in calls) else EXPLAIN_SECONDS
        result = await self._run(work, slot, limit)
        if not _report(result).resident:
            try:
                await self._open(index, slot)
            except NotFound:
                # A job has changed it since, and what it was made of is gone.
                index = await asyncio.to_thread(self._indexes.resolve, line.tenant, "index", line.name)
                await self._open(index, slot)
            work = self._planner.plan_explain(line.tenant, new_token(), index, calls, attachment)
            result = await self._run(work, slot, limit)
            if not _report(result).resident:
                raise RunnerLostError("the runner does not hold the index that it has opened", "nonsense")
        return index, calls, result

    async def _open(self, index: Index, slot: int) -> None:
        work = await asyncio.to_thread(self._planner.plan_open, index.tenant, new_token(), index)
        try:
            await self._run(work, slot, OPEN_SECONDS)
        finally:
            await asyncio.to_thread(self._planner.discard, work)

    async def _run(self, work: Work, slot: int, seconds: float) -> TaskResult:
        try:
            async with asyncio.timeout(seconds):
                result = await self._pool.run(replace(work, slot=slot), lambda _: None)
        except TimeoutError as error:
            raise RunnerLostError(f"the runner worked for more than {seconds:g} s", "silent") from error
        self._planner.check(work, result)
        return result

    async def _deliver(
        self, line: _Line, batch: Sequence[Asked], index: Index, calls: tuple[ExplainCall, ...], result: TaskResult
    ) -> None:
        """Hand out what a runner said of a batch."""
        report = _report(result)
        try:
            answers = await self._read(batch, index, calls, result)
        except RunnerLostError as lost:
            self._failed(line, batch, lost)
            return
        except Exception as error:  # noqa: BLE001  the callers would wait for ever
            self._failed(line, batch, error)
            return
        self._metrics.explain_batch(len(batch))
        for stage in STAGES:
            if stage in report.stage_seconds:
                self._metrics.explain_stage(stage, max(0.0, report.stage_seconds[stage]))
        self._note_sizes(line, answers.values())
        for place, one in enumerate(batch):
            if place in answers:
                self._metrics.explain_stage("total", time.perf_counter() - one.since)
                if not one.answer.done():
                    one.answer.set_result((answers[place], index, report))
                continue
            failure = report.failures[place]
            if failure.reason == Reason.TOO_MANY_REQUESTS and len(batch) > 1:  # the others' instances left no room
                self._again(line, [one])
            else:
                metadata = {key[:100]: value[:1000] for key, value in list(failure.metadata.items())[:20]}
                _fail([one], Failure(failure.code, failure.reason, failure.message[:10_000], metadata).error())
        try:
            await asyncio.to_thread(self._indexes.touch, index)
        except Error as error:
            log.warning("the use of an index could not be noted", extra={"cause": error.message})

    async def _read(
        self, batch: Sequence[Asked], index: Index, calls: tuple[ExplainCall, ...], result: TaskResult
    ) -> dict[int, Answer]:
        """Return the answers of a batch by the places of their calls.

        Raises:
            RunnerLostError: they are not answers of such calls.
        """
        decode, data, failures = self._attachments.decode_answers, result.attachment, _report(result).failures
        try:
            # A thread takes longer to start than one answer to read.
            answers = decode(data, calls) if len(batch) == 1 else await asyncio.to_thread(decode, data, calls)
        except ValueError as error:
            raise RunnerLostError(f"the runner sent answers that do not parse: {error}", "nonsense") from error
        if not fit(answers, failures, batch, len(index.datasets)):
            raise RunnerLostError("the runner sent answers to other questions", "nonsense")
        return answers

    def _note_sizes(self, line: _Line, answers: Iterable[Answer]) -> None:
        for size in (size for answer in answers if (size := row_bytes(answer))):
            if len(self._row_bytes) >= MAX_KNOWN:
                self._row_bytes.clear()
            self._row_bytes[line.tenant, line.name] = size
            return

    def _failed(self, line: _Line, batch: Sequence[Asked], error: BaseException) -> None:
        """Say that a batch went wrong, or ask for its calls one by one where one of them may have been at fault."""
        match error:
            case RunnerLostError():
                log.warning("runner lost", extra={"resource": line.name, "calls": len(batch), "cause": str(error)})
                for one in batch:
                    one.losses += 1
                reason = Reason.RUNNER_UNAVAILABLE if error.reason == "start" else Reason.RUNNER_LOST
                text = f"the runner that explained from {line.name} was lost: {error}; try again"
                _fail([one for one in batch if one.losses >= ATTEMPTS], Unavailable(reason, text))
                self._again(line, [one for one in batch if one.losses < ATTEMPTS])
            case ResourceExhausted() | Internal() if len(batch) > 1:
                self._again(line, batch)
            case Error():
                _fail(batch, error)
            case asyncio.CancelledError():
                _fail(batch, Unavailable(Reason.RUNNER_UNAVAILABLE, STOPPING))
            case _:
                log.error("unexpected error", exc_info=error, extra={"resource": line.name})
                _fail(batch, Internal(Reason.INTERNAL, "a fault of the service; its log has the trace"))

    def _again(self, line: _Line, calls: Sequence[Asked]) -> None:
        """Let calls be asked next, each by itself."""
        if not calls:
            return
        for one in calls:
            one.alone = True
        self._line(line.tenant, line.name).waiting.extendleft(reversed(calls))


def _fail(calls: Iterable[Asked], error: Error) -> None:
    for one in calls:
        if not one.answer.done():
            one.answer.set_exception(error)


def _report(result: TaskResult) -> ExplainReport:
    assert isinstance(result.report, ExplainReport)  # noqa: S101  the planner has compared it with the task
    return result.report
