"""The documentation does what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_readmes_example_runs_and_prints_the_row_it_talks_about():
    job, live = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", job + live], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    of_job, of_index = re.split(r"^row 0: predicted 1, target 0", done.stdout, flags=re.MULTILINE)
    assert "test row 135: predicted 1, target 0" in of_job
    for found in (of_job, of_index):
        assert re.search(r"helpful\s+1\s+135\s+135\s+0\.2204", found), done.stdout
        assert re.search(r"harmful\s+1\s+455\s+455\s+-0\.06681", found), done.stdout
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_command_that_the_docs_name_is_a_make_target():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for named in re.findall(r"`?\bmake ([a-z-]+)`?\s+(?:#|\n|`)", page.read_text()):
            assert named in targets, f"{page.name}: make {named}"
