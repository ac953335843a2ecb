"""Attribution methods: how a row is scored. What each estimates stands in `undue_service.domain.methods`."""

from .base import Factors, Method, Problem, ScoreBlock
from .registry import REGISTRY, find

__all__ = ["REGISTRY", "Factors", "Method", "Problem", "ScoreBlock", "find"]
