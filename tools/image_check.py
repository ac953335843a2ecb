"""Carry out the Dockerfile's steps in a clean root on this machine, then start what was built as a container would.

make image-check, or: python tools/image_check.py [--target api|runner] [--build-arg NAME=VALUE] [--folder build/images]

Needs root and Debian's mmdebstrap and bubblewrap; tools/dockerfile_steps.py says what is emulated. The service then
runs with the image's user, variables and command, under what deploy/compose.yaml asks for too: a read-only root, no
capabilities, no new privileges, /tmp and the volumes alone writable, and a network of its own with only loopback.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dockerfile import Context, parse
from dockerfile_steps import Builder, Image, enclosure, missing

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "onnx", "onnxruntime", "pyarrow")
START_SECONDS, STOP_SECONDS = 60, 15

# The same work in both images: in `api` there is nothing that could run its first job.
WORK = """
import undue
with undue.Client("127.0.0.1:50051") as client:
    try:
        rows = undue.Arrays(inputs=[[1.0, 2.0], [2.0, 1.0], [3.0, 5.0], [4.0, 3.0]], targets=[1.0, 2.0, 3.0, 4.0])
        data = client.datasets.register("four", rows)
        import torch
        model = torch.nn.Linear(2, 1, dtype=torch.float64)
        objective = undue.Objective("squared_error", l2=0.1)
        model = client.models.register("line", model, objective=objective, sample=data, example_inputs=torch.ones(2, 2))
        result = client.influence(model, train=data, test=data, rows=[0], top_k=1).result()
        print(len(result.explanations), "explained")
    except undue.Error as error:
        print(type(error).__name__, error.reason)
"""
WORKED = {"api": "JobFailed RUNNER_UNAVAILABLE", "runner": "1 explained"}
FACTS = f"""
import importlib.util, json, os
def writable(folder):
    try:
        open(folder + "/probe", "w").close()
    except OSError:
        return False
    return True
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({{
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
    "capabilities": int(status["CapBnd"], 16), "no_new_privileges": int(status["NoNewPrivs"]),
    "writable": [folder for folder in ("/", "/opt/undue", "/tmp", os.environ["UNDUE_DATA_DIR"]) if writable(folder)],
    "libraries": [name for name in {LIBRARIES!r} if importlib.util.find_spec(name)],
}}))
"""


class Container:
    """The image's process, and a way to run more beside it."""

    def __init__(self, image: Image, process: subprocess.Popen[bytes], pid: int) -> None:
        self._image = image
        self.process = process
        self.pid = pid

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker exec` would."""
        variables = [f"{name}={value}" for name, value in self._image.environment.items()]
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--ipc", "--uts", "--root"]
        inside = ["env", f"--chdir={self._image.workdir}", "--ignore-environment", *variables]
        full = [*enter, *inside, *as_user(self._image), *command]
        return subprocess.run(full, capture_output=True, text=True, timeout=120, check=False)

    def ask(self, *command: str) -> str:
        """Run a command that must succeed."""
        done = self.run(*command)
        expect(done.returncode == 0, f"{command[:2]}: {done.stdout}{done.stderr}")
        return done.stdout.strip()


def as_user(image: Image) -> list[str]:
    """Return the command that takes everything away but the image's user."""
    uid, gid = image.user.split(":")
    drop = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    return ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid}", *drop, "--"]


@contextmanager
def container(image: Image, folder: Path) -> Iterator[Container]:
    """Start the image's command and stop it at the end."""
    mounts: list[str | Path] = ["--ro-bind", image.root, "/"]
    shutil.rmtree(folder, ignore_errors=True)
    for number, volume in enumerate(image.volumes):  # a new volume begins as a copy of the image's folder
        place = folder / f"volume{number}"
        place.mkdir(parents=True)
        subprocess.run(["cp", "-a", "-T", image.inside(volume), place], check=True)
        mounts += ["--bind", place, volume]
    read, write = os.pipe()
    command = ["bwrap", *mounts[:3], *enclosure(image, image.environment), *mounts[3:], "--unshare-net", "--as-pid-1"]
    command += ["--info-fd", write, "--", *as_user(image), *image.entrypoint, *image.command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], pass_fds=(write,), stdout=log, stderr=log)
    os.close(write)
    with os.fdopen(read) as pipe:
        information = pipe.read()
    expect(information, f"bubblewrap: {(folder / 'log').read_text()}")
    pid = json.loads(information)["child-pid"]
    try:
        yield Container(image, process, pid)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def expect(condition: object, text: str) -> None:
    """Stop with the text unless the condition holds."""
    if not condition:
        raise SystemExit(f"image check failed: {text}")


def check(target: str, image: Image, folder: Path) -> None:
    """Start the image and look at it from inside."""
    with container(image, folder) as running:
        begun = time.monotonic()
        while (health := running.run(*image.health)).returncode != 0:
            expect(running.process.poll() is None, f"it ended:\n{(folder / 'log').read_text()}")
            expect(time.monotonic() - begun < START_SECONDS, f"not healthy: {health.stderr}")
            time.sleep(0.2)
        ready = time.monotonic() - begun
        facts = json.loads(running.ask("python", "-c", FACTS))
        data = image.environment["UNDUE_DATA_DIR"]
        expect(facts["uid"] == facts["gid"] == 10001 and facts["groups"] == [], facts)
        expect(facts["capabilities"] == 0 and facts["no_new_privileges"] == 1, facts)
        expect(facts["writable"] == ["/tmp", data], facts)  # noqa: S108  of the image
        expect(facts["libraries"] == ([] if target == "api" else list(LIBRARIES)), facts)
        answer = running.ask("undue", "--json", "datasets", "list")
        worked = running.ask("python", "-c", WORK)
        expect(worked.splitlines()[-1] == WORKED[target], worked)
        checked = running.run("undue-service", "check", "--data-dir", "/tmp/check")  # noqa: S108  of the image
        expect((checked.returncode == 0) == (target == "runner"), checked.stdout + checked.stderr)
        os.kill(running.pid, signal.SIGTERM)
        begun = time.monotonic()
        expect(running.process.wait(timeout=STOP_SECONDS) == 0, f"status {running.process.returncode} after SIGTERM")
        stopped = time.monotonic() - begun
    size = subprocess.run(["du", "-sm", image.root / "opt/undue"], capture_output=True, text=True, check=True).stdout
    print(f"\n{target}: healthy after {ready:.1f} s, stopped in {stopped:.1f} s, /opt/undue is {size.split()[0]} MiB")
    print(f"inside: {json.dumps(facts)}\nundue datasets list: {answer}\na job: {worked.splitlines()[-1]}")
    found = json.loads(checked.stdout)["libraries"] if target == "runner" else checked.stderr.strip().splitlines()[-1]
    print(f"undue-service check: {found}\n", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", help="stages to build and start; both images when none is named")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--keep", action="store_true", help="leave the roots for a look; the base is always kept")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/images", help="where the roots are made")
    options = parser.parse_args()
    if why := missing():
        sys.exit(why)
    given = dict(one.split("=", 1) for one in options.build_arg)
    file = parse((ROOT / "Dockerfile").read_text(), given)
    builder = Builder(file, Context(ROOT), options.folder, given)
    try:
        for target in options.target or ["api", "runner"]:
            check(target, builder.build(target), options.folder / f"{target}-run")
    finally:
        if not options.keep:
            for stage in file.stages:
                shutil.rmtree(options.folder / stage, ignore_errors=True)


if __name__ == "__main__":
    main()
