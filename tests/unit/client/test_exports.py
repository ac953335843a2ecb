"""The façade is what it says, and nothing else."""

import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest

import undue

ROOT = Path(__file__).parents[3]


def test_all_is_sorted() -> None:
    assert undue.__all__ == sorted(undue.__all__)
    assert len(set(undue.__all__)) == len(undue.__all__)


def test_nothing_else_public_leaks() -> None:
    public = {name for name, value in vars(undue).items() if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(undue, name), types.ModuleType)}
    assert modules <= {"v1", "cli"}
    assert public - modules == set(undue.__all__) - {"__version__"}


@pytest.mark.parametrize("name", sorted(set(undue.__all__) - {"__version__"}))
def test_everything_public_is_documented(name) -> None:
    member = getattr(undue, name)
    assert member.__module__ == "undue"
    assert inspect.getdoc(member)
    for attribute in dir(member):
        value = inspect.getattr_static(member, attribute)
        if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, (property, classmethod))):
            documented = value.__func__ if isinstance(value, classmethod) else value
            assert inspect.getdoc(documented), f"{name}.{attribute}"


def test_the_two_clients_are_twins() -> None:
    for name in undue.__all__:
        if name.startswith("Async"):
            ours, twin = getattr(undue, name), getattr(undue, name.removeprefix("Async"))
            assert {m for m in dir(ours) if not m.startswith("_")} == {m for m in dir(twin) if not m.startswith("_")}
            for member in dir(ours):
                if not member.startswith("_") and inspect.isfunction(getattr(ours, member)):
                    ours_parameters = inspect.signature(getattr(ours, member)).parameters
                    assert list(ours_parameters) == list(inspect.signature(getattr(twin, member)).parameters)


def test_every_public_call_names_what_it_raises() -> None:
    jobs = (undue.InfluenceJob, undue.SelfInfluenceJob, undue.RetrainJob, undue.FidelityJob, undue.LeverageJob)
    jobs += (undue.ValidationJob, undue.IndexJob, undue.GroupInfluenceJob, undue.CompareJob)
    for cls in (undue.Client, undue.Models, undue.Datasets, undue.Indexes, undue.Jobs, *jobs):
        for name, member in inspect.getmembers(cls, inspect.isroutine):
            if not name.startswith("_") and name != "close":
                assert "Raises:" in (inspect.getdoc(member) or ""), f"{cls.__name__}.{name}"


def test_the_blocking_client_is_what_the_generator_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/unasync.py"), "check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generator_notices_a_difference(tmp_path) -> None:
    import shutil

    for part in ("tools", "client/src/undue/_async", "client/src/undue/_sync"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    edited = tmp_path / "client/src/undue/_sync/jobs.py"
    edited.write_text(edited.read_text() + "\nX = 1\n")
    command = [sys.executable, str(tmp_path / "tools/unasync.py"), "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "client/src/undue/_sync/jobs.py" in done.stdout
