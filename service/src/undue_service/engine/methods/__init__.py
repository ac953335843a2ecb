"""Attribution methods: how a row is scored. What each estimates stands in `undue_service.domain.methods`."""

from .base import Checkpoint, Factors, Method, Problem, ScoreBlock
from .ensemble import averaged
from .registry import REGISTRY, find

__all__ = ["REGISTRY", "Checkpoint", "Factors", "Method", "Problem", "ScoreBlock", "averaged", "find"]
