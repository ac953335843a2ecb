"""The examples in their small form, where their data can be had: `make examples`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.sources import SourceMissing, mnist

FOLDER = Path(__file__).parents[2] / "examples"


def table(name: str, *arguments: str) -> dict[str, list[float]]:
    """Run an example and return the numbers of its tables' lines by what the lines are called."""
    pytest.importorskip("matplotlib", reason="`make examples` installs what examples/requirements.txt names")
    command = [sys.executable, "-W", "ignore", str(FOLDER / f"{name}.py"), "--quick", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1700, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    figure = re.search(r"^figure: (.*)$", ended.stdout, re.MULTILINE)
    assert figure
    assert Path(figure[1]).read_text().startswith("<?xml")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in ended.stdout.splitlines() if "|" in line]
    return {cells[0]: [float(cell.replace(",", "")) for cell in cells[1:] if _number(cell)] for cells in lines}


def _number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?[\d,]*\.?\d+(e-?\d+)?", cell) is not None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_children_that_are_left_lead_the_errors_on_children() -> None:
    found = table("domain_mismatch")
    (_, _, before, *_), (_, left, after, *_) = found["all children"], found["four children"]
    assert left == 4
    assert before < 0 < after


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_kernel_machine_learns_from_what_is_near() -> None:
    found = table("rbf_vs_deep")
    assert found["kernel"][1] > found["deep"][1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_images_that_look_the_same_flip_predictions() -> None:
    pytest.importorskip("matplotlib", reason="`make examples` installs what examples/requirements.txt names")
    command = [sys.executable, "-W", "ignore", str(FOLDER / "training_set_attack.py"), "--quick"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1700, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    flipped, share, control = re.search(r"(\d+) of 8 \| +(\d+)% \|[^|]*\| +(\d+)%", ended.stdout).groups()
    assert int(flipped) >= 3
    assert int(share) > int(control)


@pytest.fixture(autouse=True)
def _digits() -> None:
    try:
        mnist()
    except SourceMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_solver_foretells_leaving_one_out() -> None:
    found = table("leave_one_out")
    largest, slope, drawn, slope_of_drawn, _ = found["exact"]
    assert min(largest, drawn) > 0.99
    assert 0.9 < slope < 1.1
    assert 0.9 < slope_of_drawn < 1.1
    for solver in ("cg", "lissa"):
        assert abs(found[solver][0] - found["exact, plain"][0]) < 1e-3
    assert found["grad_dot"][0] < found["ekfac"][0] < found["exact"][0]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_smooth_hinge_stands_for_the_hinge() -> None:
    found = table("smooth_hinge")
    zero, sharp, _, wide = found["surrogate's minimum, leverage; most wrong image"]
    assert zero < wide < sharp
    assert sharp > 0.95


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_networks_largest_influences_show_in_training_again() -> None:
    largest, _, slope, *_ = table("cnn")["gauss_newton"]
    assert largest > 0.6
    assert slope > 0
