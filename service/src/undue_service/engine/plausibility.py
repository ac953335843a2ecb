"""Whether a model's outputs look like what its loss takes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .objective import Objective

_ROUNDING = 1e-3


def doubts(objective: Objective, inputs: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return what is doubtful of the outputs, on some placed rows, that the loss takes for logits.

    A softmax or sigmoid that the loss looks behind is no doubt: what it receives are logits.
    """
    name, program = objective.spec.name, objective.program
    if name == "cross_entropy" and "opposite_scores" in program.endings:
        return (
            f"the outputs {program.output!r} are −s and s of one score: cross_entropy takes them for two logits, whose "
            "difference is 2 s. If the model was trained on s, register it with binary_logistic",
        )
    f = objective.outputs(objective.theta, inputs).detach()
    if objective.output_activation or not len(f):
        return ()
    if name == "cross_entropy" and bool((f >= 0).all()) and bool(((f.sum(1) - 1).abs() <= _ROUNDING).all()):
        return (
            f"the outputs {program.output!r} are probabilities, not from a softmax that is seen: cross_entropy takes "
            "them for logits and applies a softmax of its own. Export the model with logits or a softmax at its end",
        )
    if name == "binary_logistic" and bool(((f >= 0) & (f <= 1)).all()) and not bool(torch.equal(f, f.round())):
        return (
            f"the output {program.output!r} lies between 0 and 1 on every row looked at, as a probability does: "
            "binary_logistic takes it for a logit. Export the model so that it ends with its logit or a sigmoid",
        )
    return ()
