"""The rankings by name, as `domain.mislabels.RANKINGS` lists them."""

from collections.abc import Mapping

from undue_service.domain.errors import InvalidArgument

from .base import Ranking
from .confident_learning import ConfidentLearning
from .margin import Margin
from .random_order import RandomOrder
from .self_influence import SelfInfluence
from .training_loss import TrainingLoss

_MADE: Mapping[str, Ranking] = {
    one.name: one for one in (SelfInfluence(), TrainingLoss(), Margin(), ConfidentLearning(), RandomOrder())
}


def find_ranking(name: str) -> Ranking:
    """Return the ranking of that name.

    Raises:
        InvalidArgument: INVALID_FIELD.
    """
    if name not in _MADE:
        raise InvalidArgument.at("rankings", f"there is no ranking {name!r}; there are {', '.join(_MADE)}")
    return _MADE[name]
