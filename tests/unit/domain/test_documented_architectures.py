"""The table of docs/models.md against the architectures that are built in."""

import re
from pathlib import Path

from undue_service.domain.architectures import ARCHITECTURES
from undue_service.models.foreign import SKLEARN_EXPORT, TORCHSCRIPT_EXPORT

MODELS = (Path(__file__).parents[3] / "docs" / "models.md").read_text()


def test_every_architecture_has_a_row_with_its_options() -> None:
    start = MODELS.index("| architecture | parameters | options |")
    rows = [line.split(" | ") for line in MODELS[start:].split("\n\n")[0].splitlines()[2:]]
    documented = {name: re.findall(r"`(\w+)`", row[-1]) for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == {name: [one.name for one in spec.options] for name, spec in ARCHITECTURES.items()}


def test_the_lines_that_convert_are_those_of_the_errors() -> None:
    for line in (TORCHSCRIPT_EXPORT, SKLEARN_EXPORT):
        assert f"`{line}`" in MODELS
