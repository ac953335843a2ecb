"""The embedded service's life and death, with a stand-in that keeps the same protocol with its parent."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import undue
from undue import _embedded
from undue._embedded import EmbeddedService

STAND_IN = """
import argparse, grpc, json, os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from undue.v1 import server_info_pb2 as pb, server_info_pb2_grpc as pb_grpc

parser = argparse.ArgumentParser()
parser.add_argument("command")
parser.add_argument("--embedded", action="store_true")
for name in ("--address", "--data-dir"):
    parser.add_argument(name)
for name in ("--parent-fd", "--ready-fd"):
    parser.add_argument(name, type=int)
options = parser.parse_args()
mode = os.environ.get("UNDUE_STAND_IN", "serve")

def say(line):
    with os.fdopen(options.ready_fd, "w") as pipe:
        pipe.write(line)

print("starting", flush=True)
if mode == "crash":
    sys.exit("no such device")
if mode == "refuse":
    error = {"code": "FAILED_PRECONDITION", "reason": "DATA_DIR_LOCKED", "message": "held by 7"}
    say(json.dumps({"error": error}) + "\\n")
    sys.exit(1)
if mode == "babble":
    say("hello\\n")
    sys.exit(3)
if mode == "hang":
    time.sleep(60)
signal.signal(signal.SIGINT, signal.SIG_DFL)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

class Server(pb_grpc.ServerServiceServicer):
    def GetServerInfo(self, request, context):
        facts = {"pid": str(os.getpid()), "data_dir": options.data_dir, "cwd_on_path": str(os.getcwd() in sys.path)}
        return pb.ServerInfo(version="embedded", libraries=facts)

server = grpc.server(ThreadPoolExecutor(2))
pb_grpc.add_ServerServiceServicer_to_server(Server(), server)
assert server.add_insecure_port(options.address)
server.start()
say(json.dumps({"address": options.address}) + "\\n")
os.read(options.parent_fd, 1)
open(os.path.join(options.data_dir, "stopped"), "w").close()
if mode == "stubborn":
    time.sleep(60)
server.stop(None).wait()
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch) -> None:
    package = tmp_path / "fake" / "undue_service"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "main.py").write_text(STAND_IN)
    ours = str(Path(undue.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), ours]))
    monkeypatch.delenv("UNDUE_STAND_IN", raising=False)
    monkeypatch.setattr(_embedded, "_is_installed", lambda: True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_end(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def facts(client: undue.Client) -> tuple[int, Path]:
    libraries = client.server_info().libraries
    assert libraries["cwd_on_path"] == "False"
    return int(libraries["pid"]), Path(libraries["data_dir"])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_service_of_ones_own_comes_and_goes() -> None:
    with undue.Client.local() as client:
        pid, data = facts(client)
        socket = Path(client.address.removeprefix("unix:"))
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert data.is_relative_to(socket.parent)
    assert not alive(pid)
    assert not socket.parent.exists()


def test_a_data_dir_is_kept_and_has_the_log(tmp_path) -> None:
    with undue.Client.local(tmp_path / "deep" / "state") as client:
        pid, data = facts(client)
    assert data == tmp_path / "deep" / "state"
    assert not alive(pid)
    assert (data / "stopped").exists()  # in order, not by a signal
    assert "starting" in (data / "service.log").read_text()
    assert (data / "service.log").stat().st_mode & 0o077 == 0


def test_closing_twice_and_without_with(tmp_path) -> None:
    client = undue.Client.local(tmp_path)
    pid, _ = facts(client)
    client.close()
    client.close()
    assert not alive(pid)
    with pytest.raises(undue.FailedPrecondition):
        client.server_info()


def test_no_descriptor_and_no_folder_is_left(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    EmbeddedService(tmp_path / "warm-up").stop()
    before = descriptors()
    for mode in ("serve", "crash", "refuse", "serve"):
        monkeypatch.setenv("UNDUE_STAND_IN", mode)
        try:
            EmbeddedService(None).stop()
        except undue.Error:
            assert mode in ("crash", "refuse")
    assert descriptors() == before
    assert list(tmp_path.glob("undue-*")) == []


def test_a_client_that_is_forgotten_stops_its_service(tmp_path) -> None:
    service = EmbeddedService(tmp_path)
    del service
    assert (tmp_path / "stopped").exists()


def script(text: str, **options) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


START = """
    import undue, os, sys, time, signal

    client = undue.Client.local(sys.argv[1] if len(sys.argv) > 1 else None)
    print(client.server_info().libraries["pid"], flush=True)
"""


def test_a_script_that_just_ends_leaves_nothing(tmp_path) -> None:
    process = script(START)
    output, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (0, "")
    assert not alive(int(output))


def test_a_killed_parent_takes_the_service_along() -> None:
    process = script(START + "    time.sleep(60)")
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert await_end(pid)


def test_another_child_does_not_keep_the_service_alive() -> None:
    more = """
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], close_fds=False)
    forked = os.fork()
    if forked == 0:
        time.sleep(30)
    print(child.pid, forked, flush=True)
    time.sleep(60)
    """
    process = script(START + more)
    pid = int(process.stdout.readline())
    others = [int(word) for word in process.stdout.readline().split()]
    process.send_signal(signal.SIGKILL)
    assert await_end(pid)
    assert all(alive(other) for other in others)
    for other in others:
        os.kill(other, signal.SIGKILL)
    process.communicate()


def test_a_forked_child_that_ends_leaves_the_service_alone() -> None:
    more = """
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    print(client.server_info().version)
    """
    process = script(START + more)
    output, complaints = process.communicate(timeout=30)
    assert output.split()[1:] == ["embedded"], complaints


def test_an_interrupt_is_the_callers_to_handle(tmp_path) -> None:
    more = """
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print(client.server_info().version)
    """
    process = script(START + more, start_new_session=True)
    assert process.stdout.readline()
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    output, complaints = process.communicate(timeout=30)
    assert output == "embedded\n", complaints


def test_a_service_that_does_not_end_is_killed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNDUE_STAND_IN", "stubborn")
    monkeypatch.setattr(_embedded, "_STOP_SECONDS", 0.3)
    client = undue.Client.local(tmp_path)
    pid, _ = facts(client)
    client.close()
    assert not alive(pid)


def test_a_refusal_is_a_typed_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNDUE_STAND_IN", "refuse")
    with pytest.raises(undue.FailedPrecondition, match="held by 7") as caught:
        undue.Client.local(tmp_path)
    assert caught.value.reason == "DATA_DIR_LOCKED"


@pytest.mark.parametrize(("mode", "words"), [("crash", "status 1.*\n.*no such device"), ("babble", "status 3")])
def test_a_service_that_cannot_start_shows_the_end_of_its_log(tmp_path, monkeypatch, mode, words) -> None:
    monkeypatch.setenv("UNDUE_STAND_IN", mode)
    with pytest.raises(undue.Internal, match=rf"(?s){words}"):
        undue.Client.local(tmp_path)


def test_a_service_that_never_reports_is_ended(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("UNDUE_STAND_IN", "hang")
    monkeypatch.setattr(_embedded, "_START_SECONDS", 0.5)
    with pytest.raises(undue.Unavailable, match="did not report"):
        undue.Client.local(tmp_path)


def test_what_a_killed_parent_left_is_swept_by_the_next(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed, alive_one = script(START + "    time.sleep(60)"), script(START + "    time.sleep(60)")
    pid = int(killed.stdout.readline())
    alive_one.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert await_end(pid)
    assert len(list(tmp_path.glob("undue-*"))) == 2
    with undue.Client.local() as client:
        kept = {folder.name for folder in tmp_path.glob("undue-*")}
        assert len(kept) == 2
        assert Path(client.address.removeprefix("unix:")).parent.name in kept
    alive_one.send_signal(signal.SIGKILL)
    alive_one.communicate()


def test_without_the_service_installed_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(_embedded, "_is_installed", lambda: False)
    with pytest.raises(undue.FailedPrecondition, match=r"pip install 'undue\[local\]'") as caught:
        undue.Client.local()
    assert caught.value.reason == "SERVICE_NOT_INSTALLED"


def test_a_data_dir_that_is_a_file_is_refused(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(undue.InvalidArgument, match="data_dir"):
        undue.Client.local(tmp_path / "file")


def test_a_deep_temporary_folder_is_no_obstacle(tmp_path, monkeypatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with undue.Client.local() as client:
        assert client.server_info().version == "embedded"


def test_the_asyncio_client_has_one_too(tmp_path) -> None:
    async def use() -> int:
        async with await undue.AsyncClient.local(tmp_path) as client:
            return int((await client.server_info()).libraries["pid"])

    assert not alive(asyncio.run(use()))


def test_it_works_inside_a_running_loop() -> None:
    async def cell() -> str:
        with undue.Client.local() as client:
            return client.server_info().version

    assert asyncio.run(cell()) == "embedded"
