"""Data as a test states it: what every source must give back, in whichever format it is held."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

from undue_service.domain.specs import SchemaSpec

Array = np.ndarray[Any, Any]


@dataclass
class Table:
    """What every source must give back."""

    inputs: dict[str, Array]
    targets: Array | None = None
    ids: list[str] | None = None
    weights: Array | None = None
    stacked: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Inputs that a file holds as one scalar column an entry."""
    groups: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def columns(self) -> tuple[dict[str, Array], SchemaSpec]:
        """Return the columns of a file and their schema."""
        columns: dict[str, Array] = {}
        inputs = {}
        for name, values in self.inputs.items():
            inputs[name] = self.stacked.get(name, (f"{name}.column",))
            columns |= (
                {column: values[:, i] for i, column in enumerate(inputs[name])}
                if name in self.stacked
                else {f"{name}.column": values}
            )
        named = {"label": self.targets, "weight": self.weights}
        columns |= {name: values for name, values in named.items() if values is not None}
        spec = SchemaSpec(
            inputs,
            target=None if self.targets is None else "label",
            id=None if self.ids is None else "key",
            weight=None if self.weights is None else "weight",
            groups=tuple(self.groups),
        )
        return columns, spec

    def texts(self) -> dict[str, list[str]]:
        """Return the columns of text."""
        return ({} if self.ids is None else {"key": self.ids}) | self.groups

    def part(self, start: int, stop: int) -> "Table":
        """Return some of the rows."""

        def cut(values: Any) -> Any:
            return None if values is None else values[start:stop]

        return replace(
            self,
            inputs={name: cut(values) for name, values in self.inputs.items()},
            targets=cut(self.targets),
            ids=cut(self.ids),
            weights=cut(self.weights),
            groups={name: cut(values) for name, values in self.groups.items()},
        )


def digits() -> Table:
    data = load_digits()
    rows = len(data.target)
    return Table(
        {"image": data.images.astype(np.uint8), "pixels": data.data.astype(np.float32)},
        data.target,
        [f"digit-{row:04}" for row in range(rows)],
        np.linspace(0.5, 2.0, rows),
        groups={
            "pen": [("blue", "", "größer")[row % 3] for row in range(rows)],
            "day": [str(r // 9) for r in range(rows)],
        },
    )


def breast_cancer() -> Table:
    data = load_breast_cancer()
    return Table({"": data.data}, data.target.astype(bool), stacked={"": tuple(data.feature_names)})


def small_types() -> Table:
    """Digits in the types that IDX has."""
    data = load_digits()
    rows = len(data.target)
    return Table(
        {"image": data.images.astype(np.uint8)},
        data.target.astype(np.uint8),
        [str(7 * row) for row in range(rows)],
        np.linspace(0.5, 2.0, rows).astype(np.float32),
        groups={"day": [str(row // 9) for row in range(rows)]},
    )


def digit_images() -> Table:
    """Digits as a folder of images has them: in the order of their paths."""
    data = load_digits()
    paths = [f"{label}/{row // 100}/{row:04}.png" for row, label in enumerate(data.target[:200])]
    order = sorted(range(len(paths)), key=lambda row: paths[row].encode())
    pixels = data.images[order].astype(np.uint8)[:, np.newaxis]
    labels = data.target[order]
    return Table(
        {"": pixels}, labels, [paths[row] for row in order], groups={"class": [str(label) for label in labels]}
    )


TABLES = {
    "digits": digits(),
    "breast_cancer": breast_cancer(),
    "small_types": small_types(),
    "digit_images": digit_images(),
}


def reference_digest(table: Table) -> str:
    """The definition of DatasetDigest, written out a second time over whole arrays."""
    described, states = [], []
    for name, values in sorted(table.inputs.items()):
        described.append(["input", name, values.dtype.name, list(values.shape[1:])])
        states.append(values.astype(values.dtype.newbyteorder("<")).tobytes())
    for part, values in (("target", table.targets), ("weight", table.weights)):
        if values is not None:
            described.append([part, "", values.dtype.name, list(values.shape[1:])])
            states.append(values.astype(values.dtype.newbyteorder("<")).tobytes())
    texts = [] if table.ids is None else [("id", "", table.ids)]
    texts += [("group", name, values) for name, values in sorted(table.groups.items())]
    for part, name, lines in texts:
        described.append([part, name, "utf8", []])
        states.append("".join(one + "\0" for one in lines).encode())
    text = str({"columns": described, "rows": len(table)}).replace("'", '"').replace(" ", "")
    whole = hashlib.sha256(f"undue dataset 1\n{text}\n".encode())
    for state in states:
        whole.update(hashlib.sha256(state).digest())
    return whole.hexdigest()
