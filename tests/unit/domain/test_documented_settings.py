"""The tables of docs/scores.md against the registry of methods."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from undue_service.domain.influence import Influence
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT, METHODS
from undue_service.domain.self_influence import SelfInfluence
from undue_service.settings import Settings

DOCS = Path(__file__).parents[3] / "docs"
SCORES = (DOCS / "scores.md").read_text()


def first_column(header):
    table = SCORES[SCORES.index(header) :].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_every_method_has_a_row():
    assert sorted(first_column("| method | scale |")) == sorted(METHODS)


def test_every_setting_has_a_row():
    named = first_column("| setting | left out |")
    both = {one.name for one in fields(Influence)} & {one.name for one in fields(SelfInfluence)}
    elsewhere = {"model", "train", "kind", "top_k", "leverage_correction", "tolerance", "max_iterations"}
    assert sorted(named) == sorted(both - elsewhere)


def test_the_size_at_which_the_default_changes_is_the_documented_one():
    assert f"up to {DENSE_PARAMETER_LIMIT:,} parameters, else `gauss_newton`" in SCORES


@pytest.mark.parametrize(
    "name",
    [
        "UNDUE_ARCHITECTURES",
        "UNDUE_BLOCK_BYTES",
        "UNDUE_DATA_DIR",
        "UNDUE_EXPLAIN_WINDOW_MS",
        "UNDUE_SERVE_BYTES",
        "UNDUE_UPLOAD_TTL_SECONDS",
    ],
)
def test_a_documented_variable_is_a_setting(name):
    assert f"| `{name}` |" in (DOCS / "deploying.md").read_text()
    assert name.removeprefix("UNDUE_").lower() in Settings.model_fields
