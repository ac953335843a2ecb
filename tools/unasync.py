"""Generate the blocking SDK from the asyncio one, or check that the committed one is what would be generated.

python tools/unasync.py generate     rewrites client/src/undue/_sync
python tools/unasync.py check        compares
"""

import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "client/src/undue/_async"
TARGET = ROOT / "client/src/undue/_sync"
HEADER = "# Generated from _async/{name} by tools/unasync.py: change that file, then run it with `generate`.\n"
WORDS = (
    (re.compile(r"\bAsync(?=[A-Z])"), ""),
    (re.compile(r"\bAnyAsync(?=[A-Z])"), "Any"),
    (re.compile(r"\b_grpc_aio\b"), "_grpc_blocking"),
    (re.compile(r"The asyncio client\. Its .* from here\."), "The blocking client, generated from `_async`."),
)


def generate(target: Path) -> None:
    """Write the blocking modules into `target`."""
    # This script has the name of the package that it drives.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "tools"]
    unasync: Any = importlib.import_module("unasync")
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "_async"
        staged.mkdir()
        for path in sorted(SOURCE.glob("*.py")):
            text = path.read_text()
            for pattern, replacement in WORDS:
                text = pattern.sub(replacement, text)
            (staged / path.name).write_text(text)
        files = [str(path) for path in sorted(staged.iterdir())]
        unasync.unasync_files(files, [unasync.Rule("/_async/", "/_sync/")])
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("*.py"):
            old.unlink()
        for path in sorted((Path(scratch) / "_sync").iterdir()):
            (target / path.name).write_text(HEADER.format(name=path.name) + path.read_text())
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(ROOT / "pyproject.toml"), "--quiet"]
    subprocess.run(
        [*ruff, "check", "--select", "I,F401,UP028,C416", "--fix", "--unsafe-fixes", *config, str(target)], check=True
    )
    subprocess.run([*ruff, "format", *config, str(target)], check=True)


def check() -> int:
    """Compare the committed modules with fresh ones; return the number of complaints."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "src/undue/_sync"
        generate(fresh)
        complaints = 0
        for name in sorted({path.name for path in [*fresh.glob("*.py"), *TARGET.glob("*.py")]}):
            new, committed = fresh / name, TARGET / name
            if not (new.exists() and committed.exists() and new.read_text() == committed.read_text()):
                print(f"out of date: {committed.relative_to(ROOT)}: run `python tools/unasync.py generate`")
                complaints += 1
    return complaints


if __name__ == "__main__":
    if sys.argv[1:] == ["generate"]:
        generate(TARGET)
    elif sys.argv[1:] == ["check"]:
        sys.exit(1 if check() else 0)
    else:
        sys.exit(__doc__)
