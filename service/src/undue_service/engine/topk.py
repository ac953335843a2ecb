"""The k best of a row of scores that arrives in blocks."""

import torch
from torch import Tensor


class TopK:
    """The k largest positive scores of each of m rows, ties to the smaller index.

    For the most negative, hand in the negated scores. Memory is m·k and a block; how the scores were cut into blocks
    changes nothing.
    """

    def __init__(self, m: int, k: int, device: torch.device) -> None:
        self._k = k
        self._scores = torch.full((m, 0), -torch.inf, dtype=torch.float64, device=device)
        self._index = torch.full((m, 0), -1, dtype=torch.int64, device=device)

    def update(self, index: Tensor, scores: Tensor) -> None:
        """Take in the scores (m, B) of the candidates `index` (B,), each of which comes once."""
        offered = scores.to(torch.float64)
        offered = offered.where(offered > 0, -torch.inf)
        index = index.to(self._index.device).expand(len(offered), -1)
        best, at = _largest(offered, index, min(self._k, offered.shape[1]))
        merged = torch.cat([self._scores, best], dim=1)
        self._scores, self._index = _sorted(merged, torch.cat([self._index, at], dim=1), self._k)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return indices and scores, (m, k) each, best first; −1 and 0 where there are fewer than k."""
        missing = self._scores == -torch.inf
        pad = (0, self._k - self._scores.shape[1])
        index = torch.nn.functional.pad(self._index.masked_fill(missing, -1), pad, value=-1)
        return index, torch.nn.functional.pad(self._scores.masked_fill(missing, 0.0), pad, value=0.0)


def sorted_lists(index: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the k most positive and the k most negative of scores that each row has candidates of its own for.

    Args:
        index: (m, c); one that a row has twice has the same score twice, and is listed once.
        scores: (m, c).
        k: how many.

    Returns:
        Indices and scores of the largest, then of the most negative, (m, k) each; −1 and 0 where there are fewer.
    """
    by_index = torch.argsort(index, dim=1)
    index, scores = index.gather(1, by_index), scores.gather(1, by_index)
    again = torch.nn.functional.pad(index[:, 1:] == index[:, :-1], (1, 0))
    found: list[Tensor] = []
    for sign in (1.0, -1.0):
        offered = (sign * scores).masked_fill(again | (sign * scores <= 0), -torch.inf)
        best, at = _sorted(offered, index, k)
        missing, pad = best == -torch.inf, (0, k - best.shape[1])
        found.append(torch.nn.functional.pad(at.masked_fill(missing, -1), pad, value=-1))
        found.append(torch.nn.functional.pad(sign * best.masked_fill(missing, 0.0), pad))
    return tuple(found)


def _largest(scores: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row, in no particular order, ties at the edge to the smaller index."""
    best, where = torch.topk(scores, k, dim=1, sorted=False)
    at = index.gather(1, where)
    edge = best.min(dim=1, keepdim=True).values
    # topk takes any of the candidates that tie at the edge, so rows with more of them than places are sorted in full.
    tied = ((scores >= edge).sum(dim=1) > k) & (edge[:, 0] > -torch.inf)
    if bool(tied.any()):
        best[tied], at[tied] = _sorted(scores[tied], index[tied], k)
    return best, at


def _sorted(scores: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    by_index = torch.argsort(index, dim=1)
    scores, index = scores.gather(1, by_index), index.gather(1, by_index)
    by_score = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :k]
    return scores.gather(1, by_score), index.gather(1, by_score)
