"""Screening: approximate scores of all rows from eight-bit numbers, as far as any row could still be listed."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.engine.taps import Part

from .fitted import FittedIndex
from .quantised import products, quantise
from .rows import BLOCK, Shard


@dataclass(frozen=True)
class _Factors:
    """Queries against rows that are kept as factors."""

    outputs: Tensor
    """(m·r, kO) int8."""
    inputs: Tensor
    """(m·r, kI) int8."""
    sizes: Tensor
    """(m, 1, r) float32: of the products of each term."""


@dataclass(frozen=True)
class _Coefficients:
    """Queries against rows that are kept as coefficients."""

    values: Tensor
    """(m, k) int8."""
    sizes: Tensor
    """(m, 1) float32."""


class Screening:
    """Some queries, ready to be held against shards."""

    def __init__(self, fitted: FittedIndex, rotated: Sequence[Part], keys: Tensor) -> None:
        """Quantise rotated queries with their keys (m,); the column sizes of the rows go into them."""
        numbers = fitted.numbers(rotated)
        self._m = len(rotated[0])
        self._parts: list[_Factors | _Coefficients] = []
        for place, one in enumerate(fitted.layout.factors):
            d, x = (
                numbers[2 * place] * fitted.columns[2 * place],
                numbers[2 * place + 1] * fitted.columns[2 * place + 1],
            )
            outputs, of_outputs = quantise((d[:, None, :] * one.U.T).flatten(0, 1))
            inputs, of_inputs = quantise((x[:, None, :] * one.V.T).flatten(0, 1))
            sizes = (of_outputs * of_inputs).view(self._m, 1, -1)
            self._parts.append(_Factors(outputs, inputs, sizes))
        if fitted.layout.coefficients:
            values, sizes = quantise(numbers[-1] * fitted.columns[-1])
            self._parts.append(_Coefficients(values, sizes[:, None]))
        self._keys = keys.float()

    def search(self, shards: Sequence[Shard], gone: Sequence[Tensor | None], k: int, count: int) -> tuple[Tensor, int]:
        """Return the rows of largest approximate score and those of smallest, and how many rows were looked at.

        Blocks are looked at by their largest key, until no row of the next can be among the first k of either tail by
        its bound (Cauchy–Schwarz) and the approximate scores found so far.

        Args:
            shards: the rows.
            gone: of each shard, whether a row is erased, (n,) bool; None where none is.
            k: rows a side that are wanted.
            count: candidates a side.

        Returns:
            (m, ≤ 2 count) places among the rows of all shards, one shard after the other; a row may come twice.
        """
        firsts = list(itertools.accumulate((len(shard) for shard in shards), initial=0))
        blocks = sorted(
            (-float(shard.keys[start]), at, start)
            for at, shard in enumerate(shards)
            for start in range(0, len(shard), BLOCK)
        )
        best = self._keys.new_empty(2 * self._m, 0)
        places = torch.empty(2 * self._m, 0, dtype=torch.int64, device=best.device)
        scanned = 0
        for negative_key, at, start in blocks:
            if best.shape[1] >= k:
                last = best.topk(k, dim=1).values[:, -1].view(2, -1).amin(dim=0)
                if bool((self._keys * -negative_key <= last).all()):
                    break
            stop = min(start + BLOCK, len(shards[at]))
            scores = self._scores(shards[at], start, stop)
            erased = gone[at]
            if erased is not None:
                scores = scores.masked_fill(erased[start:stop].to(scores.device), 0)
            both = torch.cat([scores, -scores])
            some, place = both.topk(min(count, stop - start), dim=1, sorted=False)
            best = torch.cat([best, some], dim=1)
            places = torch.cat([places, place + (firsts[at] + start)], dim=1)
            if best.shape[1] > count:
                best, kept = best.topk(count, dim=1, sorted=False)
                places = places.gather(1, kept)
            scanned += stop - start
        return torch.cat(places.view(2, self._m, -1).unbind(), dim=1).cpu(), scanned

    def _scores(self, shard: Shard, start: int, stop: int) -> Tensor:
        """Return n times the approximate scores of a block of rows, (m, B)."""
        total = torch.zeros(self._m, stop - start, device=self._keys.device)
        column = 0
        for part, scale in zip(self._parts, shard.scales, strict=True):
            if isinstance(part, _Factors):
                left = products(part.outputs, shard.numbers[column].block(start, stop)).float()
                left *= products(part.inputs, shard.numbers[column + 1].block(start, stop))
                found = torch.bmm(part.sizes, left.view(self._m, -1, stop - start))[:, 0]
                column += 2
            else:
                found = products(part.values, shard.numbers[column].block(start, stop)) * part.sizes
                column += 1
            total += found * scale[start:stop]
        return total
