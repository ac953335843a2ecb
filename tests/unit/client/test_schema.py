"""What is said of columns, and how it is sent."""

import math

import numpy as np
import pytest
import torch

import undue
from undue._convert import schema_message
from undue._schema import image_folder_schema


def test_an_input_without_a_transform_is_sent_without_one() -> None:
    message = schema_message(undue.Schema({"x": undue.Input(["a", "b"]), "z": "c"}, groups=["site", "year"]))
    assert list(message.inputs["x"].columns) == ["a", "b"]
    assert not message.inputs["x"].HasField("transform")
    assert not message.inputs["z"].HasField("transform")
    assert list(message.groups) == ["site", "year"]


def test_a_transform_is_sent_as_it_was_given() -> None:
    image = undue.Input("image", row_shape=(1, 28, 28), scale=1 / 255, mean=0.2860, std=0.3530)
    transform = schema_message(undue.Schema(image)).inputs[""].transform
    assert list(transform.row_shape) == [1, 28, 28]
    assert (transform.scale, list(transform.mean), list(transform.std)) == (1 / 255, [0.2860], [0.3530])
    alone = schema_message(undue.Schema(undue.Input("x", scale=1))).inputs[""]
    assert alone.HasField("transform")  # the model sees float32
    assert alone.transform.HasField("scale")
    assert not schema_message(undue.Schema(undue.Input("x", mean=1))).inputs[""].transform.HasField("scale")


@pytest.mark.parametrize(
    "mean",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1, 2.5], np.float32),
        torch.tensor([1, 2.5]),
        iter([1.0, 2.5]),
        [np.int64(1), np.float32(2.5)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_mean_may_have_a_number_for_each_channel(mean) -> None:
    assert undue.Input("x", mean=mean).mean == (1.0, 2.5)


def test_a_mean_may_be_one_number_of_any_library() -> None:
    for number in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)):
        assert undue.Input("x", mean=number, std=number).mean == (0.5,)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale": math.nan}, "finite"),
        ({"scale": "1"}, "finite"),
        ({"scale": True}, "finite"),
        ({"mean": math.inf}, "finite"),
        ({"mean": "0.5"}, "finite"),
        ({"mean": [0.5, None]}, "finite"),
        ({"mean": []}, "empty"),
        ({"std": 0}, "not positive"),
        ({"std": [1, -1]}, "not positive"),
        ({"row_shape": 28}, r"\(1, 28, 28\)"),
        ({"row_shape": (0, 3)}, r"\(1, 28, 28\)"),
        ({"row_shape": (1.5,)}, r"\(1, 28, 28\)"),
        ({"row_shape": "28"}, r"\(1, 28, 28\)"),
        ({"row_shape": ()}, "leave it out"),
        ({"columns": []}, "no column"),
        ({"columns": [1]}, "not a string"),
    ],
)
def test_a_transform_that_cannot_be_is_refused(wrong, words) -> None:
    with pytest.raises(undue.InvalidArgument, match=words) as caught:
        undue.Input(**({"columns": "x"} | wrong))
    assert caught.value.violations[0].field == f"input.{next(iter(wrong))}"


@pytest.mark.parametrize("groups", ["site", [1]])
def test_groups_are_a_list_of_columns(groups) -> None:
    with pytest.raises(undue.InvalidArgument, match=r"schema\.groups"):
        undue.Schema("x", groups=groups)


def test_a_folder_of_images_has_a_schema_of_its_own() -> None:
    assert image_folder_schema() == undue.Schema("image", target="label", id="path", groups=["class"])


@pytest.mark.parametrize("groups", [["a", "b"], np.array([1, 2]), {"": [1]}, {3: [1]}])
def test_groups_of_arrays_have_names(groups) -> None:
    with pytest.raises(undue.InvalidArgument, match="groups"):
        undue.Arrays([[1.0], [2.0]], groups=groups).named_groups()
