"""What a job says of itself: the test rows that it asks about, the resources that it names, the edits that it makes."""

from dataclasses import replace

import pytest

from undue_service.domain.comparison import Compare
from undue_service.domain.edits import EditSpec
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.group_influence import GroupInfluence, Reweighting
from undue_service.domain.influence import Influence
from undue_service.domain.leverage import Leverage
from undue_service.domain.mislabels import Mislabels
from undue_service.domain.perturb_jobs import Perturb
from undue_service.domain.retraining import Retrain
from undue_service.domain.self_influence import SelfInfluence
from undue_service.domain.specs import named_resources

GROUPS = GroupInfluence("m", "a", "b", rows=(4, 5), by=("site",), reweight_top=0)


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        (Influence("m", "a", "b", rows=(1, 2, 3)), 3),
        (Influence("m", "a", "b"), 100),
        (Retrain("m", "a", "b", rows=(1,)), 1),
        (Retrain("m", "a", "b"), 100),
        (Fidelity("m", "a", "b", rows=(1,)), 1),
        (Fidelity("m", "a", "b"), 100),
        (Compare("m", "a", "b", rows=(1, 2)), 2),
        (Compare("m", "a", "b"), 100),
        (GROUPS, 2),
        (replace(GROUPS, reweight_top=3), 100),  # what retraining changes is measured on all of them
        (replace(GROUPS, reweight=(Reweighting("site", "x", 0.0),)), 100),
        (Perturb("m", "a", "b", attacks=((1, 2), (3,))), 3),
        (Perturb("m", "a", "b"), 100),
        (Mislabels("m", "a", "b"), 100),
    ],
)
def test_how_many_test_rows_a_job_asks_about(spec, rows):
    assert spec.test_rows(100) == rows


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (Influence("m", "a", "b"), ("m", "a", "b")),
        (Retrain("m", "a", "a"), ("m", "a")),
        (Compare("m", "a", "b", other="n"), ("m", "n", "a", "b")),
        (Compare("m", "a", "b", other="m"), ("m", "a", "b")),
        (SelfInfluence("m", "a"), ("m", "a")),
        (Leverage("m", "a"), ("m", "a")),
        (Mislabels("m", "a"), ("m", "a")),
        (Perturb("m", "a", "b"), ("m", "a", "b")),
    ],
)
def test_a_job_names_each_model_and_data_set_once(spec, names):
    assert named_resources(spec) == names


def test_edits_come_after_what_is_left_out():
    one, other = EditSpec(relabelled=(1,)), EditSpec(relabelled=(2,))
    spec = Retrain("m", "a", "b", without=((3,), (4,)), counterfactuals=(one, other))
    assert [spec.edit(place) for place in range(4)] == [None, None, one, other]
