"""Spam with 10 % of the labels flipped: which ranking finds the flipped mails first (Koh & Liang 2017, figure 6).

Usage: python examples/mislabelled_spam.py [--quick] [--seeds 10] [--mails 1000] [--words 1000] [--l2 1e-4]
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

import undue
from figures import panels, save, table
from sources import Mails, spam_assassin

MAILS, TESTS, WORDS, L2 = 1000, 1035, 1000, 1e-4
"""As many words as mails, and the L2 of the paper's code: its 4,147 mails have some thousands."""
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
PLAIN = "self_influence, no leverage"
_WORD = re.compile(r"[a-z][a-z']+")


@dataclass(frozen=True)
class Split:
    """Counts of words (n, words) float32, and whether a mail is spam (n,)."""

    train: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
    test: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def bag_of_words(mails: Mails, n: int, m: int, words: int) -> Split:
    """Return counts of the words that most training mails have; the first m mails are the test set."""
    both = zip(mails.subjects, mails.texts, strict=True)
    mails_words = [_WORD.findall(f"{subject}\n{text}".lower()) for subject, text in both][: n + m]
    frequency = Counter(word for some in mails_words[m:] for word in set(some))
    column = {word: at for at, (word, _) in enumerate(frequency.most_common(words))}
    counts = np.zeros((n + m, words), np.float32)
    for row, some in enumerate(mails_words):
        for word in some:
            if word in column:
                counts[row, column[word]] += 1
    return Split((counts[m:], mails.spam[m : n + m]), (counts[:m], mails.spam[:m]))


def fit(split: Split, l2: float) -> torch.nn.Linear:
    """Minimise the mean logistic loss + l2/2 ‖θ‖² by L-BFGS, the bias included."""
    x, y = torch.from_numpy(split.train[0]).double(), torch.from_numpy(split.train[1]).double()
    linear = torch.nn.Linear(x.shape[1], 1).double()
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(
        linear.parameters(), max_iter=1000, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(linear(x)[:, 0], y)
        value = value + l2 / 2 * sum(one.square().sum() for one in linear.parameters())
        value.backward()
        return value

    optimizer.step(objective)
    return linear


def run(client: undue.Client, split: Split, l2: float, seeds: int) -> dict[str, tuple[undue.MislabelPoint, ...]]:
    """Return the curve of each ranking, the paper's uncorrected self-influence among them, on the same flips."""
    words = split.train[0].shape[1]
    train = client.datasets.register("spam-train", undue.Arrays(*split.train))
    test = client.datasets.register("spam-test", undue.Arrays(*split.test))
    model = client.models.register(
        "spam",
        fit(split, l2),
        objective=undue.Objective("binary_logistic", l2=l2),
        sample=train,
        example_inputs=torch.zeros(2, words).double(),
    )
    shared = {"train": train, "test": test, "flip": 0.1, "budgets": BUDGETS, "seeds": seeds}
    found = client.mislabels(
        model, rankings=["self_influence", "loss", "confident_learning", "random"], **shared
    ).result()
    plain = client.mislabels(model, rankings=["self_influence"], leverage_correction=False, **shared).result()
    print(
        f"{len(split.train[1]):,} training and {len(split.test[1]):,} test mails, counts of {words:,} words, L2 "
        f"{l2:g}: {found.wrong} flipped labels, {seeds} seeds; accuracy {found.accuracy_right:.3f} without flips, "
        f"{found.accuracy_wrong.mean():.3f} with them"
    )
    curves = dict(found.curves)
    return {"self_influence": curves.pop("self_influence"), PLAIN: plain.curves["self_influence"], **curves}


def lead(one: Sequence[undue.MislabelPoint], other: Sequence[undue.MislabelPoint]) -> list[str]:
    """Return by how much one ranking finds more than another at each budget, with Student's interval over the seeds."""
    cells = []
    for a, b in zip(one, other, strict=True):
        more = a.found.by_seed - b.found.by_seed
        if len(more) > 1:
            half = stats.t.ppf(0.975, len(more) - 1) * stats.sem(more)
            cells.append(f"{more.mean():+.3f} ±{half:.3f}")
        else:
            cells.append(f"{more[0]:+.3f}")
    return cells


def show(curves: dict[str, tuple[undue.MislabelPoint, ...]], name: str) -> None:
    """Print what was found and what it is worth, and draw both."""
    header = [f"{budget:.0%}" for budget in BUDGETS]
    for what, title in (
        ("found", "share of the flipped labels found"),
        ("accuracy", "accuracy once they are put right"),
    ):
        rows = [
            [
                ranking,
                *(f"{(mean := getattr(point, what)).value:.3f} ±{mean.high - mean.value:.3f}" for point in points),
            ]
            for ranking, points in curves.items()
        ]
        print(f"\n{title}, by the share of the mails that is checked\n{table(['ranking', *header], rows)}")
    ahead = [
        [f"{one} − {other}", *lead(curves[one], curves[other])]
        for one in ("self_influence", PLAIN)
        for other in ("loss", "random")
    ]
    print(f"\nby how much more is found on the same flips\n{table(['difference', *header], ahead)}")
    figure, axes = panels(2, side=3.2)
    for panel, what in zip(axes, ("found", "accuracy"), strict=True):
        for ranking, points in curves.items():
            means = [getattr(point, what) for point in points]
            half = [mean.high - mean.value if len(mean.by_seed) > 1 else 0 for mean in means]
            panel.errorbar(
                BUDGETS, [mean.value for mean in means], half, label=ranking, marker="o", markersize=3, linewidth=1
            )
        panel.set(xlabel="share of the mails checked")
    axes[0].set(ylabel="share of the flipped labels found", ylim=(0, 1))
    axes[1].set(ylabel="test accuracy once they are put right")
    axes[0].legend(frameon=False)
    save(figure, name)


def main() -> None:
    """Print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 mails, 300 words, 3 seeds")
    parser.add_argument("--seeds", type=int, help="repetitions, each with its own flips (10)")
    parser.add_argument("--mails", type=int, help="training mails (1000)")
    parser.add_argument("--words", type=int, help="of the vocabulary (1000)")
    parser.add_argument("--l2", type=float, default=L2, help="strength of the L2 term (1e-4, as in the paper's code)")
    arguments = parser.parse_args()
    mails = arguments.mails or (300 if arguments.quick else MAILS)
    words = arguments.words or (300 if arguments.quick else WORDS)
    seeds = arguments.seeds or (3 if arguments.quick else 10)
    started = time.perf_counter()
    with undue.Client.local() as client:
        curves = run(client, bag_of_words(spam_assassin(), mails, TESTS, words), arguments.l2, seeds)
    show(curves, "mislabelled_spam")
    print(f"{time.perf_counter() - started:,.0f} s")


if __name__ == "__main__":
    main()
