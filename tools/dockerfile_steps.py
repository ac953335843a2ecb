"""The steps of a Dockerfile carried out in folders of this machine, without Docker: how `make image-check` builds.

Every stage becomes a root folder; RUN enters it with bubblewrap, COPY copies into it. What is emulated: the base image
python:3.11-slim-bookworm is a minimal Debian bookworm from mmdebstrap with Debian's own Python 3.11 linked into
/usr/local/bin, and layers are copies of folders. RUN sees this machine's network and pip configuration, which are
bound in for that step and never written into a root.
"""

import ast
import copy
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from dockerfile import Context, Dockerfile, Stage, Step

TOOLS = {"mmdebstrap": "mmdebstrap", "bwrap": "bubblewrap", "nsenter": "util-linux"}
PACKAGES = "python3.11,python3.11-venv,ca-certificates"
EMULATED = re.compile(r"python:3\.11(\.\d+)?-slim(-bookworm)?(@.*)?")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> str:
    """Return why this machine cannot do it, or an empty text."""
    if os.geteuid() != 0:
        return "the steps need root, as a Docker engine does"
    absent = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    return f"missing here: apt-get install {' '.join(absent)}" if absent else ""


@dataclass
class Image:
    """A root folder and what the steps so far have set."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """Return where a path of the image is on this machine."""
        return self.root / os.path.normpath(os.path.join(self.workdir, path)).lstrip("/")


class Builder:
    """Builds the stages of one file under a folder; `given` are the build arguments."""

    def __init__(self, file: Dockerfile, context: Context, folder: Path, given: dict[str, str]) -> None:
        self._file = file
        self._context = context
        self._folder = folder
        self._given = given
        self._images: dict[str, Image] = {}
        self._pip, self._bound = pip_configuration()

    def build(self, target: str) -> Image:
        """Build what the target needs, and the target."""
        for stage in self._file.needed(target):
            if stage.name not in self._images:
                print(f"--- {stage.name}", flush=True)
                self._images[stage.name] = self._stage(stage)
        return self._images[target]

    def _stage(self, stage: Stage) -> Image:
        image = Image(self._folder / stage.name)
        shutil.rmtree(image.root, ignore_errors=True)
        before = self._images.get(stage.base)
        if before is None:
            _call("cp", "-a", base(self._folder, stage.base), image.root)
        else:
            _call("cp", "-a", before.root, image.root)
            image = replace(copy.deepcopy(before), root=image.root, arguments={})
        for step in stage.steps:
            print(f"{step.line:4} {step.name} {step.value[:100]}", flush=True)
            getattr(self, f"_{step.name.lower()}")(image, step)
        return image

    def _arg(self, image: Image, step: Step) -> None:
        name, _, default = step.value.partition("=")
        values = {**self._file.arguments, **step.pairs(image.environment), **self._given}
        if default or name in values:
            image.arguments[name] = values[name]

    def _env(self, image: Image, step: Step) -> None:
        image.environment |= step.pairs(image.arguments | image.environment)

    def _workdir(self, image: Image, step: Step) -> None:
        image.workdir = os.path.normpath(os.path.join(image.workdir, step.value))
        image.inside("").mkdir(parents=True, exist_ok=True)

    def _user(self, image: Image, step: Step) -> None:
        image.user = step.value if ":" in step.value else f"{step.value}:{step.value}"

    def _volume(self, image: Image, step: Step) -> None:
        image.volumes += step.words(image.environment)

    def _entrypoint(self, image: Image, step: Step) -> None:
        image.entrypoint = step.words(image.environment)

    def _cmd(self, image: Image, step: Step) -> None:
        image.command = step.words(image.environment)

    def _healthcheck(self, image: Image, step: Step) -> None:
        image.health = Step(step.line, "CMD", {}, step.value.removeprefix("CMD").strip()).words(image.environment)

    def _label(self, image: Image, step: Step) -> None:
        step.pairs(image.arguments | image.environment)

    def _stopsignal(self, _: Image, step: Step) -> None:
        if step.value != "SIGTERM":
            raise ValueError(f"line {step.line}: the check stops with SIGTERM")

    def _copy(self, image: Image, step: Step) -> None:
        *sources, target = step.words(image.arguments | image.environment)
        place = image.inside(target)
        for source in sources:
            if "from" in step.flags:
                self._copy_from(self._images[step.flags["from"]].inside(source), place)
            else:
                self._copy_in(source, place, into=target.endswith("/") or len(sources) > 1)
        owner = step.flags.get("chown", "0:0")
        _call("chown", "-R", owner, place)

    @staticmethod
    def _copy_from(source: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        _call("cp", "-a", "--no-target-directory", source, place)

    def _copy_in(self, source: str, place: Path, *, into: bool) -> None:
        files = list(self._context.files(source))
        if not files:
            raise ValueError(f"COPY {source}: not in the build context")
        whole = self._context.root / source
        for path in files:
            below = path.relative_to(whole) if whole.is_dir() else Path(path.name if into else "")
            written = place / below
            written.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, written)

    def _run(self, image: Image, step: Step) -> None:
        if image.user != "0:0":
            raise ValueError(f"line {step.line}: RUN as another user is not known to tools/dockerfile_steps.py")
        binds = [part for path in self._bound for part in ("--ro-bind", path, path)]
        variables = self._pip | image.arguments | image.environment
        command = ["bwrap", "--bind", image.root, "/", *enclosure(image, variables), *binds, "--", "/bin/sh", "-c"]
        _call(*command, step.value)


def enclosure(image: Image, variables: dict[str, str]) -> list[str]:
    """Return bubblewrap's options that a build step and a container share: its own processes, devices, variables."""
    options = ["--dev", "/dev", "--proc", "/proc", "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108  of the image
    options += ["--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    options += ["--cap-add", "ALL", "--die-with-parent", "--chdir", image.workdir, "--clearenv"]
    for name, value in variables.items():
        options += ["--setenv", name, value]
    return options


def base(folder: Path, image: str) -> Path:
    """Return a root that stands for the base image; it is made once and kept.

    Raises:
        ValueError: it is not an image that is emulated here.
    """
    if not EMULATED.fullmatch(image):
        raise ValueError(f"there is no stand-in for the base image {image}")
    root = folder / "base"
    if not (root / "usr/local/bin/python").is_symlink():
        print(f"--- {root}: Debian bookworm in place of {image}", flush=True)
        shutil.rmtree(root, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        _call("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
        for name in ("python3", "python"):  # python last: it says that the root is whole
            (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    return root


def pip_configuration() -> tuple[dict[str, str], list[str]]:
    """Return this machine's pip settings as variables, and the paths that they and the network need."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    variables, paths = {}, [path for path in ("/etc/resolv.conf", "/etc/hosts") if Path(path).exists()]
    for line in listed.splitlines():
        key, _, quoted = line.partition("=")
        value = ast.literal_eval(quoted)
        variables["PIP_" + key.rpartition(".")[2].replace("-", "_").upper()] = value
        for word in value.split():
            # The pages of a folder index point at files beside it.
            path = os.path.dirname(word.removeprefix("file://").rstrip("/")) if word.startswith("file://") else word
            if path.startswith("/") and Path(path).exists() and path not in paths:
                paths.append(path)
    return variables, paths


def _call(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"failed with status {done.returncode}: {' '.join(str(part) for part in command[-3:])}")
