"""docs/models.md lists the operators that are read, no more and no fewer."""

import re
from pathlib import Path

import onnx

from undue_service.models.onnx.operators import OPERATORS
from undue_service.models.onnx.reading import OLDEST_OPSET

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"(?:[a-z.]+::)?[A-Z]\w+")


def test_the_page_lists_the_operators():
    page = (ROOT / "docs/models.md").read_text()
    table = page[page.index("| family |") : page.index("Gather of a table")]
    rows = [row for row in table.splitlines()[2:] if row.startswith("|")]
    listed = [name for row in rows for name in NAME.findall(row.split("|")[2])]
    assert sorted(listed) == sorted(OPERATORS)


def test_the_changelog_counts_operators_and_opsets():
    newest = onnx.defs.onnx_opset_version()
    counted = f"{len(OPERATORS)} operators of opsets {OLDEST_OPSET} to {newest}"
    assert counted in (ROOT / "CHANGELOG.md").read_text()
    assert f"Opsets {OLDEST_OPSET} to {newest}" in (ROOT / "docs/models.md").read_text()
