"""The scores of all training rows for the mean costs of several sets of test rows, from one fit of a method."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .attribution import Attribution, finite_blocks, list_length, of_mean, train_facts
from .data import Rows
from .diagnostics import EngineDiagnostics, begin
from .measurements import check_measurement
from .methods import Factors, Problem, averaged, find
from .queries import Asked, RowFacts
from .solvers import Effort
from .topk import TopK


@dataclass(frozen=True)
class MeanScores:
    """What a method says of k sets of test rows."""

    scores: NDArray[np.float64]
    """(k, n)."""
    facts: tuple[RowFacts, ...]
    """Of the test rows of each set."""
    factors: Factors
    diagnostics: EngineDiagnostics
    """Of all sets together."""


def mean_scores(
    problem: Problem,
    test: Rows,
    sets: Sequence[Sequence[int]],
    *,
    method: str,
    measurement: str = "loss",
    ensemble: bool = False,
) -> MeanScores:
    """Score every training row for the mean cost of each set of test rows; signs and units are those of `influence`.

    Args:
        problem: the model, its training data and the settings of the method.
        test: the test rows.
        sets: row numbers, at least one in each.
        method: name of the method.
        measurement: the cost of a test row.
        ensemble: whether the scores are averaged over the checkpoints.

    Raises:
        InvalidArgument: as `influence`.
        FailedPrecondition: as `influence`.
    """
    started = time.perf_counter()
    chosen = averaged(find(method)) if ensemble else find(method)
    check_measurement(measurement, problem.objective.loss)
    diagnosis = begin(problem)
    factors = chosen.fit(problem)
    scores = np.empty((len(sets), len(problem.train)))
    facts, effort = [], Effort()
    for k, rows in enumerate(sets):
        asked = Asked(test, rows, measurement, True, problem.memory_bytes // 4, problem.progress, problem.objective)
        facts.append(asked.facts(problem.objective))
        queries = chosen.query(factors, problem, asked)
        effort += queries.effort
        for block in finite_blocks(chosen.score(factors, queries, problem)):
            scores[k, block.index.numpy()] = block.scores[0].to("cpu", torch.float64).numpy()
    spec = of_mean(chosen.spec, len(sets[0]), "mean")
    seconds = time.perf_counter() - started
    diagnostics = diagnosis.finish(problem.objective, spec, factors, effort, seconds)
    return MeanScores(scores, tuple(facts), factors, diagnostics)


def attribution_of(problem: Problem, found: MeanScores, top_k: int) -> Attribution:
    """Return the training rows that matter most to the first set of test rows, as `influence` would."""
    k = list_length(top_k, len(problem.train))
    index = torch.arange(len(problem.train))
    lists: list[Tensor] = []
    for sign in (1, -1):
        best = TopK(1, k, torch.device("cpu"))
        best.update(index, torch.from_numpy(sign * found.scores[:1]))
        rows, scores = best.result()
        lists += [rows, sign * scores]
    helpful_rows, helpful_scores, harmful_rows, harmful_scores = (one.numpy() for one in lists)
    listed = np.unique(np.concatenate([helpful_rows.ravel(), harmful_rows.ravel()]))
    return Attribution(
        test=found.facts[0],
        helpful_rows=helpful_rows,
        helpful_scores=helpful_scores,
        harmful_rows=harmful_rows,
        harmful_scores=harmful_scores,
        scores=None,
        train=train_facts(problem, listed[listed >= 0]),
        diagnostics=found.diagnostics,
        aggregate="mean",
    )
