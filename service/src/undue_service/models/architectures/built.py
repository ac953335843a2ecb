"""What building an architecture gives."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Built:
    """A module without its weights, and one row or more of each input, by the names of `forward`'s arguments."""

    module: torch.nn.Module
    example_inputs: Mapping[str, torch.Tensor]
