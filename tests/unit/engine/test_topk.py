"""Running top-k over blocks against a full sort."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from undue_service.engine.topk import TopK

# few distinct values, so that ties at every edge are the rule
VALUES = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 0.5, 1.0, 1.0, 3.0, 1e-300])


@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=40), st.integers(1, 45), st.data())
def test_blocks_of_any_size_and_order_give_the_full_sort(columns, k, data):
    scores = torch.tensor(columns, dtype=torch.float64).T
    n = scores.shape[1]
    order = data.draw(st.permutations(range(n)))
    top, start = TopK(3, k, torch.device("cpu")), 0
    while start < n:
        size = data.draw(st.integers(1, n))
        at = torch.tensor(order[start : start + size])
        top.update(at, scores[:, at])
        start += size
    index, best = top.result()
    for row in range(3):
        positive = sorted((-scores[row, i].item(), i) for i in range(n) if scores[row, i] > 0)[:k]
        assert index[row].tolist() == [i for _, i in positive] + [-1] * (k - len(positive))
        assert best[row].tolist() == [-s for s, _ in positive] + [0.0] * (k - len(positive))
