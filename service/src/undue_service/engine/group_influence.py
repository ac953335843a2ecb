"""Which groups of training rows moved some predictions, by how much more than their share, and reweighting them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.group_findings import CostChange, GroupEffect
from undue_service.domain.group_influence import REWEIGHTED_FACTORS, Reweighting

from .attribution import Attribution, train_facts
from .curvature import Damped, Dense, Hessian
from .data import Rows
from .group_response import GroupResponse
from .group_shares import Share, group_shares
from .mean_scores import MeanScores, attribution_of, mean_scores
from .methods import Factors, Problem
from .methods.exact import ExactFactors
from .objective import Objective
from .queries import Asked, RowFacts, asked_rows
from .retraining.edits import Edit
from .retraining.refits import Refits
from .solvers import Cholesky

LISTED_GROUPS = 20
"""Leading groups of a column whose most influential rows are listed."""

Floats = NDArray[np.float64]
Choose = Callable[[Sequence[int]], Refits]
"""Returns what fits the registered model again and measures some test rows."""


@dataclass(frozen=True)
class GroupInfluenceResult:
    """What groups of training rows have to do with some test rows."""

    attribution: Attribution
    """The training rows that matter most to the mean cost of the test rows."""
    columns: Mapping[str, Sequence[Share]]
    """Shares by column, most excess first."""
    listed: RowFacts
    """The training rows that are listed for the leading groups, ascending."""
    scores: Floats
    """(n,)."""
    effects: tuple[GroupEffect, ...]
    rest_rows: int
    """Test rows that were not asked about; 0 where nothing was retrained."""
    recipe: str
    """Of retraining; empty where nothing was."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What is asked of the groups."""

    rows: Sequence[int]
    """Test rows."""
    groups: Mapping[str, Sequence[str]]
    """Column to the n values of the training rows."""
    reweight: Sequence[Reweighting] = ()
    reweight_top: int = 0
    """Groups with the most excess to reweight where `reweight` names none."""
    top_k: int = 10
    bootstrap: int = 1000
    method: str = "exact"
    measurement: str = "loss"
    ensemble: bool = False


def group_influence(
    problem: Problem,
    test: Rows,
    question: Question,
    *,
    registered: Objective | None = None,
    refits: Choose | None = None,
) -> GroupInfluenceResult:
    """Share the influence on the mean cost of some test rows among groups of training rows, and measure reweighting.

    Args:
        problem: the model that is scored, its training data, and the settings of the method.
        test: the test set.
        question: rows, groups, and what to reweight.
        registered: the model that is retrained, in float64 where it is a linear head; None: that which is scored.
        refits: fits it again; needed where something is reweighted.

    Raises:
        InvalidArgument: INVALID_FIELD where there are no test rows, or a group to reweight has no training row;
            ROW_OUT_OF_RANGE; and as `influence`.
        FailedPrecondition: as `influence`; as `retrain` where something is reweighted.
    """
    started = time.perf_counter()
    rows = asked_rows(question.rows, len(test))
    members = _members(question)
    measures = bool(question.reweight or question.reweight_top)
    rest = np.setdiff1d(np.arange(len(test)), rows).tolist() if measures else []
    found = mean_scores(
        problem,
        test,
        [rows, rest] if rest else [rows],
        method=question.method,
        measurement=question.measurement,
        ensemble=question.ensemble,
    )
    weights = _weights(problem)
    columns = {
        name: group_shares(
            found.scores[0],
            values,
            weights,
            bootstrap=question.bootstrap,
            seed=problem.seed,
            progress=problem.progress,
        )
        for name, values in question.groups.items()
    }
    leading = [share.rows[: question.top_k] for shares in columns.values() for share in shares[:LISTED_GROUPS]]
    effects: tuple[GroupEffect, ...] = ()
    recipe, warnings = "", _warnings(found)
    asked = list(question.reweight) or _leading(columns, question.reweight_top)
    if measures and not asked:
        warnings = (*warnings, "all training rows are one group, so there is none to reweight")
    if asked:
        if refits is None:
            raise ValueError("reweighting needs something that fits the model again")
        fits = refits([*rows, *rest])
        predicted = _Predictions(problem, registered or problem.objective, test, [rows, rest], question, found)
        effects = tuple(_effects(asked, members, weights, fits, predicted, len(rows)))
        recipe, warnings = fits.recipe(), (*warnings, *fits.warnings)
    attribution = attribution_of(problem, found, question.top_k)
    told = replace(attribution.diagnostics, seconds=time.perf_counter() - started)
    return GroupInfluenceResult(
        attribution=replace(attribution, diagnostics=told),
        columns=columns,
        listed=train_facts(problem, np.unique(np.concatenate(leading))),
        scores=found.scores[0],
        effects=effects,
        rest_rows=len(rest),
        recipe=recipe,
        warnings=warnings,
    )


class _Predictions:
    """What influence says of reweighting, beside what retraining measures."""

    def __init__(
        self,
        problem: Problem,
        registered: Objective,
        test: Rows,
        sets: Sequence[Sequence[int]],
        question: Question,
        found: MeanScores,
    ) -> None:
        self._scores = found.scores if found.diagnostics.scale == "removal" else None
        self.has_labels = next(iter(test.batches(1))).targets is not None
        """Whether the test rows have targets, so that a prediction can be right or wrong."""
        self._response: GroupResponse | None = None
        if self._scores is not None and registered.head is not None:
            self._gradients = torch.cat(
                [
                    Asked(test, rows, question.measurement, True, problem.memory_bytes // 4).columns(registered)
                    for rows in sets
                    if rows
                ],
                dim=1,
            )
            self._response = _response(problem, registered, found.factors)

    def of(self, rows: NDArray[np.int64], factor: float) -> list[tuple[float | None, float | None]]:
        """Return the change of each set's mean cost, to first order and by one Newton step."""
        if self._scores is None:
            return [(None, None)] * 2
        first = (1 - factor) * self._scores[:, rows].sum(axis=1)
        corrected: list[float | None] = [None] * len(first)
        if self._response is not None:
            corrected = self._response.changes(rows.tolist(), [factor], self._gradients)[0].tolist()
        return list(zip(first.tolist(), corrected, strict=True))


def _response(problem: Problem, registered: Objective, factors: Factors) -> GroupResponse:
    """Return the closed form, from the Hessian that the method has factorised where it is the registered model's."""
    if isinstance(factors, ExactFactors) and registered is problem.objective:
        state = factors.state
    else:
        H = Hessian(registered, problem.train, memory_bytes=problem.memory_bytes, progress=problem.progress).to_dense()
        state = Cholesky().prepare(Damped(Dense(H), factors.damping.value))
    return GroupResponse(registered, problem.train, state, memory_bytes=problem.memory_bytes, progress=problem.progress)


def _effects(
    asked: Sequence[Reweighting],
    members: Mapping[tuple[str, str], NDArray[np.int64]],
    weights: Floats | None,
    fits: Refits,
    predicted: _Predictions,
    m: int,
) -> Iterator[GroupEffect]:
    costs = fits.baseline()
    edits = [_edit(members[one.column, one.group], one.factor, weights) for one in asked]
    refitted = fits.after(edits, fields=[f"reweight[{k}]" for k in range(len(asked))])
    has_labels = predicted.has_labels and fits.wrong is not None and refitted.wrong is not None
    wrong = fits.wrong if has_labels else None
    for k, one in enumerate(asked):
        rows = members[one.column, one.group]
        foretold = predicted.of(rows, one.factor)
        after = refitted.wrong[k] if refitted.wrong is not None and has_labels else None
        parts = [slice(0, m), slice(m, None)] if len(costs) > m else [slice(0, m)]
        changes = [
            CostChange(
                cost=float(costs[at].mean()),
                measured=float((refitted.costs[k, at] - costs[at]).mean()),
                predicted=first,
                corrected=corrected,
                accuracy=None if wrong is None else 1 - float(wrong[at].mean()),
                accuracy_after=None if after is None else 1 - float(after[at].mean()),
            )
            for at, (first, corrected) in zip(parts, foretold, strict=False)
        ]
        yield GroupEffect(
            column=one.column,
            group=one.group,
            factor=one.factor,
            rows=len(rows),
            on_rows=changes[0],
            on_rest=changes[1] if len(changes) > 1 else None,
            gradient_norm=float(refitted.gradient_norms[k]),
            iterations=int(refitted.iterations[k]),
        )


def _edit(rows: NDArray[np.int64], factor: float, weights: Floats | None) -> Edit:
    if factor == 0:
        return Edit(without=tuple(rows.tolist()))
    now = np.ones(len(rows)) if weights is None else weights[rows]
    return Edit(reweighted=tuple(rows.tolist()), weights=torch.from_numpy(factor * now))


def _members(question: Question) -> dict[tuple[str, str], NDArray[np.int64]]:
    """Return the rows of each group; refuses to reweight one that there is not."""
    found: dict[tuple[str, str], NDArray[np.int64]] = {}
    for name, values in question.groups.items():
        groups, of = np.unique(np.asarray(values, dtype=np.str_), return_inverse=True)
        order = np.argsort(of, kind="stable")
        bounds = np.searchsorted(of[order], np.arange(len(groups) + 1))
        found |= {(name, group): order[bounds[g] : bounds[g + 1]] for g, group in enumerate(groups.tolist())}
    for place, one in enumerate(question.reweight):
        if (one.column, one.group) not in found:
            there = [group for column, group in found if column == one.column]
            listed = ", ".join(map(repr, there[:10])) + (", …" if len(there) > 10 else "")
            text = f"no training row has {one.group!r} in {one.column!r}; there are {listed}"
            raise InvalidArgument.at(f"reweight[{place}].group", text)
    return found


def _leading(columns: Mapping[str, Sequence[Share]], top: int) -> list[Reweighting]:
    """Return the groups with the most excess over all columns, each by both factors; those of all rows excepted."""
    every = [
        (share.excess.value, name, share.group)
        for name, shares in columns.items()
        if len(shares) > 1
        for share in shares
        if share.row_share > 0
    ]
    every.sort(key=lambda one: (-one[0], *one[1:]))
    return [Reweighting(name, group, factor) for _, name, group in every[:top] for factor in REWEIGHTED_FACTORS]


def _weights(problem: Problem) -> Floats | None:
    found = np.empty(len(problem.train))
    for batch in problem.train.batches(4096):
        if batch.weights is None:
            return None
        found[batch.index.numpy()] = batch.weights.to(torch.float64).numpy()
    return found


def _warnings(found: MeanScores) -> tuple[str, ...]:
    if not found.scores[0].any():
        return ("no training row has any influence on these test rows: every share is 0",)
    return ()
