"""What is computed once, kept under benchmarks/.cache by the digest of its settings."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / ".cache"
VERSION = 1
"""Raised where the code that computes a cached value changes what it computes."""


def cached(name: str, settings: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return tensors by name, computed only where these settings have not been met before."""
    text = json.dumps({**settings, "version": VERSION}, sort_keys=True)
    path = FOLDER / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.pt"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(compute(), part)
        part.rename(path)
    return torch.load(path, weights_only=True)
