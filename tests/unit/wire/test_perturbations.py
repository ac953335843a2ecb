"""What a perturb job leaves, written to its files and read in pages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.perturb_jobs import AttackedRow, Perturbation, PerturbedRow
from undue_service.wire.perturbations import SafetensorsPerturbations, write_perturbations, write_poisoned

READER = SafetensorsPerturbations()
FLOATS = st.floats(allow_nan=False)
ROWS = st.integers(0, 2**62)
TRIED = st.none() | st.booleans()
COSTS = st.lists(FLOATS, max_size=4).map(tuple)
ATTACKS = st.lists(
    st.builds(
        Perturbation,
        index=st.just(0),
        targets=st.lists(
            st.builds(AttackedRow, ROWS, st.booleans(), st.booleans(), TRIED, TRIED), min_size=1, max_size=3
        ).map(tuple),
        rows=st.lists(st.builds(PerturbedRow, ROWS, FLOATS, FLOATS), max_size=3).map(tuple),
        iterations=st.integers(0, 2**31 - 1),
        costs=COSTS,
        control_costs=COSTS,
        test_loss=FLOATS,
    ),
    min_size=1,
    max_size=5,
).map(lambda found: [Perturbation(**{**_fields(one), "index": place}) for place, one in enumerate(found)])


def _fields(one):
    return {name: getattr(one, name) for name in one.__slots__}


@given(ATTACKS, st.integers(1, 3))
def test_what_attacks_did_is_read_as_it_was_written(tmp_path_factory, attacks, count):
    path = tmp_path_factory.mktemp("result") / "perturbations"
    write_perturbations(path, attacks)
    found, start = [], 0
    while start is not None:
        page, start = READER.perturbations(path, start, count)
        assert len(page) <= count
        found += page
    assert found == attacks
    assert READER.perturbations(path, len(attacks), count) == ((), None)


def test_a_page_takes_as_many_attacks_as_a_message_does(tmp_path):
    path = tmp_path / "perturbations"
    costs = tuple(map(float, range(50_000)))
    one = Perturbation(0, (AttackedRow(1, False, True, True, None),), (), 5, costs, (), 0.5)
    write_perturbations(path, [one] * 5)
    page, start = READER.perturbations(path, 0, 1000)
    assert (len(page), start) == (2, 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_poisoned_rows_are_read_by_attack(tmp_path, dtype):
    values = np.arange(24, dtype=dtype).reshape(4, 2, 3)
    write_poisoned(tmp_path / "poisoned", "image é", [[7, 3], [], [7], [1]], values)
    assert READER.attacks(tmp_path / "poisoned") == 4
    found = list(READER.poisoned(tmp_path / "poisoned", [2, 1, 0]))
    assert [(one.attack, one.row, one.input) for one in found] == [
        (2, 7, "image é"),
        (0, 7, "image é"),
        (0, 3, "image é"),
    ]
    assert [one.values.tolist() for one in found] == [values[2].tolist(), values[0].tolist(), values[1].tolist()]
    assert found[0].values.dtype == dtype


def test_attacks_that_moved_nothing_poison_nothing(tmp_path):
    write_poisoned(tmp_path / "poisoned", "", [[], []], np.zeros((0, 4), np.float32))
    assert list(READER.poisoned(tmp_path / "poisoned", range(READER.attacks(tmp_path / "poisoned")))) == []
