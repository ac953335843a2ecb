"""What the SDK sends of edits, and what never leaves."""

import numpy as np
import pytest

import undue
from undue._edits import Edit, edit_message


def test_the_message_of_an_edit():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    message = edit_message("e", Edit(without=[4], replace={2: image, 7: image + 1}, relabel={2: 1}, reweight={3: 0}))
    assert (list(message.without), list(message.replaced)) == ([4], [2, 7])
    assert (list(message.relabelled), list(message.reweighted), list(message.weights)) == ([2], [3], [0.0])
    [sent] = message.inputs.values()
    assert list(sent.shape) == [2, 2, 3]
    assert sent.data == bytes(image) + bytes(image + 1)
    assert list(message.targets.shape) == [1]
    numbers = edit_message("e", Edit(relabel={0: [0.5, 1.0], 1: [2.0, 3.0]}))
    assert list(numbers.targets.shape) == [2, 2]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"without": [1]}, "undue.Edit"),
        (Edit(), "names no row"),
        (Edit(without=[1, 1]), r"without: names a row twice"),
        (Edit(without=[1], relabel={1: 0}), r"relabel: row 1 is in without"),
        (Edit(without=[-1]), "without"),
        (Edit(relabel=[1]), "relabel: must map"),
        (Edit(reweight={1: -0.5}), "-0.5"),
        (Edit(reweight={1: float("inf")}), "inf"),
        (Edit(reweight={1: "2"}), "'2'"),
        (Edit(replace={1: np.zeros(2), 3: np.zeros(3)}), "different shapes"),
        (Edit(replace={1: {"a": np.zeros(2)}, 3: {"b": np.zeros(2)}}), "different inputs"),
        (Edit(replace={1: np.array(["a"])}), "elements"),
    ],
)
def test_what_is_no_edit_never_leaves(edit, says):
    with pytest.raises(undue.InvalidArgument, match=says):
        edit_message("counterfactuals[0]", edit)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"without": 3}, "without"),
        ({"without": "12"}, "without"),
        ({"counterfactuals": Edit(without=[1])}, "counterfactuals"),
        ({"counterfactuals": None}, "counterfactuals"),
        ({"replace": np.zeros((2, 4))}, "replace"),
        ({"relabel": {1: [1, [2]]}}, "counterfactuals[0].relabel"),
    ],
)
def test_wrong_edits_are_named_before_anything_is_sent(fake, client, change, field):
    with pytest.raises(undue.InvalidArgument) as caught:
        client.retrain("m", train="d", test="d", **change)
    assert caught.value.violations[0].field == field
    assert not fake.requests


def test_edits_beside_sets_come_in_order(fake, client):
    client.retrain(
        "m",
        train="d",
        test="d",
        without=[[1]],
        relabel={3: 1},
        reweight={4: 0.5},
        counterfactuals=[undue.Edit(without=[8])],
    )
    sent = fake.requests[-1].job.retrain
    assert [list(each.rows) for each in sent.without] == [[1]]
    assert [list(each.without) for each in sent.counterfactuals] == [[], [8]]
    assert list(sent.counterfactuals[0].relabelled) == [3]
    client.retrain("m", train="d", test="d", relabel={3: 1})
    assert not fake.requests[-1].job.retrain.without
    with pytest.raises(undue.InvalidArgument, match="without"):
        client.retrain("m", train="d", test="d")
