import math

import numpy as np
import pytest

import undue
from undue._convert import model, objective_message
from undue._inputs import resource_name, row_count, row_numbers
from undue.v1 import models_pb2


def test_objectives_compare_and_print() -> None:
    made = undue.Objective("cross_entropy", l2=1e-3, l2_exclude=["*bias*"])
    assert made == undue.Objective("cross_entropy", 1e-3, ("*bias*",))
    assert repr(made) == "Objective(name='cross_entropy', l2=0.001, l2_exclude=('*bias*',), temperature=None)"
    assert undue.Objective("squared_error").l2 == 0.0


def test_an_unknown_objective_names_the_known() -> None:
    with pytest.raises(undue.InvalidArgument, match="cross_entropy, binary_logistic, squared_error"):
        undue.Objective("crossentropy")  # type: ignore[arg-type]


@pytest.mark.parametrize("l2", [-1, math.nan, math.inf, "1", None, True])
def test_a_strength_is_a_finite_number_of_at_least_0(l2) -> None:
    with pytest.raises(undue.InvalidArgument, match="l2"):
        undue.Objective("squared_error", l2=l2)


def test_a_smooth_hinge_needs_a_temperature_and_no_other_loss_has_one() -> None:
    assert undue.Objective("smooth_hinge", temperature=0.001).temperature == 0.001
    for wrong in (None, 0, -0.1, math.nan, math.inf, "1"):
        with pytest.raises(undue.InvalidArgument, match="temperature"):
            undue.Objective("smooth_hinge", temperature=wrong)  # type: ignore[arg-type]
    with pytest.raises(undue.InvalidArgument, match="cross_entropy has no temperature"):
        undue.Objective("cross_entropy", temperature=0.1)


def test_objectives_go_there_and_back() -> None:
    for made in (
        undue.Objective("smooth_hinge", 0.1, ["b"], 0.01),
        undue.Objective("binary_logistic", l2=1e-3),
    ):
        message = objective_message(made)
        there = models_pb2.Model(name="models/m", objective=message, state=models_pb2.Model.STATE_READY, format=1)
        assert model(there).objective == made


def test_one_pattern_is_no_list_of_patterns() -> None:
    with pytest.raises(undue.InvalidArgument, match=r"\['\*bias\*'\]"):
        undue.Objective("squared_error", l2_exclude="*bias*")


def test_schemas_name_a_single_input_by_the_empty_name() -> None:
    assert undue.Schema(["a", "b"], target="y").inputs == {"": undue.Input(["a", "b"])}
    assert undue.Schema("pixels").inputs == {"": undue.Input("pixels")}
    made = undue.Schema({"x": ["a"], "z": undue.Input("b", scale=2)}).inputs
    assert made == {"x": undue.Input(("a",)), "z": undue.Input("b", scale=2.0)}


@pytest.mark.parametrize("inputs", [[], {}, {"x": []}, [1], {"x": [None]}])
def test_schemas_without_columns_are_refused(inputs) -> None:
    with pytest.raises(undue.InvalidArgument):
        undue.Schema(inputs)


def test_a_column_is_a_string() -> None:
    with pytest.raises(undue.InvalidArgument, match=r"schema\.target"):
        undue.Schema(["a"], target=3)  # type: ignore[arg-type]


def test_rows_of_any_integer_type() -> None:
    assert row_numbers("rows", np.array([3, 1], dtype=np.uint8)) == [3, 1]
    assert row_numbers("rows", range(2)) == [0, 1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "leave it out"),
        ([-1], "count from 0"),
        (np.array([True]), "flatnonzero"),
        ([1.0], "row number"),
        ([True], "mask"),
        ([2**63], "no row number"),
    ],
)
def test_rows_that_are_none_are_refused(rows, words) -> None:
    with pytest.raises(undue.InvalidArgument, match=words):
        row_numbers("rows", rows)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10", 2**31])
def test_top_k_is_a_positive_number(value) -> None:
    with pytest.raises(undue.InvalidArgument):
        row_count("top_k", value)
    assert row_count("top_k", None) is None
    assert row_count("top_k", np.int64(5)) == 5


def test_names_of_resources() -> None:
    assert resource_name("m", "models", "digits") == "models/digits"
    assert resource_name("m", "models", "models/digits/versions/2") == "models/digits/versions/2"
    for wrong in ("datasets/d", "", None, 3):
        with pytest.raises(undue.InvalidArgument):
            resource_name("m", "models", wrong)
