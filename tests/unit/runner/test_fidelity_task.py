"""What a runner refuses before it computes."""

from types import SimpleNamespace

import pytest

from undue_service.domain.errors import Reason, ResourceExhausted
from undue_service.domain.fidelity import Fidelity
from undue_service.domain.fidelity_settings import FidelitySettings
from undue_service.domain.influence import Influence
from undue_service.domain.specs import ArraysSource, ModelSpec, ObjectiveSpec
from undue_service.domain.tasks import FidelityTask, InfluenceTask
from undue_service.runner.tasks import Workshop

MODEL = ModelSpec("pt2", "0" * 64, ObjectiveSpec("cross_entropy"))
SOURCE = ArraysSource({})


class Sized:
    """A data set that nobody may read."""

    def __len__(self):
        return 1000


@pytest.mark.parametrize(
    "task",
    [
        FidelityTask(Fidelity("m", "a", "b"), MODEL, SOURCE, SOURCE, {}),
        InfluenceTask(Influence("m", "a", "b", fidelity=FidelitySettings()), MODEL, SOURCE, SOURCE, {}),
    ],
    ids=lambda task: task.kind,
)
def test_scores_beyond_the_budget_are_refused_before_anything_is_computed(task, tmp_path):
    workshop = Workshop("cpu", block_bytes=1 << 20)
    workshop._shelf = SimpleNamespace(open=lambda *_: Sized())
    with pytest.raises(ResourceExhausted, match="ask for 262 rows or fewer") as caught:
        workshop.run(task, {}, tmp_path, lambda *_: None)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert "1,000 training rows for 1,000 test rows" in str(caught.value)
