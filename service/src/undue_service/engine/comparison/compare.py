"""What one model, or two, say of the same test rows: side by side, against what is near, and without parts."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from undue_service.domain.comparison_findings import Ablation, ListAgreement, Nearness, Scatter, Variant
from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.methods import method_spec
from undue_service.engine.attribution import Attribution, influence
from undue_service.engine.data import Rows
from undue_service.engine.methods import Problem
from undue_service.engine.queries import asked_rows

from .ablation import residual_norms, variants
from .distance import distances
from .overlap import jaccard, leading, pearson, rank_biased_overlap, spearman

Matrix = NDArray[np.float32]

_MATRICES = 5
"""(m, n) numbers of four bytes that are held at most: two models' scores, inner products, distances, a copy."""


@dataclass(frozen=True)
class Side:
    """A model that is asked."""

    problem: Problem
    method: str
    ensemble: bool = False


@dataclass(frozen=True)
class SideFound:
    """What a model says of m test rows."""

    attribution: Attribution
    ablations: tuple[tuple[Ablation, ...], ...]
    """Of each test row; empty where they were not asked for, or the method has no parts."""
    nearness: tuple[Nearness | None, ...]
    """Of each test row."""


@dataclass(frozen=True)
class ComparisonResult:
    """What two models, or one, say of m test rows."""

    side: SideFound
    other: SideFound | None
    agreements: tuple[ListAgreement, ...]
    """Of the two models on each test row; empty without another."""
    scatters: tuple[Scatter, ...]
    """Of each test row."""
    distance_inputs: tuple[str, ...]
    warnings: tuple[str, ...]
    other_warnings: tuple[str, ...]


@dataclass(frozen=True)
class CompareQuestion:
    """What is asked."""

    rows: Sequence[int] | None = None
    top_k: int = 10
    measurement: str = "loss"
    ablation: bool = True
    distance: bool = True
    distance_inputs: Sequence[str] = ()
    """None means all that the models take as numbers."""
    scatter: int = 1000
    seed: int = 0


def compare(test: Rows, side: Side, other: Side | None, question: CompareQuestion) -> ComparisonResult:
    """Score the training rows for test rows by each model, and hold the scores against what else there is.

    Args:
        test: the test set.
        side: a model and its training rows.
        other: another model on the same training rows; None for one alone.
        question: rows, lists, and what to hold scores against.

    Raises:
        InvalidArgument: as `influence` and `distances`.
        FailedPrecondition: as `influence`.
        ResourceExhausted: OUT_OF_MEMORY where the scores would not fit.
    """
    problem = side.problem
    rows = asked_rows(question.rows, len(test))
    n = len(problem.train)
    _check_size(len(rows), n, problem.memory_bytes)
    names = _distance_inputs(side, other, question)
    near: Matrix | None = None
    if names:
        near = distances(
            problem.train, test, rows, names, memory_bytes=problem.memory_bytes // 4, progress=problem.progress
        )
    found, warnings = _side(side, test, rows, question, near)
    beside, other_warnings = (None, ()) if other is None else _side(other, test, rows, question, near)
    if question.distance and not names:
        warnings = (
            *warnings,
            "the models take no numbers as inputs, so there is no distance: name some in distance_inputs",
        )
    agreements = ()
    if beside is not None:
        pairs = zip(_scores(found), _scores(beside), strict=True)
        agreements = tuple(agreement(a, b, question.top_k) for a, b in pairs)
    return ComparisonResult(
        side=_without_scores(found),
        other=None if beside is None else _without_scores(beside),
        agreements=agreements,
        scatters=tuple(_scatters(found, beside, near, n, question)),
        distance_inputs=names,
        warnings=warnings,
        other_warnings=other_warnings,
    )


def agreement(a: NDArray[np.floating], b: NDArray[np.floating], k: int) -> ListAgreement:
    """Return how far two models', or two variants', scores (n,) of the same rows agree."""
    helpful, harmful = ([leading(scores, k, sign) for scores in (a, b)] for sign in (1, -1))
    return ListAgreement(
        spearman=spearman(a, b),
        jaccard_helpful=jaccard(*helpful),
        jaccard_harmful=jaccard(*harmful),
        overlap_helpful=rank_biased_overlap(*helpful),
        overlap_harmful=rank_biased_overlap(*harmful),
    )


def _side(
    side: Side, test: Rows, rows: Sequence[int], question: CompareQuestion, near: Matrix | None
) -> tuple[SideFound, tuple[str, ...]]:
    problem, started = side.problem, time.perf_counter()
    found = _influence(side, side.method, test, rows, question)
    scores = found.scores
    assert scores is not None  # noqa: S101  they were asked for
    ablations: list[tuple[Ablation, ...]] = [()] * len(rows)
    warnings: tuple[str, ...] = ()
    spec = method_spec(side.method)
    if question.ablation and (spec.scale != "removal" or side.ensemble):
        what = "an average over checkpoints" if side.ensemble else f"a score of {side.method}"
        warnings = (f"{what} is not made of a curvature and a loss, so there is nothing to leave out of it",)
    elif question.ablation:
        plain = Side(_unsolved(problem), "grad_dot")
        inner = _influence(plain, "grad_dot", test, rows, question).scores
        assert inner is not None  # noqa: S101
        norms = residual_norms(
            problem.objective, problem.train, memory_bytes=problem.memory_bytes, progress=problem.progress
        )
        for t in range(len(rows)):
            made = variants(scores[t : t + 1], inner[t : t + 1], norms)
            ablations[t] = tuple(_ablations(scores[t], made, question.top_k))
    nearness: list[Nearness | None] = [None] * len(rows)
    if near is not None:
        nearness = [
            Nearness(pearson(np.abs(scores[t]), -near[t]), spearman(np.abs(scores[t]), -near[t]))
            for t in range(len(rows))
        ]
    told = replace(found.diagnostics, seconds=time.perf_counter() - started)
    return SideFound(replace(found, diagnostics=told), tuple(ablations), tuple(nearness)), warnings


def _ablations(scores: NDArray[np.float32], made: Mapping[Variant, Matrix], k: int) -> Iterator[Ablation]:
    for name, others in made.items():
        yield Ablation(name, agreement(scores, others[0], k))


def _influence(side: Side, method: str, test: Rows, rows: Sequence[int], question: CompareQuestion) -> Attribution:
    problem = side.problem
    return influence(
        problem.objective,
        problem.train,
        test,
        rows=rows,
        method=method,
        measurement=question.measurement,
        damping=problem.damping,
        top_k=question.top_k,
        leverage_correction=problem.leverage_correction,
        tolerance=problem.tolerance,
        max_iterations=problem.max_iterations,
        rank=problem.rank,
        normalization=problem.normalization,
        seed=problem.seed,
        checkpoints=problem.checkpoints,
        ensemble=side.ensemble,
        keep_scores=True,
        memory_bytes=problem.memory_bytes,
        progress=problem.progress,
    )


def _unsolved(problem: Problem) -> Problem:
    """Return the same model and rows with no settings of a method."""
    return Problem(
        problem.objective,
        problem.train,
        memory_bytes=problem.memory_bytes,
        progress=problem.progress,
        seed=problem.seed,
    )


def _scatters(
    found: SideFound, other: SideFound | None, near: Matrix | None, n: int, question: CompareQuestion
) -> Iterator[Scatter]:
    drawn = np.random.default_rng(question.seed).choice(n, min(question.scatter, n), replace=False)
    sides = [found] if other is None else [found, other]
    for t in range(len(found.attribution.test.rows)):
        lists = [side.attribution.helpful_rows[t] for side in sides] + [
            side.attribution.harmful_rows[t] for side in sides
        ]
        rows = np.unique(np.concatenate([drawn, *lists]))
        rows = rows[rows >= 0]
        yield Scatter(
            rows=tuple(rows.tolist()),
            scores=tuple(_scores(found)[t, rows].tolist()),
            other_scores=() if other is None else tuple(_scores(other)[t, rows].tolist()),
            distances=() if near is None else tuple(near[t, rows].tolist()),
        )


def _distance_inputs(side: Side, other: Side | None, question: CompareQuestion) -> tuple[str, ...]:
    """Return the names of the inputs, as the training data has them, that distances are over."""
    if not question.distance:
        return ()
    if question.distance_inputs:
        return tuple(question.distance_inputs)
    have = next(iter(side.problem.train.batches(1))).inputs
    found: list[str] = []
    for one in (side, other) if other is not None else (side,):
        taken = one.problem.objective.program.inputs
        numbers = [spec.name for spec in taken if spec.dtype.is_floating_point]
        if len(taken) == 1 and len(have) == 1 and numbers:
            numbers = list(have)  # one input each: the names need not agree
        found += [name for name in numbers if name in have]
    return tuple(dict.fromkeys(found))


def _scores(found: SideFound) -> Matrix:
    assert found.attribution.scores is not None  # noqa: S101  they were asked for
    return found.attribution.scores


def _without_scores(found: SideFound) -> SideFound:
    return replace(found, attribution=replace(found.attribution, scores=None))


def _check_size(m: int, n: int, memory_bytes: int) -> None:
    """Refuse, before anything is computed, what would not fit."""
    taken = 4 * _MATRICES * m * n
    if taken > memory_bytes:
        most = max(1, memory_bytes // (4 * _MATRICES * n))
        text = (
            f"what is held of {n:,} training rows for {m:,} test rows takes {taken / 2**30:.1f} GiB, more than the "
            f"{memory_bytes / 2**30:.1f} GiB allowed: ask for {most:,} rows or fewer"
        )
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)
