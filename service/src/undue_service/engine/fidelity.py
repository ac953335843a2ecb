"""Whether scores are true: held against retraining, by leave-one-out or by the linear datamodelling score."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from undue_service.domain.errors import InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.reports import FidelityFinding, Stratum

from .agreement import FEW_TEST_ROWS, Bootstrap, is_constant, pooled, within_rows
from .data import Rows
from .objective import Objective
from .progress import Progress, silent
from .retraining.edits import removing
from .retraining.refits import Refits
from .retraining.retrain import choose_refits
from .retraining.training import Recipe

_FEW_RETRAININGS = 10


@dataclass(frozen=True)
class FidelityResult:
    """What retraining says of scores, and what it is said from."""

    finding: FidelityFinding
    rows: NDArray[np.int64]
    """(m,) test rows."""
    without: tuple[tuple[int, ...], ...]
    """loo: k sets of one training row; lds: empty."""
    subsets: NDArray[np.int64]
    """lds: (k, s) training rows, in order; loo: (0, 0)."""
    predicted: NDArray[np.float64]
    """(k, m): loo, the score; lds, −(n/s) Σ_{i ∈ S} score(i, t), which is the change of the cost but for a constant."""
    measured: NDArray[np.float64]
    """(k, m): loo, the change of the cost; lds, the cost."""
    stratum: NDArray[np.int64]
    """(k,) which stratum a row was drawn from; −1 for those drawn from all."""


def fidelity(
    objective: Objective,
    train: Rows,
    test: Rows,
    *,
    scores: NDArray[np.floating],
    rows: Sequence[int] | NDArray[np.int64],
    scale: str,
    settings: FidelitySettings,
    recipe: Recipe | None = None,
    measurement: str = "loss",
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> FidelityResult:
    """Retrain, and compare what changes with what the scores say.

    "loo": `samples` training rows drawn from all, each equally likely, and as many from strata, equally from each
    quantile of mean_t |score(i, t)|; each is removed alone, 1/n kept. Never only the rows with the largest scores:
    those flatter a method.

    "lds": `samples` random subsets S of `share` · n rows. Predicted is −(n/|S|) Σ_{i ∈ S} score(i, t): to first order,
    and but for a constant of the test row, the change of the cost on going from all rows to S alone. Measured is the
    cost after training on S, divided by |S|. The score is Spearman's correlation over the subsets, averaged over the
    test rows (Park et al. 2023).

    Args:
        objective: at its registered weights.
        train: the n rows.
        test: whose costs are measured.
        scores: (m, n), positive where removing the row raises the cost.
        rows: the m test rows that they are of.
        scale: "removal" or "relative".
        settings: protocol, samples, seeds.
        recipe: of retraining, where the model is no linear head.
        measurement: the cost that the scores are about.
        memory_bytes: budget of the retraining, and of `predicted` and `measured`.
        progress: told while retraining.

    Raises:
        InvalidArgument: INVALID_FIELD for settings that cannot be; and as `retrain`.
        FailedPrecondition: as `retrain`.
        ResourceExhausted: OUT_OF_MEMORY where the costs would not fit.
    """
    started = time.perf_counter()
    n, m = len(train), len(rows)
    if scores.shape != (m, n):
        raise ValueError(f"scores of {m} test and {n} training rows have the shape {scores.shape}")
    _check(settings, n, m, memory_bytes)
    test_rows = np.asarray(rows, dtype=np.int64)
    refits = choose_refits(
        objective,
        train,
        test,
        test_rows.tolist(),
        recipe=recipe,
        start=settings.start,
        seeds=settings.seeds,
        measurement=measurement,
        memory_bytes=memory_bytes,
        progress=progress,
    )
    if settings.protocol == "loo":
        found = _leave_one_out(scores, test_rows, refits, settings)
    else:
        found = _datamodelling(scores, test_rows, refits, settings)
    warnings = [*found.finding.warnings, *_warnings(found, scale, settings), *refits.warnings]
    if settings.protocol == "lds" and refits.starts_warm:
        text = (
            "every subset was trained from the registered weights, which have seen all rows: the score counts only "
            'what those epochs undo; register the recipe with init= and pass start="cold"'
        )
        warnings.append(text)
    seconds = time.perf_counter() - started
    return replace(found, finding=replace(found.finding, seconds=seconds, warnings=tuple(warnings)))


def _check(settings: FidelitySettings, n: int, m: int, memory_bytes: int) -> None:
    for name in ("samples", "strata", "seeds", "bootstrap"):
        if getattr(settings, name) < 1:
            raise InvalidArgument.at(name, f"is at least 1, not {getattr(settings, name)}")
    if not 0 < settings.share < 1:
        raise InvalidArgument.at("share", f"lies between 0 and 1, not {settings.share}")
    retrainings = settings.samples * (2 if settings.protocol == "loo" else 1)
    if 16 * retrainings * m > memory_bytes:
        size = 16 * retrainings * m / 2**30
        text = (
            f"the costs of {m:,} test rows after {retrainings:,} retrainings take {size:.1f} GiB, more than the "
            f"{memory_bytes / 2**30:.1f} GiB allowed: pass fewer test rows or samples"
        )
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)
    if n < 2:
        raise InvalidArgument.at("train", "there is one training row: nothing would be left to train on")


def _leave_one_out(
    scores: NDArray[np.floating], rows: NDArray[np.int64], refits: Refits, settings: FidelitySettings
) -> FidelityResult:
    n = scores.shape[1]
    rng = np.random.default_rng(settings.seed)
    size = sum(np.abs(of_test).astype(np.float64) for of_test in scores) / len(scores)
    bins = [part for part in np.array_split(np.argsort(size, kind="stable"), settings.strata) if len(part)]
    shares = [len(part) for part in np.array_split(np.arange(settings.samples), len(bins))]
    drawn = [rng.choice(n, min(settings.samples, n), replace=False)]
    drawn += [rng.choice(part, min(share, len(part)), replace=False) for part, share in zip(bins, shares, strict=True)]
    every = np.concatenate(drawn)
    stratum = np.repeat(np.arange(-1, len(bins)), [len(part) for part in drawn])
    unique, places = np.unique(every, return_inverse=True)  # a row that is drawn twice is removed once
    baseline = refits.baseline()
    measured = (refits.after(removing([[row] for row in unique.tolist()])).costs - baseline)[places]
    predicted = scores[:, every].T.astype(np.float64)

    def agreement(of: int):
        a, b = predicted[stratum == of], measured[stratum == of]
        return pooled(a, b, Bootstrap.drawn(*a.shape, settings.bootstrap, settings.seed))

    strata = tuple(
        Stratum(float(size[part].min()), float(size[part].max()), agreement(k))
        for k, part in enumerate(bins)
        if (stratum == k).any()
    )
    finding = FidelityFinding("loo", refits.recipe(), agreement(-1), strata)
    return FidelityResult(
        finding,
        rows,
        tuple((row,) for row in every.tolist()),
        np.empty((0, 0), dtype=np.int64),
        predicted,
        measured,
        stratum,
    )


def _datamodelling(
    scores: NDArray[np.floating], rows: NDArray[np.int64], refits: Refits, settings: FidelitySettings
) -> FidelityResult:
    n = scores.shape[1]
    rng = np.random.default_rng(settings.seed)
    size = min(max(1, round(settings.share * n)), n - 1)
    subsets = np.stack([np.sort(rng.choice(n, size, replace=False)) for _ in range(settings.samples)])
    held = np.zeros((n, len(subsets)))
    for k, rows_of in enumerate(subsets):
        held[rows_of, k] = 1
    predicted = np.stack([-(n / size) * (of_test.astype(np.float64) @ held) for of_test in scores], axis=1)
    left_out = removing(np.flatnonzero(held[:, k] == 0).tolist() for k in range(len(subsets)))
    measured = refits.after(left_out, "subset").costs
    bootstrap = Bootstrap.drawn(*predicted.shape, settings.bootstrap, settings.seed)
    agreement = within_rows(predicted, measured, bootstrap)
    finding = FidelityFinding("lds", refits.recipe("subset"), agreement, lds=agreement.spearman)
    stratum = np.full(len(subsets), -1)
    return FidelityResult(finding, rows, (), subsets, predicted, measured, stratum)


def _warnings(found: FidelityResult, scale: str, settings: FidelitySettings) -> list[str]:
    """Return what the reader should know of the numbers."""
    lds = settings.protocol == "lds"
    drawn = found.stratum == -1
    a, b = found.predicted[drawn], found.measured[drawn]
    said = []
    if len(a) < _FEW_RETRAININGS:
        said.append(f"{len(a)} retrainings tell little: pass samples={_FEW_RETRAININGS} or more")
    if not lds and len(a) < settings.samples:
        said.append(f"there are only {len(a)} training rows: each was removed once")
    for values, what in ((a, "predicted"), (b, "measured")):
        constant = is_constant(values, 0) if lds else is_constant(values)[None]
        if constant.all():
            said.append(f"the {what} changes are all the same, so no correlation is defined")
        elif constant.any():
            said.append(
                f"the {what} costs of {int(constant.sum())} of {len(constant)} test rows are the same after every "
                "retraining: these rows have no correlation and are left out of the score"
            )
    if scale == "relative":
        said.append("the scores order rows and have no unit: the slope says nothing of them")
    elif lds:
        said.append(
            "a subset's prediction is a sum of scores: it keeps the order, but where rows support each other the sum "
            "underestimates the size, and the slope exceeds 1"
        )
    if a.shape[1] < FEW_TEST_ROWS:
        said.append(f"with {a.shape[1]} test rows only retrainings are resampled: the intervals are about these rows")
    return said
