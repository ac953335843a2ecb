"""The embedded service: a child process that ends with its parent.

The child listens on a Unix socket in a folder that only this user can enter. Two pipes join the two processes: the
child holds the read end of one and ends when its other end closes, however the parent went; on the other it reports
once, as a line of JSON, where it listens or why it cannot.
"""

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import ERRORS_BY_CODE, Error, FailedPrecondition, Internal, Unavailable, Unimplemented, invalid

if TYPE_CHECKING:
    from ._scratch import ScratchFolder

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_REPORT_BYTES = 1 << 20
_LOG_TAIL_BYTES = 4096


class EmbeddedService:
    """A service of one's own.

    Args:
        data_dir: where its state lives; a temporary folder, removed at the end, when None.

    Raises:
        FailedPrecondition: `undue-service` is not installed, or another service holds the folder (DATA_DIR_LOCKED).
        InvalidArgument: the folder cannot be made.
        Unavailable: the service did not report within two minutes.
        Internal: the service ended without a report.
        Unimplemented: this is no Unix.
    """

    def __init__(self, data_dir: str | os.PathLike[str] | None) -> None:
        if not _is_installed():
            text = "Client.local() needs the service in the same environment: pip install 'undue[local]'"
            raise FailedPrecondition(text, reason="SERVICE_NOT_INSTALLED")
        if os.name != "posix":
            raise Unimplemented(
                "Client.local() needs Unix sockets and pipes; run the service apart and use Client(address)"
            )
        from ._scratch import ScratchFolder  # locks as only Unix has them, where a plain Client must not need them

        with contextlib.ExitStack() as undo:
            scratch = ScratchFolder()
            undo.callback(scratch.remove)
            data = _data_folder(data_dir, scratch.path)
            log = data / "service.log"
            parent_read, parent_write = os.pipe()
            undo.callback(os.close, parent_write)
            process, ready = _spawn(scratch.path / "s", data, log, parent_read)
            undo.callback(_end, process)
            self.address = _await_address(process, ready, log)
            undo.pop_all()
        self._finalizer = weakref.finalize(self, _stop, os.getpid(), process, parent_write, scratch)
        _close_in_forked_children(self, parent_write)

    def stop(self) -> None:
        """Stop the service and wait until it has ended. Twice does nothing more."""
        self._finalizer()


def _is_installed() -> bool:
    return importlib.util.find_spec("undue_service") is not None


def _data_folder(data_dir: str | os.PathLike[str] | None, scratch: Path) -> Path:
    folder = scratch / "data" if data_dir is None else Path(data_dir).expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise invalid("data_dir", f"{folder} cannot be made: {error.strerror or error}") from None
    return folder


def _spawn(socket: Path, data: Path, log: Path, parent_read: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start the service; return it and the read end of the pipe on which it reports."""
    ready_read, ready_write = os.pipe()
    # -P: a file of the caller's working folder must not shadow a module of the service.
    command = [sys.executable, "-P", "-m", "undue_service.main", "serve", "--embedded", "--address", f"unix:{socket}"]
    command += ["--data-dir", str(data), "--parent-fd", str(parent_read), "--ready-fd", str(ready_write)]
    try:
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            process = subprocess.Popen(  # noqa: S603 (our own module, no shell)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(parent_read, ready_write),
                start_new_session=True,  # Ctrl-C is for the caller, who then closes the service in order
            )
    except OSError as error:
        os.close(ready_read)
        raise FailedPrecondition(f"the service cannot be started: {error}", reason="SERVICE_NOT_STARTED") from None
    finally:
        os.close(parent_read)
        os.close(ready_write)
    return process, ready_read


def _await_address(process: subprocess.Popen[bytes], ready: int, log: Path) -> str:
    """Return where the service listens, once it does."""
    with open(ready, "rb", buffering=0) as pipe:
        line = _read_line(pipe.fileno())
    if line is None:
        text = f"the service did not report within {_START_SECONDS:.0f} s; the end of its log:\n{_tail(log)}"
        raise Unavailable(text, reason="SERVICE_NOT_STARTED")
    try:
        report: dict[str, Any] = json.loads(line)
        if "error" in report:
            raise _reported(report["error"])
        return str(report["address"])
    except (ValueError, KeyError, TypeError):
        try:
            status = process.wait(timeout=_STOP_SECONDS)
            text = f"the service ended with status {status} before it was ready"
        except subprocess.TimeoutExpired:
            text = "the service reported nothing that can be read"
        raise Internal(f"{text}; the end of its log:\n{_tail(log)}", reason="SERVICE_NOT_STARTED") from None


def _read_line(descriptor: int) -> bytes | None:
    """Return what comes up to the end of the line or of the pipe; None when time runs out."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + _START_SECONDS
    line = b""
    while b"\n" not in line and len(line) < _REPORT_BYTES:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        line += piece
    return line


def _reported(error: dict[str, Any]) -> Error:
    cls = ERRORS_BY_CODE.get(str(error["code"]), Internal)
    metadata = {str(key): str(value) for key, value in dict(error.get("metadata") or {}).items()}
    return cls(str(error["message"]), reason=str(error["reason"]), metadata=metadata)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip() or "(empty)"
    except OSError as error:
        return f"({log} cannot be read: {error})"


def _stop(owner: int, process: subprocess.Popen[bytes], parent_write: int, scratch: "ScratchFolder") -> None:
    if os.getpid() != owner:
        return  # a forked child leaves its parent's service alone
    os.close(parent_write)
    _end(process, ask_first=False)
    scratch.remove()


def _end(process: subprocess.Popen[bytes], ask_first: bool = True) -> None:
    """Wait for a process that was told to end, with growing emphasis."""
    if ask_first:
        process.terminate()
    for insist in (process.terminate, process.kill):
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            insist()
        else:
            return
    process.wait()


def _close_in_forked_children(service: EmbeddedService, parent_write: int) -> None:
    """Keep a forked child's copy of the pipe from keeping the service alive after its parent."""
    alive = weakref.ref(service)

    def close() -> None:
        held = alive()
        if held is not None and held._finalizer.detach() is not None:
            os.close(parent_write)

    os.register_at_fork(after_in_child=close)
