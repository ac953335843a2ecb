"""Runs the paper's experiments, one after another, each in a process of its own, and prints what they found.

Usage: python examples/reproduce.py [--quick] [NAME …]
"""

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
SHARED = {"demo", "figures", "reproduce"}


def experiments() -> dict[str, str]:
    """Return the examples that reproduce something, by name, with the first line that each says of itself."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text())
        if path.stem not in SHARED and any(
            isinstance(one, ast.FunctionDef) and one.name == "main" for one in tree.body
        ):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main() -> None:
    """Run those that are named, or all."""
    known = experiments()
    parser = argparse.ArgumentParser(description="\n".join(f"{name}: {what}" for name, what in known.items()))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="a small form of each, minutes instead of hours")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no experiment is called {unknown[0]!r}; there are {', '.join(known)}")
    failed = []
    for name in arguments.names or known:
        print(f"\n## {name}: {known[name]}\n", flush=True)
        started = time.perf_counter()
        command = [sys.executable, "-W", "ignore", str(FOLDER / f"{name}.py"), *["--quick"] * arguments.quick]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        print(f"\n{name}: {time.perf_counter() - started:,.0f} s", flush=True)
    if failed:
        sys.exit(f"did not run through: {', '.join(failed)}")


if __name__ == "__main__":
    main()
