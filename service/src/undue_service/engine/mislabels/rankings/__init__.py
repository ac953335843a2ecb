"""Rankings of training rows by how wrong their labels look, one a file."""

from .base import Fitted, Ranking, ranked
from .registry import find_ranking

__all__ = ["Fitted", "Ranking", "find_ranking", "ranked"]
