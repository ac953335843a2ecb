"""The workloads by name."""

from .base import Task, Workload
from .convex import WORKLOAD as _CONVEX
from .digits_cnn import WORKLOAD as _CNN
from .digits_mlp import WORKLOAD as _MLP
from .fashion_mlp import WORKLOAD as _FASHION

WORKLOADS = {workload.name: workload for workload in (_CONVEX, _MLP, _FASHION, _CNN)}

__all__ = ["WORKLOADS", "Task", "Workload"]
