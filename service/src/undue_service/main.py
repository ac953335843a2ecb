"""The composition root, and the command line `undue-service`. The only place that wires."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from . import logs
from .adapters.architectures import installed
from .adapters.artifacts import LocalArtifacts, LocalStaging
from .adapters.clock import SystemClock
from .adapters.data_dir import DataDir
from .adapters.locating import LocalLocator
from .adapters.metrics import PrometheusMetrics
from .adapters.observing import Observing
from .adapters.pool.local import LocalPool
from .adapters.pool.slots import find_devices
from .adapters.sql.aliases import SqlAliasStore
from .adapters.sql.database import THREADS, connect, migrate
from .adapters.sql.erasures import SqlErasureStore
from .adapters.sql.indexes import SqlIndexStore
from .adapters.sql.inventory import SqlInventory
from .adapters.sql.jobs import SqlJobStore
from .adapters.sql.recent import SqlRecentIndexes
from .adapters.sql.registry import SqlRegistry
from .adapters.sql.uploads import SqlUploadStore
from .application.changes import Changes
from .application.deletion import Deletions
from .application.explaining import Explainer
from .application.index_tasks import IndexTasks
from .application.indexes import Indexes
from .application.instances import InstanceReader
from .application.jobs import Jobs
from .application.perturbations import Perturbations
from .application.planning import Planner
from .application.ports import RunnerLostError
from .application.registration import Registrations
from .application.results import Results
from .application.retention import Retention
from .application.scheduler import Scheduler
from .application.serving import ServeLane
from .application.superseding import Superseding
from .application.uploads import Uploads
from .domain.architectures import Architectures
from .domain.errors import Error, InvalidArgument, Reason, ResourceExhausted, Unavailable
from .settings import Settings
from .transport.server import start_server
from .transport.servicers import UseCases
from .wire import attachments
from .wire.perturbations import SafetensorsPerturbations
from .wire.results import SafetensorsResults

log = logging.getLogger(__name__)

STOP_SECONDS = 2.0
"""How long calls in flight may take to end after the service was told to stop."""


@asynccontextmanager
async def service(settings: Settings, *, working: bool = True) -> AsyncIterator[str]:
    """Run the whole service while the context lasts, and give the address it is bound to.

    Where it is not `working` it takes calls but leaves jobs and what could be cleaned up alone.

    Raises:
        Error: the data directory is held by another service, or storage or the address cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        data = DataDir(settings.data_dir)
        stack.callback(data.release)
        engine = connect(settings.database)
        stack.callback(engine.dispose)
        migrate(engine)

        clock, changes, metrics = SystemClock(), Changes(), PrometheusMetrics()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="undue"))
        changes.bind(loop)
        jobs, artifacts, staging = SqlJobStore(engine), LocalArtifacts(data.path), LocalStaging(data.path)
        pool = _pool(settings, metrics)
        stack.push_async_callback(pool.close)

        uploads = Uploads(SqlUploadStore(engine), artifacts, staging, clock, settings.max_upload_bytes)
        registry, locator = SqlRegistry(engine), LocalLocator(settings.dataset_roots, private=data.path)
        allowed = Architectures.of_setting(settings.architectures, installed())
        registrations = Registrations(registry, artifacts, changes, metrics, clock, locator, allowed)
        job_cases = Jobs(jobs, registrations, changes, metrics, clock, settings.block_bytes)
        index_store, erasures = SqlIndexStore(engine), SqlErasureStore(engine)
        reader = SafetensorsResults()
        planner = Planner(registrations, artifacts, staging, IndexTasks(registrations, index_store, erasures))
        results = Results(job_cases, artifacts, reader)
        perturbations = Perturbations(results, SafetensorsPerturbations())
        lane = ServeLane(len(pool.status().devices))
        instances = InstanceReader(registrations, planner, pool, lane, reader)
        upload_ttl = timedelta(seconds=settings.upload_ttl_seconds)
        retention = Retention(SqlInventory(engine), artifacts, staging, clock, upload_ttl)
        superseding = Superseding(jobs, index_store, staging, retention)
        scheduler = Scheduler(jobs, planner, pool, changes, metrics, clock, superseding.attempted)
        deletions = Deletions(registry, jobs, retention, changes, metrics, clock)
        indexes = Indexes(
            index_store,
            erasures,
            SqlAliasStore(engine),
            SqlRecentIndexes(engine),
            registrations,
            superseding,
            changes,
            metrics,
            clock,
            settings.block_bytes,
        )
        window = settings.explain_window_ms / 1000
        explainer = Explainer(indexes, planner, pool, lane, attachments, metrics, window)
        stack.push_async_callback(explainer.close)
        if working and not settings.database_url:
            _take_over(jobs, staging)
        alone_since = None if settings.database_url else data.held_since

        server, address = await start_server(
            UseCases(
                uploads,
                registrations,
                job_cases,
                results,
                perturbations,
                deletions,
                instances,
                indexes,
                explainer,
                pool,
            ),
            metrics,
            settings.grpc_address,
            with_reflection=settings.reflection,
        )
        stack.push_async_callback(server.stop, STOP_SECONDS)
        parts: list[Coroutine[Any, Any, None]] = []
        if working:
            warm = explainer.warm(settings.serve_bytes)
            parts = [scheduler.run(), pool.warm(), warm, retention.run(alone_since)]
        tasks = [asyncio.create_task(one) for one in parts]
        for task in tasks:
            task.add_done_callback(_log_failure)
            stack.push_async_callback(_cancel, task)
        metrics.watch(jobs.unfinished, pool.status)
        if settings.metrics_address:
            ready = lambda: bool(jobs.unfinished()) and not any(task.done() for task in tasks[:1])  # noqa: E731
            observing = Observing(settings.metrics_address, metrics.registry, ready)
            stack.callback(observing.close)
            log.info("observing", extra={"address": observing.address})
        log.info("serving", extra={"address": address, "data_dir": str(data.path), "devices": pool.status().devices})
        yield address


async def serve(settings: Settings, parent: int | None, ready: int | None) -> None:
    """Serve until a signal comes or, where there is a parent, until it closes its end of the pipe."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is not None:

        def parent_gone() -> None:
            loop.remove_reader(parent)
            stop.set()

        loop.add_reader(parent, parent_gone)
    async with service(settings) as address:
        if ready is not None:
            _say(ready, {"address": address})
        await stop.wait()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    ready = getattr(options, "ready_fd", None)
    try:
        settings = _settings(options)
        logs.configure(settings.log_level)
        match options.command:
            case "serve":
                asyncio.run(serve(settings, options.parent_fd, ready))
            case "migrate":
                _migrate(settings)
            case "check":
                asyncio.run(_check(settings))
    except Error as error:
        if ready is not None:
            _say(ready, {"error": {"code": error.code, "reason": error.reason, "message": error.message}})
        print(f"undue-service: {error}", file=sys.stderr)  # noqa: T201  the command line's answer
        return 1
    return 0


def _pool(settings: Settings, metrics: PrometheusMetrics) -> LocalPool:
    devices = find_devices(settings.devices)
    return LocalPool(devices, metrics, block_bytes=settings.block_bytes, serve_bytes=settings.serve_bytes)


def _take_over(jobs: SqlJobStore, staging: LocalStaging) -> None:
    """Let what the last holder of the data directory had in hand go on at once: the directory is locked, so it is gone.

    Where the disk is too full to note that, its leases run out by themselves: a full disk must not keep a service from
    starting in which things can be deleted.
    """
    staging.sweep()
    try:
        jobs.expire_leases()
    except ResourceExhausted as error:
        log.warning("leases are left to run out", extra={"cause": error.message})


def _migrate(settings: Settings) -> None:
    data = DataDir(settings.data_dir) if not settings.database_url else None
    engine = connect(settings.database)
    migrate(engine)
    engine.dispose()
    if data is not None:
        data.release()


async def _check(settings: Settings) -> None:
    """Start everything once, a runner included, and say what was found."""
    anywhere = settings.model_copy(update={"grpc_address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0"})
    async with service(anywhere, working=False):
        pool = _pool(settings, PrometheusMetrics())
        try:
            await pool.warm()
            found = pool.status()
        except RunnerLostError as lost:
            text = f"{lost}: is undue-service installed with its extra [runner]?"
            raise Unavailable(Reason.RUNNER_UNAVAILABLE, text) from lost
        finally:
            await pool.close()
    facts = {
        "devices": found.devices,
        "libraries": dict(found.libraries),
        "data_dir": str(settings.data_dir.resolve()),
        "architectures": Architectures.of_setting(settings.architectures, installed()).allowed,
        "dataset_roots": {str(root): "a folder" if root.is_dir() else "no folder" for root in settings.dataset_roots},
    }
    print(json.dumps(facts, indent=2))  # noqa: T201  the command's answer


def _settings(options: argparse.Namespace) -> Settings:
    given: dict[str, Any] = {"grpc_address": options.address, "data_dir": options.data_dir}
    if getattr(options, "embedded", False):
        given["metrics_address"] = ""  # its owner asks the client; several may run at once
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except (ValidationError, ValueError) as error:
        text = (
            "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise InvalidArgument(Reason.SETTINGS_INVALID, text) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="undue-service", description="The undue model-auditing service.")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "serve": "run the service",
        "migrate": "bring the database to this version",
        "check": "start everything once, a runner included, and say what was found",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--address", help="host:port or unix:path (UNDUE_GRPC_ADDRESS)")
        command.add_argument("--data-dir", type=Path, help="where state and artifacts are kept (UNDUE_DATA_DIR)")
    serve_command = commands.choices["serve"]
    serve_command.add_argument(
        "--embedded", action="store_true", help="this service belongs to the process that started it"
    )
    serve_command.add_argument("--parent-fd", type=int, help="stop when this pipe is closed")
    serve_command.add_argument("--ready-fd", type=int, help="write one line of JSON here when calls are taken")
    return parser


def _say(descriptor: int, message: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "w") as pipe:
        pipe.write(json.dumps(message) + "\n")


def _log_failure(task: "asyncio.Task[None]") -> None:
    failure = None if task.cancelled() else task.exception()
    if isinstance(failure, RunnerLostError):
        log.warning("no runner could be started; jobs will try again", extra={"cause": str(failure)})
    elif failure is not None:
        log.error("a part of the service has failed", exc_info=failure)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
