"""Cheap checks of a model against its data, before anything expensive is believed."""

import torch
from torch import Tensor

from .data import Batch
from .graph import unsupported
from .objective import Objective

_ROWS = 4
_ROUNDING = 1e4
"""Times ε: how far a sum of many terms may move where a batch adds them up in another order."""


def probe(objective: Objective, batch: Batch) -> tuple[str, ...]:
    """Return warnings about a model, from a few rows of a placed batch.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED where the prediction for a row depends on the other rows of its batch.
    """
    f = objective.outputs(objective.theta, batch.inputs)
    alone = [
        objective.outputs(objective.theta, {name: tensor[i : i + 1] for name, tensor in batch.inputs.items()})
        for i in range(min(_ROWS, len(f)))
    ]
    together = f[: len(alone)]
    scale = max(1.0, float(together.abs().max()))
    tolerance = max(1e-6, _ROUNDING * torch.finfo(f.dtype).eps)
    if float((torch.cat(alone) - together).abs().max()) > tolerance * scale:
        raise unsupported(
            "the model predicts otherwise for a row alone than for the same row in a batch, so no row has a gradient "
            "of its own: call model.eval() before exporting, and take out normalisation over the batch"
        )
    if objective.spec.name == "cross_entropy" and _are_probabilities(f):
        return (
            "the model's outputs look like probabilities (each row is ≥ 0 and sums to 1), but cross_entropy takes "
            "logits: export the model without its last normalisation",
        )
    return ()


def _are_probabilities(f: Tensor) -> bool:
    return bool((f >= 0).all()) and bool(((f.sum(dim=1) - 1).abs() < 1e-4).all())
