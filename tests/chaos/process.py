"""The service as a process that is killed and started again, and what it leaves on the machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil

from undue.v1 import (
    datasets_pb2_grpc,
    indexes_pb2_grpc,
    jobs_pb2_grpc,
    models_pb2_grpc,
    server_info_pb2_grpc,
    uploads_pb2_grpc,
)

SERVE = [sys.executable, "-m", "undue_service.main", "serve"]
GONE_SECONDS = 10.0


class Service:
    """One data directory and one address, and at any time at most one process that serves them.

    Each process, and whatever it starts, bears the name of a folder of its own in its environment (TMPDIR, which
    runners inherit): so its orphans can be told from its successor's runners.
    """

    def __init__(self, root: Path, **settings: str) -> None:
        self.data, self.log = root / "data", root / "service.log"
        self._root, self._settings, self._starts = root, settings, 0
        self._log_start = 0
        self._socket = root / "socket"
        self._process: subprocess.Popen | None = None
        self._marks: list[Path] = []

    @property
    def running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    def start(self, **settings: str) -> None:
        """Start it, without waiting for anything."""
        assert self._process is None
        self._starts += 1
        mark = self._root / f"tmp-{self._starts}"
        mark.mkdir()
        self._marks.append(mark)
        environment = os.environ | {"UNDUE_METRICS_ADDRESS": "", "TMPDIR": str(mark)} | self._settings | settings
        command = [*SERVE, "--address", f"unix:{self._socket}", "--data-dir", str(self.data)]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        """SIGKILL the API process, and see every process that it had started go by itself."""
        self._process.kill()
        self._process.wait()
        self._process = None
        self.expect_no_orphans()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:  # a test that failed leaves no process either
            self._process.kill()
            self._process.wait()
            for process in self._processes():
                process.kill()

    def stop(self) -> None:
        """End it in good order."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(timeout=30) == 0
        self._process = None
        self.expect_no_orphans()

    def expect_no_orphans(self) -> None:
        """Wait until nothing is left of the process that ended last, and of those before it."""
        deadline = time.monotonic() + GONE_SECONDS
        while orphans := self._processes():
            assert time.monotonic() < deadline, f"still alive: {[process.cmdline() for process in orphans]}"
            time.sleep(0.02)

    def runners(self) -> list[psutil.Process]:
        """Return the processes that the API process has started."""
        try:
            return psutil.Process(self._process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def channel(self) -> "Channel":
        """Return a way to call it, whether it is there or not."""
        return Channel(f"unix:{self._socket}")

    def said(self, message: str, since_start: bool = False) -> list[dict]:
        """Return the lines of its log with this message."""
        text = self.log.read_bytes()[self._log_start if since_start else 0 :].decode(errors="replace")
        return [line for line in map(_json, text.splitlines()) if line.get("message") == message]

    def _processes(self) -> list[psutil.Process]:
        marks = {str(mark) for mark in self._marks}
        return [process for process in psutil.process_iter() if _environment(process).get("TMPDIR") in marks]


class Channel:
    """Stubs of every service."""

    def __init__(self, address: str) -> None:
        backoff = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.insecure_channel(address, [*backoff, ("grpc.max_receive_message_length", 64 << 20)])
        self.uploads = uploads_pb2_grpc.UploadServiceStub(self._channel)
        self.models = models_pb2_grpc.ModelServiceStub(self._channel)
        self.datasets = datasets_pb2_grpc.DatasetServiceStub(self._channel)
        self.jobs = jobs_pb2_grpc.JobServiceStub(self._channel)
        self.indexes = indexes_pb2_grpc.IndexServiceStub(self._channel)
        self.server = server_info_pb2_grpc.ServerServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def _json(line: str) -> dict:
    try:
        found = json.loads(line)
    except ValueError:
        return {}  # the last line of a process that was killed
    return found if isinstance(found, dict) else {}


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return {}
