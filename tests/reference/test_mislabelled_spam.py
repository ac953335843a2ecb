"""The example of flipped spam labels in its small form, where the mails can be had."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.sources import SourceMissing, spam_assassin

EXAMPLE = Path(__file__).parents[2] / "examples" / "mislabelled_spam.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_self_influence_finds_flipped_mails() -> None:
    pytest.importorskip("matplotlib", reason="`make examples` installs what examples/requirements.txt names")
    try:
        spam_assassin()
    except SourceMissing as missing:
        pytest.skip(str(missing))
    command = [sys.executable, "-W", "ignore", str(EXAMPLE), "--quick"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1700, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    ahead = dict(re.findall(r"^\| (self_influence − \w+) +\|(.*)\|$", ended.stdout, re.MULTILINE))
    more = {name: [float(one) for one in re.findall(r"([+-]\d\.\d+) ±", cells)] for name, cells in ahead.items()}
    assert len(more["self_influence − random"]) == 6
    assert min(more["self_influence − random"]) > 0.1
    assert sum(more["self_influence − loss"]) > 0
    assert Path(re.search(r"^figure: (.*)$", ended.stdout, re.MULTILINE)[1]).read_text().startswith("<?xml")
