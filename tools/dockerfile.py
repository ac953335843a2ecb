"""A Dockerfile read as data: its stages and their steps. As much of the format as ours uses; the rest is refused."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "HEALTHCHECK",
    "LABEL",
    "RUN",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
}
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:[-+])([^}]*))?\})")


@dataclass(frozen=True)
class Step:
    """One instruction."""

    line: int
    name: str
    flags: Mapping[str, str]
    value: str

    def words(self, variables: Mapping[str, str]) -> list[str]:
        """Return the JSON form's list, or the words with their variables put in."""
        if self.value.startswith("["):
            return json.loads(self.value)
        return [expand(word, variables) for word in shlex.split(self.value)]

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the NAME=value pairs of ENV, LABEL or ARG; a bare NAME is left out."""
        return dict(word.split("=", 1) for word in self.words(variables) if "=" in word)


@dataclass
class Stage:
    """FROM to the next FROM."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)

    def sources(self) -> Iterator[tuple[Step, str | None, list[str]]]:
        """Yield each COPY: the step, the stage it copies from (None for the context), and what it copies."""
        for step in self.steps:
            if step.name == "COPY":
                yield step, step.flags.get("from"), step.words({})[:-1]


@dataclass
class Dockerfile:
    """The stages in order, and the ARGs before the first."""

    arguments: dict[str, str]
    stages: dict[str, Stage]

    @property
    def last(self) -> str:
        """The stage that is built when no target is named."""
        return list(self.stages)[-1]

    def needed(self, target: str) -> list[Stage]:
        """Return what must be built for the target, in order, itself the last.

        Raises:
            ValueError: there is no such stage.
        """
        if target not in self.stages:
            raise ValueError(f"no stage {target!r}; there are {', '.join(self.stages)}")
        wanted = {target}
        for name in reversed(self.stages):
            if name in wanted:
                stage = self.stages[name]
                wanted |= {stage.base, *(source for _, source, _ in stage.sources() if source)}
        return [stage for name, stage in self.stages.items() if name in wanted]

    def inherited(self, target: str) -> list[Step]:
        """Return the target's steps after those of the stages it is FROM."""
        stage = self.stages[target]
        before = self.inherited(stage.base) if stage.base in self.stages else []
        return [*before, *stage.steps]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Put variables in: $A, ${A}, ${A:-otherwise}, ${A:+instead}."""

    def one(match: re.Match[str]) -> str:
        value = variables.get(match[1] or match[2], "")
        match match[3]:
            case ":-":
                return value or match[4]
            case ":+":
                return match[4] if value else ""
        return value

    return _VARIABLE.sub(one, text)


def parse(text: str, given: Mapping[str, str] | None = None) -> Dockerfile:
    """Read a Dockerfile; `given` are the values of --build-arg.

    Raises:
        ValueError: an instruction or a form of one that is not known here.
    """
    file = Dockerfile({}, {})
    for step in _steps(text):
        if step.name == "FROM":
            words = expand(step.value, file.arguments).split()
            name = words[2] if len(words) == 3 else str(len(file.stages))
            file.stages[name] = Stage(name, words[0])
        elif file.stages:
            if step.name not in KNOWN:
                raise ValueError(f"line {step.line}: {step.name} is not known to tools/dockerfile.py")
            list(file.stages.values())[-1].steps.append(step)
        elif step.name == "ARG":
            pairs = step.pairs(file.arguments)
            file.arguments |= {key: (given or {}).get(key, value) for key, value in pairs.items()}
        else:
            raise ValueError(f"line {step.line}: {step.name} before the first FROM")
    return file


def _steps(text: str) -> Iterator[Step]:
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        start = start if pending else number
        pending += line.removesuffix("\\") if line.endswith("\\") else line
        if line.endswith("\\"):
            continue
        name, _, rest = pending.strip().partition(" ")
        flags: dict[str, str] = {}
        while match := re.match(r"\s*--([\w-]+)=(\S+)\s*", rest):
            flags[match[1]] = match[2]
            rest = rest[match.end() :]
        if "<<" in rest:
            raise ValueError(f"line {start}: here-documents are not known to tools/dockerfile.py")
        yield Step(start, name.upper(), flags, rest.strip())
        pending = ""


class Context:
    """The build context: a folder less what its .dockerignore takes away; the last pattern that matches decides."""

    def __init__(self, root: Path) -> None:
        self.root = root
        lines = (root / ".dockerignore").read_text().splitlines()
        patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        self._rules = [(re.compile(_regex(one.removeprefix("!"))), not one.startswith("!")) for one in patterns]

    def holds(self, path: Path) -> bool:
        """Whether a path, absolute or relative to the root, is in the context."""
        relative = (path.relative_to(self.root) if path.is_absolute() else path).as_posix()
        ignored = False
        for pattern, ignores in self._rules:
            if pattern.fullmatch(relative):
                ignored = ignores
        return not ignored

    def files(self, source: str) -> Iterator[Path]:
        """Yield the files under a source of COPY, the source itself where it is a file."""
        place = self.root / source
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and self.holds(path):
                yield path


def _regex(pattern: str) -> str:
    parts = [re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") for part in pattern.strip("/").split("/")]
    joined = "/".join("**" if part == "[^/]*[^/]*" else part for part in parts)
    # A pattern that matches a folder matches what is in it.
    return joined.replace("**/", "(?:.*/)?").replace("**", ".*") + "(?:/.*)?"
