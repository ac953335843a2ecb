"""The client's wheel, in an environment of its own, without torch."""

import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import undue

ROOT = Path(__file__).parents[2]
DEPENDENCIES = ("grpc", "google", "numpy", "safetensors", "tqdm")


def run(*command: str | Path, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        ROOT / "client",
    )
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """An interpreter that has the wheel, and of its surroundings only what the wheel declares."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    interpreter = folder / "bin/python"
    site = Path(run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    outer = Path(sysconfig.get_path("purelib"))
    for name in (*DEPENDENCIES, "numpy.libs", "typing_extensions.py"):
        if (outer / name).exists():
            (site / name).symlink_to(outer / name)
    return interpreter


def clean(python: Path, code: str) -> str:
    return run(python, "-I", "-c", code)


def test_the_wheel_says_what_it_is(wheel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [name for name in names if name.endswith("METADATA")]
        headers = Parser().parsestr(archive.read(metadata).decode())
        [scripts] = [name for name in names if name.endswith("entry_points.txt")]
        assert "undue = undue.cli.main:main" in archive.read(scripts).decode()
    declared = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]["version"]
    assert headers["Version"] == declared == undue.__version__
    always = [line for line in headers.get_all("Requires-Dist") if "extra ==" not in line]
    assert not any("torch" in line or "undue-service" in line for line in always)
    assert "undue/py.typed" in names
    assert "undue/_sync/client.py" in names
    assert not [name for name in names if "test" in name.lower()]


def test_it_imports_without_torch(python) -> None:
    code = """
import importlib.util, json, sys
assert importlib.util.find_spec("torch") is None
assert importlib.util.find_spec("undue_service") is None
import undue, undue.cli.main
print(json.dumps([undue.__file__, undue.__version__]))
"""
    place, version = json.loads(clean(python, code))
    assert Path(place).is_relative_to(python.parents[1])
    assert version == undue.__version__


def test_without_the_service_local_says_what_to_install(python) -> None:
    code = """
import undue
try:
    undue.Client.local()
except undue.FailedPrecondition as error:
    print(error)
"""
    assert "pip install 'undue[local]'" in clean(python, code)


def test_without_torch_a_model_is_a_file(python) -> None:
    code = """
import undue
try:
    undue.Client("127.0.0.1:1").models.register("m", object(), objective=undue.Objective("squared_error"))
except undue.InvalidArgument as error:
    print(error)
"""
    assert ".onnx" in clean(python, code)


def test_importing_brings_nothing_heavy_along() -> None:
    heavy = {"torch", "pandas", "tqdm", "onnx", "undue_service", "sklearn"}
    path = str(Path(undue.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {path!r}); import undue; print(*sys.modules)"
    assert heavy & set(run(sys.executable, "-c", code).split()) == set()
