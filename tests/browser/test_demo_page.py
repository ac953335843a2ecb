"""The demonstration's page in a real browser, from a file, at the widths and in the colours that people use."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--virtual-time-budget=10000",
    "--enable-logging=stderr",
    "--window-size=1400,1200",
    "--dump-dom",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: install the package chromium"),
]

PROBE = Path(__file__).with_name("probe.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "page.html"
    command = [sys.executable, EXAMPLES / "demo.py", "--output", path]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [380, 768, 1280])
def test_page_is_whole_legible_and_silent(page, tmp_path, width, dark):
    probe = page.parent / "probe.html"
    probe.write_text(PROBE.replace("WIDTH", str(width)), encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [CHROMIUM, *FLAGS, scheme, f"--user-data-dir={tmp_path}", probe.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert ":CONSOLE" not in run.stderr, run.stderr  # what the page's own policy refuses is reported there
    seen = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", run.stdout, re.DOTALL)[1]))
    print(seen)
    assert seen["width"] == seen["content"] == width
    assert seen["clipped"] == []
    assert seen["dark"] == dark
    assert seen["texts"] > 100
    assert seen["contrast"] >= 4.5  # WCAG 2.2 AA
    assert seen["images"] == seen["loaded"] > 80
    assert seen["smallest"] > 40
    assert seen["square"]
    assert seen["crisp"]
    assert seen["described"]
