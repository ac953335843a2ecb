"""Figures and tables of the examples: one look, one folder."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "figures"
mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"})


def panels(columns: int, rows: int = 1, side: float = 2.6) -> tuple[Figure, list[Axes]]:
    """Return a figure of square panels, and these row by row."""
    figure = Figure(figsize=(side * columns, side * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def save(figure: Figure, name: str) -> Path:
    """Write the figure as SVG into `examples/figures`, which git ignores, say where, and return its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.svg"
    figure.savefig(path)
    print(f"figure: {path}")
    return path


def diagonal(
    axes: Axes, predicted: npt.NDArray[np.floating], measured: npt.NDArray[np.floating], title: str, label: str = ""
) -> None:
    """Scatter measured changes over predicted ones, with the line on which they are equal."""
    axes.scatter(predicted, measured, s=5, alpha=0.6, linewidths=0, label=label or None)
    low, high = (float(f([f(predicted), f(measured)])) for f in (np.min, np.max))
    axes.plot([low, high], [low, high], color="0.6", linewidth=0.7, zorder=0)
    axes.set(title=title, xlabel="predicted change", ylabel="measured change")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown, its columns aligned for a terminal; the first column is text, the others numbers."""
    cells = [[str(one) for one in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| "
        + " | ".join(c.rjust(w) if at else c.ljust(w) for at, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if at else "-") for at, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
