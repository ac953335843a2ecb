"""Result files of fidelity and leverage jobs, as written and as read."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.results import Comparison
from undue_service.engine.fidelity import FidelityResult
from undue_service.runner.results import coefficient_names, write_comparisons
from undue_service.wire.examples import PAGE_BYTES, encode_ids, encode_texts
from undue_service.wire.results import BLOCK_BYTES, SafetensorsResults, write

READER = SafetensorsResults()
NO_SUBSETS = np.empty((0, 0), dtype=np.int64)


def comparisons(folder, k, m, subset, seed=0):
    """A file of k comparisons over m test rows, of single rows or of subsets, and what should be read from it."""
    rng = np.random.default_rng(seed)
    predicted, measured = rng.normal(size=(2, k, m))
    without = tuple((int(row),) for row in rng.integers(0, 2**40, k)) if not subset else ()
    subsets = rng.integers(0, 2**40, (k, subset)) if subset else NO_SUBSETS
    stratum = np.full(k, -1) if subset else rng.integers(-1, 3, k)
    found = FidelityResult(None, np.arange(m)[::-1].copy(), without, subsets, predicted, measured, stratum)
    assert write_comparisons(folder, found).path == "comparisons.safetensors"
    expected = tuple(
        Comparison(
            index=j,
            without=without[j] if without else (),
            subset=tuple(subsets[j].tolist()) if subset else (),
            stratum=None if stratum[j] < 0 else int(stratum[j]),
            predicted=tuple(predicted[j].tolist()),
            measured=tuple(measured[j].tolist()),
        )
        for j in range(k)
    )
    return folder / "comparisons.safetensors", expected


@given(k=st.integers(1, 9), m=st.integers(1, 4), subset=st.integers(0, 5), size=st.integers(1, 10))
def test_comparisons_read_as_written_in_pages_and_in_blocks(k, m, subset, size, tmp_path_factory):
    path, expected = comparisons(tmp_path_factory.mktemp("results"), k, m, subset, seed=k)
    joined, start = (), 0
    while start is not None:
        page, start = READER.comparisons(path, start, size)
        assert 1 <= len(page) <= size
        joined += page
    assert joined == expected
    assert sum(READER.comparison_blocks(path), ()) == expected
    assert READER.compared(path).tolist() == list(range(m))[::-1]
    assert READER.comparisons(path, k, size) == ((), None)


@pytest.mark.parametrize(("k", "m", "subset"), [(40, 10_000, 0), (6, 1, 100_000), (3, 100_000, 0)])
def test_pages_of_long_comparisons_are_short(tmp_path, k, m, subset):
    path, expected = comparisons(tmp_path, k, m, subset)
    page, more = READER.comparisons(path, 0, 1000)
    assert page == expected[:more]
    assert 1 <= more < k
    one = 16 * m + 5 * max(1, subset) + 64
    assert len(page) * one <= PAGE_BYTES or len(page) == 1
    assert (len(page) + 1) * one > PAGE_BYTES


@given(n=st.integers(1, 9000), p=st.sampled_from([0, 1, 3, 700]))
def test_blocks_of_leverages_join_to_the_whole(n, p, tmp_path_factory):
    rng = np.random.default_rng(n)
    n = min(n, 2_000_000 // max(1, p))
    ids = [f"row {i}" * (i % 3) for i in range(n)]
    arrays = {
        **encode_ids(ids),
        "leverage": rng.random(n),
        "cooks_distance": rng.random(n),
        "effective_parameters": np.array([3.5]),
        "variance": np.array([0.25]),
    }
    names = tuple(f"w[{j}]" for j in range(p))
    if p:
        arrays |= {"dfbeta": rng.random((n, p)), "coefficients": encode_texts(names)}
    path = tmp_path_factory.mktemp("leverages") / "leverages"
    write(path, arrays)
    blocks = list(READER.leverage_blocks(path))
    assert [one.first for one in blocks] == list(np.cumsum([0] + [len(one.leverage) for one in blocks[:-1]]))
    assert [each for one in blocks for each in one.ids] == ids
    for name in ("leverage", "cooks_distance", *(("dfbeta",) if p else ())):
        assert np.array_equal(np.concatenate([getattr(one, name) for one in blocks]), arrays[name])
    assert blocks[0].coefficients == names
    assert all(not one.coefficients for one in blocks[1:])
    assert {(one.effective_parameters, one.variance) for one in blocks} == {(3.5, 0.25)}
    assert all(8 * p * len(one.leverage) <= BLOCK_BYTES or len(one.leverage) == 1 for one in blocks)


def test_every_coefficient_has_a_name_in_the_order_of_theta():
    space = SimpleNamespace(names=("w", "b", "s"), shapes={"w": (2, 2), "b": (2,), "s": ()})
    assert coefficient_names(space) == ["w[0, 0]", "w[0, 1]", "w[1, 0]", "w[1, 1]", "b[0]", "b[1]", "s"]
