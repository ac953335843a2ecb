import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.results import Counterfactual, Explanation, ScoredExample
from undue_service.wire.examples import EXAMPLE_BYTES, PAGE_BYTES, encode_ids
from undue_service.wire.results import SafetensorsResults, write

READER = SafetensorsResults()


@pytest.fixture
def explanations(tmp_path):
    path = tmp_path / "explanations"
    write(
        path,
        {
            "row": np.array([7, 3, 5]),
            **encode_ids(["seven", "drei 3", ""]),
            "prediction": np.array([1, 0, 2]),
            "target": np.array([1, 1, 1]),
            "loss": np.array([0.5, 1.5, 2.5]),
            "helpful_rows": np.array([[4, 2], [2, -1], [-1, -1]]),
            "helpful_scores": np.array([[0.4, 0.2], [0.1, 0.0], [0.0, 0.0]]),
            "harmful_rows": np.array([[9, -1], [9, 4], [-1, -1]]),
            "harmful_scores": np.array([[-0.9, 0.0], [-0.8, -0.1], [0.0, 0.0]]),
            "train_row": np.array([2, 4, 9]),
            **encode_ids(["b", "d", "i"], "train_"),
            "train_prediction": np.array([0, 1, 2]),
            "train_target": np.array([0, 0, 0]),
            "train_loss": np.array([0.2, 0.4, 0.9]),
        },
    )
    return path


def test_an_explanation_reads_as_written(explanations):
    found, more = READER.explanations(explanations, 0, 10)
    assert more is None
    two = ScoredExample(2, "b", 0.2, 0, 0, 0.2)
    four = ScoredExample(4, "d", 0.4, 0, 1, 0.4)
    nine = ScoredExample(9, "i", -0.9, 0, 2, 0.9)
    assert found[0] == Explanation(7, "seven", 1, 1, 0.5, (four, two), (nine,))
    assert [one.row for one in found[1].harmful] == [9, 4]
    assert found[2] == Explanation(5, "", 2, 1, 2.5, (), ())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pages_join_to_the_whole(explanations, size):
    joined, start = (), 0
    while start is not None:
        page, start = READER.explanations(explanations, start, size)
        joined += page
    assert joined == READER.explanations(explanations, 0, 10)[0]
    assert READER.explanations(explanations, 3, size) == ((), None)


def test_a_page_of_long_lists_is_short(explanations, monkeypatch):
    monkeypatch.setattr("undue_service.wire.examples.PAGE_BYTES", 5 * EXAMPLE_BYTES)
    page, more = READER.explanations(explanations, 0, 10)
    assert (len(page), more) == (1, 1)


def test_regression_values_are_numbers_and_vectors(tmp_path):
    columns = {
        "row": np.array([1, 0]),
        **encode_ids(["1", "0"]),
        "score": np.array([3.0, 1.0]),
        "loss": np.zeros(2),
    }
    write(tmp_path / "a", columns | {"prediction": np.array([0.5, 1.0]), "target": np.array([[1.0, 2.0], [3.0, 4.0]])})
    (first, second), more = READER.self_influences(tmp_path / "a", 0, 5)
    assert more is None
    assert READER.self_influences(tmp_path / "a", 0, 1)[1] == 1
    assert (first.row, first.score, first.prediction, first.target) == (1, 3.0, 0.5, (1.0, 2.0))
    assert second.target == (3.0, 4.0)


@given(rows=st.integers(1, 9), columns=st.integers(1, 300_000))
def test_score_blocks_join_to_the_matrix(rows, columns, tmp_path_factory):
    matrix = np.random.default_rng(rows).standard_normal((rows, columns), dtype=np.float32)
    path = tmp_path_factory.mktemp("scores") / "scores"
    write(path, {"scores": matrix})
    blocks = list(READER.score_blocks(path))
    assert [first for first, _ in blocks] == list(np.cumsum([0] + [len(block) for _, block in blocks[:-1]]))
    assert np.array_equal(np.concatenate([block for _, block in blocks]), matrix)


def test_rows_that_are_explained_together(tmp_path):
    columns = {
        "row": np.array([7]),
        "rows": np.array([7, 3, 5]),
        **encode_ids(["seven"]),
        "loss": np.array([1.5]),
        "helpful_rows": np.array([[4]]),
        "helpful_scores": np.array([[0.4]]),
        "harmful_rows": np.array([[-1]]),
        "harmful_scores": np.array([[0.0]]),
        "train_row": np.array([4]),
        **encode_ids(["d"], "train_"),
        "train_prediction": np.array([1]),
        "train_target": np.array([0]),
        "train_loss": np.array([0.4]),
    }
    write(tmp_path / "a", columns)
    found, more = READER.explanations(tmp_path / "a", 0, 10)
    four = ScoredExample(4, "d", 0.4, 0, 1, 0.4)
    assert found == (Explanation(7, "seven", None, None, 1.5, (four,), (), (7, 3, 5)),)
    assert more is None


def counterfactuals(folder, sets, m, seed=0):
    """A file of counterfactuals over these sets of rows, and what should be read from it."""
    changes = np.random.default_rng(seed).normal(size=(len(sets), m))
    columns = {
        "rows": np.arange(m)[::-1],
        "costs": np.arange(m) / 2,
        "changes": changes,
        "gradient_norm": np.arange(len(sets)) * 1e-12,
        "iterations": np.arange(len(sets)),
        "without": np.concatenate([np.array(rows, dtype=np.int64) for rows in sets]),
        "offsets": np.cumsum([0, *map(len, sets)]),
    }
    write(folder / "counterfactuals", columns)
    expected = tuple(
        Counterfactual(k, tuple(rows), tuple(changes[k].tolist()), k * 1e-12, k) for k, rows in enumerate(sets)
    )
    return folder / "counterfactuals", expected


@given(
    sets=st.lists(st.lists(st.integers(0, 2**40), max_size=5), min_size=1, max_size=9),
    m=st.integers(1, 4),
    size=st.integers(1, 10),
)
def test_counterfactuals_read_as_written_in_pages_and_in_blocks(sets, m, size, tmp_path_factory):
    path, expected = counterfactuals(tmp_path_factory.mktemp("results"), sets, m)
    joined, start = (), 0
    while start is not None:
        page, start = READER.counterfactuals(path, start, size)
        assert 1 <= len(page) <= size
        joined += page
    assert joined == expected
    assert sum(READER.counterfactual_blocks(path), ()) == expected
    rows, costs = READER.measured(path)
    assert rows.tolist() == list(range(m))[::-1]
    assert costs.tolist() == [row / 2 for row in range(m)]


@pytest.mark.parametrize("sets", [[[]], [[], []], [[3], []], [[], [3]]])
def test_counterfactuals_that_remove_no_row_are_read(sets, tmp_path):
    path, expected = counterfactuals(tmp_path, sets, 2)
    pages = [READER.counterfactuals(path, start, 1)[0] for start in range(len(sets))]
    assert sum(pages, ()) == expected


@pytest.mark.parametrize(("sets", "m"), [([[1]] * 40, 20_000), ([list(range(100_000))] * 6, 1), ([[1]] * 3, 200_000)])
def test_pages_of_long_counterfactuals_are_short(tmp_path, sets, m):
    path, expected = counterfactuals(tmp_path, sets, m)
    page, more = READER.counterfactuals(path, 0, 1000)
    assert page == expected[:more]
    assert 1 <= more < len(sets)
    one = 8 * m + 5 * len(sets[0]) + 64
    assert len(page) * one <= PAGE_BYTES or len(page) == 1
    assert (len(page) + 1) * one > PAGE_BYTES
    assert sum(READER.counterfactual_blocks(path), ()) == expected
    assert READER.counterfactuals(path, len(sets), 5) == ((), None)
