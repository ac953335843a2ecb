"""What the page says of the index on models that are no MLP."""

import pytest

from benchmarks.index_models_page import section

BUILT = {
    "parameters": 770,
    "build_seconds": 61.4,
    "build_peak_bytes": 3 * 2**30,
    "bytes_per_row": 144.3,
    "recall": 0.99875,
    "first_seconds": 2.0,
    "p50": 0.5,
}
MAIL = {"rows": 1000, "test_rows": 100, "tokens": 64, "l2": 1e-3, "accuracy": 0.94, "head": BUILT, "block": BUILT}
LOO = {"explained": 10, "random": 50, "listed": 92, "removed": 137} | {
    f"{what}_{name}": 0.99 for what in ("pearson", "least") for name in ("all", "random", "listed")
}
AGREEMENT = {"largest_difference": 9.2e-7, "listed_by_both": 1.0}
CNN = {"rows": 1000, "accuracy": 0.8, "epochs": 8, "explained": 10, "index": BUILT, "offline_seconds": 60.0}


@pytest.mark.parametrize(
    ("by_self", "by_loss", "says", "difference"),
    [(0.80, 0.84, "finds no more", "-4.0 (-4.0 to -4.0)"), (0.86, 0.84, "finds more", "+2.0 (+2.0 to +2.0)")],
)
def test_the_verdict_on_flipped_labels_is_what_was_measured(by_self, by_loss, says, difference) -> None:
    found = {"self_influence": [[0.4, by_self, 0.9, 1.0]] * 2, "loss": [[0.4, by_loss, 0.9, 1.0]] * 2}
    flips = {"rows": 5400, "flipped": 0.1, "seeds": 2, "checked": [0.05, 0.1, 0.2, 0.3], "found": found}
    page = section({"mail": MAIL | {"loo": LOO}, "flips": flips, "cnn": CNN | {"agreement": AGREEMENT}})
    assert f"Self-influence {says} than the training loss does." in page
    assert difference in page
    assert "| MiniLM, the head, `exact` | 1,000 | 770 | 61 | 3,072 | 144 | 0.9988 | 2.00 | 0.500 |" in page
