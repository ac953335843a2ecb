"""Questions to an index: screen all rows, then score what was found exactly, from gradients that are made anew."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import (
    FactoredGradients,
    block_rows,
    each_block,
    head_gradients,
    output_gradients,
)
from undue_service.engine.measurements import check_measurement, measure
from undue_service.engine.objective import Objective
from undue_service.engine.queries import RowFacts, row_facts
from undue_service.engine.taps import Part
from undue_service.engine.topk import TopK, sorted_lists

from .fitted import FittedIndex
from .found import Found, joined, some_rows
from .regions import gathered, pair_scores
from .rows import Shard
from .scan import Screening

CANDIDATES = 50
"""Rows a side, at least, that screening hands on to be scored exactly; five for each that is listed."""
_SLACK = 1e-3
"""By which a bound is widened for the rounding of keys and scores."""


@dataclass(frozen=True)
class _Asked:
    """The rows that are asked about."""

    facts: RowFacts
    gradients: FactoredGradients
    """∇m_t."""
    rotated: list[Part]
    """The same in the basis of each region."""
    keys: Tensor
    """√(∇m_tᵀ (curvature + λI)⁻¹ ∇m_t), (m,)."""


Lists = tuple[Tensor, Tensor, Tensor, Tensor]
"""Helpful rows and scores, harmful rows and scores, (m, k) each; −1 and 0 where there are fewer."""


class Searcher:
    """An index in memory: what is fitted, its rows, and the data that they are.

    Attributes:
        rows: the data.
    """

    def __init__(
        self,
        fitted: FittedIndex,
        objective: Objective,
        shards: Sequence[Shard],
        rows: Rows,
        *,
        erased: Sequence[int] = (),
        memory_bytes: int = 2**30,
    ) -> None:
        """Bind shards to their data.

        Args:
            fitted: what all rows share.
            objective: in the precision of the index's method.
            shards: what is kept of the rows.
            rows: the data, by the index's row numbers.
            erased: numbers of rows that are never listed.
            memory_bytes: budget of the intermediate values of a block.
        """
        self._fitted = fitted
        self._objective = objective
        self._shards = tuple(shards)
        self.rows = rows
        self._memory = memory_bytes
        self._numbers = torch.cat([shard.rows for shard in self._shards])
        gone = torch.isin(self._numbers, torch.as_tensor(list(erased), dtype=torch.int64))
        self._keys = torch.cat([shard.keys for shard in self._shards]).masked_fill(gone, 0)
        self._erased = gone
        masks = gone.split([len(shard) for shard in self._shards])
        self._gone = [mask if bool(mask.any()) else None for mask in masks]
        residuals = [shard.residuals for shard in self._shards if shard.residuals is not None]
        self._residuals = torch.cat(residuals) if residuals else None
        self._factored = {one.region for one in fitted.layout.factors}

    def explain(self, batch: Batch, *, measurement: str = "loss", top_k: int = 10, exact: bool = False) -> Found:
        """Return the training rows whose removal would change the cost of some rows most.

        Args:
            batch: the m rows, placed; without targets the prediction is explained.
            measurement: "loss", "logit" or "margin".
            top_k: how many rows a side.
            exact: whether every row is scored that could be listed, by its bound; else those that screening finds.

        Raises:
            InvalidArgument: TARGETS_MISSING; INVALID_FIELD for a measurement that the loss has not.
            FailedPrecondition: DATASET_CHANGED; NON_FINITE_RESULT.
        """
        check_measurement(measurement, self._objective.loss)
        parts = torch.arange(len(batch.index)).split(self._asked_at_once(batch, top_k))
        return joined([self._explain(some_rows(batch, at), measurement, top_k, exact) for at in parts])

    def _asked_at_once(self, batch: Batch, top_k: int) -> int:
        """Return how many rows to ask about at once: each is solved for in all of θ, and has candidates of its own."""
        candidates = min(2 * _candidates(top_k), len(self.rows))
        inputs = sum(tensor[:1].numel() for tensor in batch.inputs.values())
        return block_rows(self._objective, self._memory // 2, 3 * self._objective.space.dim + 2 * candidates * inputs)

    def _explain(self, batch: Batch, measurement: str, top_k: int, exact: bool) -> Found:
        times = [time.perf_counter()]
        asked = self._asked(batch, measurement)
        times.append(time.perf_counter())
        screening = Screening(self._fitted, asked.rotated, asked.keys)
        places, scanned = screening.search(self._shards, self._gone, top_k, _candidates(top_k))
        times.append(time.perf_counter())
        lists, raw, facts = self._rescored(asked, places, top_k)
        if exact:
            lists, scanned = self._guaranteed(asked, lists, top_k)
            raw, facts = self._read(_listed(lists))
        times.append(time.perf_counter())
        stages = zip(("gradient", "screen", "rescore"), times[:-1], times[1:], strict=True)
        return Found(
            asked.facts,
            *(one.numpy() for one in lists),
            train=facts,
            instances=raw,
            scanned=scanned,
            seconds={name: stop - start for name, start, stop in stages},
        )

    def _asked(self, batch: Batch, measurement: str) -> _Asked:
        objective = self._objective
        capture = objective.taps.capture(batch.inputs)
        explained = objective.explained(batch, capture.outputs)
        residuals = output_gradients(
            capture.outputs, lambda f: measure(measurement, objective.loss, f, explained.targets)
        )
        gradients = FactoredGradients(objective.taps.blocks, capture.parts(residuals))
        rotated = self._fitted.rotated(gradients)
        facts = row_facts(objective, explained, capture.outputs)
        return _Asked(facts, gradients, rotated, self._fitted.keys(rotated))

    def _rescored(self, asked: _Asked, places: Tensor, top_k: int) -> tuple[Lists, Batch, RowFacts]:
        """Score candidates exactly, by their places (m, c), and list the best; with the rows that are listed."""
        rows = self._numbers[places]
        candidates, at = torch.unique(rows, return_inverse=True)
        place = torch.empty_like(candidates)
        place[at] = places
        raw, placed = self._batch(candidates)
        scores, outputs = torch.zeros(rows.shape, dtype=torch.float64), []
        queries = self._queries(asked)
        size = block_rows(self._objective, self._memory // 4, 2 * self._objective.taps.row_numel)
        for start in range(0, len(candidates), size):
            some = slice(start, start + size)
            f, gradients = self._gradients(
                placed[some], None if self._residuals is None else self._residuals[place[some]]
            )
            outputs.append(f)
            self._put_scores(scores, queries, gradients, at - start)
        scores *= 1.0 if placed.weights is None else placed.weights[at].cpu()
        scores = (scores / self._fitted.rows).masked_fill(self._erased[places], 0)
        lists = sorted_lists(rows, scores, top_k)
        chosen = torch.searchsorted(candidates, _listed(lists))
        facts = row_facts(self._objective, placed, torch.cat(outputs))
        return lists, some_rows(raw, chosen), facts.some(chosen.numpy())

    def _queries(self, asked: _Asked) -> list[Tensor]:
        """Return the rows that are asked about, solved for, in each region, (q, m).

        Where a row is kept as factors it is in the basis: there the candidates are turned, not each solution back.
        """
        return [
            region.inverse[:, None] * rotated.rows().T if number in self._factored else region.solve(asked.gradients)
            for number, (region, rotated) in enumerate(zip(self._fitted.regions, asked.rotated, strict=True))
        ]

    def _put_scores(self, scores: Tensor, queries: list[Tensor], gradients: FactoredGradients, at: Tensor) -> None:
        """Write n times the scores of candidates, without their weights, to their places.

        Args:
            scores: (m, c).
            queries: as `_queries` returns them.
            gradients: of B candidates.
            at: which candidate has which place, (m, c); below 0 and from B on it is another's.
        """
        here = (at >= 0) & (at < len(gradients.parts[0]))
        for number, (region, query) in enumerate(zip(self._fitted.regions, queries, strict=True)):
            part = region.rotated(gradients) if number in self._factored else region.of(gradients)
            block = None if region.block is None else self._objective.taps.blocks[region.block]
            if bool(here.all()):
                scores += pair_scores(query, gathered(part, at.reshape(-1)), block).cpu()
                continue
            for row in here.any(dim=1).nonzero()[:, 0].tolist():
                mine = here[row]
                found = pair_scores(query[:, row : row + 1], gathered(part, at[row, mine]), block)
                scores[row, mine] += found[0].cpu()

    def _guaranteed(self, asked: _Asked, lists: Lists, top_k: int) -> tuple[Lists, int]:
        """Score all rows that could be listed, by their bounds; return the lists, and how many rows there were.

        |score(i, t)| ≤ key_i · key_t / n: a row whose bound is below what the last place of either list has, for every
        row that is asked about, is in none.
        """
        m = len(asked.keys)
        helpful, harmful = (TopK(m, top_k, self._objective.program.device) for _ in range(2))
        solved = self._solved(asked.gradients)
        last = torch.minimum(lists[1][:, -1], -lists[3][:, -1])
        order = torch.argsort(self._keys, descending=True, stable=True)
        keys = self._keys[order].double()
        done = 0
        for places in order.split(block_rows(self._objective, self._memory // 2)):
            worth = (last * self._fitted.rows / (asked.keys.double().cpu() * (1 + _SLACK))).min()
            if keys[done] < worth or keys[done] == 0:
                break
            places = places[keys[done : done + len(places)] > 0]
            for placed, scores in self._scores(places, solved):
                helpful.update(placed.index, scores)
                harmful.update(placed.index, -scores)
            done += len(places)
            last = torch.minimum(helpful.result()[1][:, -1], harmful.result()[1][:, -1]).cpu()
        (good, of_good), (bad, of_bad) = ((rows.cpu(), of.cpu()) for rows, of in (helpful.result(), harmful.result()))
        return (good, of_good, bad, -of_bad), done

    def _scores(self, places: Tensor, solved: Tensor) -> Iterator[tuple[Batch, Tensor]]:
        """Yield some rows and their scores, (m, B), by their places."""
        numbers, at = self._numbers[places].sort()
        places = places[at]

        def work(placed: Batch) -> Tensor:
            residuals = None if self._residuals is None else self._residuals[_places(placed.index, numbers, places)]
            gradients = self._gradients(placed, residuals)[1]
            w = 1.0 if placed.weights is None else placed.weights[:, None]
            return (gradients.dot(solved) * w / self._fitted.rows).T

        yield from each_block(self._objective, self.rows, max(1, len(numbers)), work, numbers.tolist())

    def _solved(self, gradients: FactoredGradients) -> Tensor:
        """Return (curvature + λI)⁻¹ ∇m_t, (P, m)."""
        blocks = self._objective.taps.blocks
        found = self._objective.theta.new_empty(self._objective.space.dim, len(gradients.parts[0]))
        for region in self._fitted.regions:
            if region.block is None:
                return region.solve(gradients)
            blocks[region.block].put(region.solve(gradients), found)
        return found

    def _gradients(self, placed: Batch, residuals: Tensor | None) -> tuple[Tensor, FactoredGradients]:
        """Return the outputs of training rows, and their gradients as they are scored."""
        objective = self._objective
        if residuals is not None:
            features, f = objective.head.evaluate(placed.inputs)
            return f.detach(), head_gradients(objective, features.detach(), residuals.to(f))
        capture = objective.taps.capture(placed.inputs)
        own = output_gradients(capture.outputs, lambda f: objective.loss.losses(f, placed.targets))
        return capture.outputs, FactoredGradients(objective.taps.blocks, capture.parts(own))

    def _read(self, rows: Tensor) -> tuple[Batch, RowFacts]:
        raw, placed = self._batch(rows)
        return raw, row_facts(self._objective, placed)

    def _batch(self, rows: Tensor) -> tuple[Batch, Batch]:
        """Return some rows as the data holds them, and placed."""
        [raw] = self.rows.batches(max(1, len(rows)), rows.tolist())
        return raw, self._objective.place(raw)


def _candidates(top_k: int) -> int:
    """Return how many rows a side screening hands on."""
    return max(CANDIDATES, 5 * top_k)


def _listed(lists: Lists) -> Tensor:
    listed = torch.unique(torch.cat([lists[0].flatten(), lists[2].flatten()]))
    return listed[listed >= 0]


def _places(index: Tensor, numbers: Tensor, places: Tensor) -> Tensor:
    return places[torch.searchsorted(numbers, index)]
