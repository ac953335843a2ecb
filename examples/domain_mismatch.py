"""Four children left in the training data of a readmission model, and what influence says of its errors on children.

Koh & Liang 2017, section 5.1. A logistic regression predicts whether a member of a health insurance stays in hospital
in the next year, on as many members who do as who do not. All children but four are taken out of its training data, and
three of these four stay: the model now predicts a stay for nearly every child. Which training rows made it do so, and
what does taking those out change?

Usage: python examples/domain_mismatch.py [--quick]
"""

import argparse
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

import undue
from figures import panels, save, table
from sources.health import AGES, HealthRecords, heritage_health

L2 = 1e-4
CHILD = "age_05"
KEPT = (3, 1)
"""Children who stay and who do not, as in the paper."""
WRONG = 20
"""Wrongly predicted children who are explained one by one."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Rows of the table, balanced by outcome; no member is in both."""

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def split(records: HealthRecords, per_class: int, seed: int = 0) -> Split:
    """Draw members for training and testing, four to one, then as many rows that stay as that do not."""
    rng = np.random.default_rng(seed)
    members = np.unique(records.members)
    tested = rng.permutation(members)[: len(members) // 5]
    is_test = np.isin(records.members, tested)

    def balanced(rows: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
        parts = [rows[records.stay[rows] == outcome] for outcome in (1, 0)]
        size = min(most, *map(len, parts))
        return np.sort(np.concatenate([rng.choice(part, size, replace=False) for part in parts]))

    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return Split(balanced(train, per_class), balanced(test, per_class // 4))


def without_children(records: HealthRecords, train: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows with all children gone but four."""
    child = records.column(CHILD)[train] > 0
    rng = np.random.default_rng(1)
    kept = [
        rng.choice(train[child & (records.stay[train] == outcome)], count, replace=False)
        for outcome, count in zip((1, 0), KEPT, strict=True)
    ]
    return np.sort(np.concatenate([train[~child], *kept]))


def fitted(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> LogisticRegression:
    """Fit the regression; scikit-learn's C is 1/(n · L2), and it leaves the bias free."""
    # newton-cholesky works in the data's precision: in double it ends at the minimum.
    machine = LogisticRegression(C=1 / (len(x) * L2), solver="newton-cholesky", tol=1e-10, max_iter=1000)
    return machine.fit(x.astype(np.float64), y)


def head(machine: LogisticRegression) -> torch.nn.Linear:
    """Return the regression as torch has it."""
    linear = torch.nn.Linear(machine.coef_.shape[1], 1, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(machine.coef_))
        linear.bias.copy_(torch.from_numpy(machine.intercept_))
    return linear


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4,000 training rows instead of 20,000")
    quick = parser.parse_args().quick
    records = heritage_health()
    rows = split(records, 2_000 if quick else 10_000)
    few = without_children(records, rows.train)
    mean, spread = records.features[rows.train].mean(axis=0), records.features[rows.train].std(axis=0)
    varies = spread > 0
    names = [name for name, kept in zip(records.columns, varies, strict=True) if kept]

    def features(of: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return ((records.features[of] - mean)[:, varies] / spread[varies]).astype(np.float32)

    ages = np.array(AGES)[np.stack([records.column(age) for age in AGES], axis=1).argmax(axis=1)]
    child = ages == CHILD
    lines, machines = [], []
    for what, train in (("all children", rows.train), ("four children", few)):
        machine = fitted(features(train), records.stay[train])
        said = machine.predict(features(rows.test).astype(np.float64))
        right, tested = said == records.stay[rows.test], child[rows.test]
        machines.append(machine)
        lines.append(
            [
                what,
                f"{len(train):,}",
                int(child[train].sum()),
                f"{machine.coef_[0, names.index(CHILD)]:+.3f}",
                f"{right.mean():.1%}",
                f"{said[tested].mean():.1%}",
                f"{right[tested].mean():.1%}",
            ]
        )
    columns = ("trained on", "rows", "children", "their coefficient", "test accuracy", "children said to stay", "right")
    print(table(columns, lines))
    machine = machines[1]
    said = machine.predict(features(rows.test).astype(np.float64))
    wrong = np.flatnonzero(child[rows.test] & (said != records.stay[rows.test]))
    children = np.flatnonzero(child[few])

    with undue.Client.local() as client:
        train = client.datasets.register(
            "train", undue.Arrays(features(few), records.stay[few], groups={"age": ages[few]})
        )
        test = client.datasets.register("test", undue.Arrays(features(rows.test), records.stay[rows.test]))
        objective = undue.Objective("binary_logistic", l2=L2, l2_exclude=["bias"])
        example = torch.zeros(2, len(names), dtype=torch.float64)
        model = client.models.register(
            "readmission", head(machine), objective=objective, sample=train, example_inputs=example
        )
        asked = wrong[:: max(1, len(wrong) // WRONG)][:WRONG]
        scores = (
            client.influence(model, train=train, test=test, rows=asked, damping=0, top_k=None)
            .result()
            .scores.astype(np.float64)
        )
        groups = client.group_influence(
            model, train=train, test=test, rows=wrong, by="age", damping=0, reweight={CHILD: [0, 2]}
        ).result()

    ratios = _ratios(scores, children)
    print(f"\n{len(wrong)} of {int(child[rows.test].sum())} children of the test set are predicted wrongly.")
    listed = [*groups.explanation.helpful, *groups.explanation.harmful]
    other = max(abs(one.score) for one in listed if one.row not in children)
    print(
        f"|influence| on their mean loss, mean of the four children over the largest of any other row: "
        f"{groups.of(CHILD).mean_size / other:.1f}"
    )
    print(
        f"|influence| on {len(asked)} of them, mean of the four children over the largest of any other row: "
        f"median {np.median(ratios):.1f}, smallest {ratios.min():.1f}, largest {ratios.max():.1f}"
    )
    top = np.argsort(-np.abs(scores), axis=1)[:, : len(children)]
    print(f"the four children come first for {sum(set(t) == set(children) for t in top.tolist())} of them")
    print(f"\n{groups}")
    _figure(np.abs(scores[int(np.argsort(ratios)[len(ratios) // 2])]), children, machines, names)


def _ratios(scores: Floats, children: npt.NDArray[np.int64]) -> Floats:
    """Return, for each test row, the children's mean |score| over the largest |score| of any other row."""
    sizes = np.abs(scores)
    others = np.delete(sizes, children, axis=1).max(axis=1)
    return sizes[:, children].mean(axis=1) / others


def _figure(
    sizes: Floats, children: npt.NDArray[np.int64], machines: list[LogisticRegression], names: list[str]
) -> None:
    figure, (left, right) = panels(2, side=3.2)
    order = np.argsort(-sizes)[:40]
    colours = ["C3" if row in children else "C0" for row in order]
    left.bar(range(len(order)), sizes[order], color=colours)
    left.set(title="|influence| on a wrongly predicted child", xlabel="training rows (red: the four children)")
    ages = [name for name in names if name.startswith("age_")]
    for at, (machine, label) in enumerate(zip(machines, ("all children", "four children"), strict=True)):
        values = [machine.coef_[0, names.index(age)] for age in ages]
        right.bar(np.arange(len(ages)) + 0.4 * at, values, width=0.4, label=label)
    right.set(title="coefficients of age", xticks=np.arange(len(ages)) + 0.2, xticklabels=[a[4:] for a in ages])
    right.axhline(0, color="0.6", linewidth=0.7)
    right.legend(frameon=False)
    save(figure, "domain_mismatch")


if __name__ == "__main__":
    main()
