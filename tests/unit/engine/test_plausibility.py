"""Outputs that a loss takes for logits and that look like something else."""

import pytest
import torch
from torch import nn

from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.objective import Objective
from undue_service.engine.plausibility import doubts


class Ending(nn.Module):
    def __init__(self, outputs, end):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.end = nn.Linear(4, outputs), end

    def forward(self, x):
        return self.end(self.fc(x))


def shares(f):
    return torch.exp(f) / torch.exp(f).sum(1, keepdim=True)


def mirrored(s):
    return torch.cat([-s, s], 1)


CASES = [
    ("cross_entropy", 3, lambda f: f, ""),
    ("cross_entropy", 3, lambda f: torch.softmax(f, 1), ""),
    ("cross_entropy", 3, lambda f: torch.log_softmax(f, 1), ""),
    ("cross_entropy", 3, shares, "are probabilities"),
    ("cross_entropy", 3, lambda f: torch.log(shares(f)), ""),
    ("cross_entropy", 3, lambda f: torch.softmax(f, 1) * 1.1, ""),
    ("cross_entropy", 1, mirrored, "−s and s of one score"),
    ("binary_logistic", 1, lambda f: f, ""),
    ("binary_logistic", 1, mirrored, ""),
    ("binary_logistic", 1, torch.sigmoid, ""),
    ("binary_logistic", 1, lambda f: 1 / (1 + torch.exp(-f)), "between 0 and 1"),
    ("squared_error", 3, shares, ""),
]


@pytest.mark.parametrize(("loss", "outputs", "end", "says"), CASES)
def test_what_looks_like_probabilities_is_doubted(loss, outputs, end, says, program):
    objective = Objective(program(Ending(outputs, end), torch.randn(3, 4)), ObjectiveSpec(loss))
    found = doubts(objective, {"x": torch.randn(30, 4, dtype=torch.float64)})
    assert len(found) == bool(says)
    assert all(says in text and "'output'" in text for text in found)
    assert doubts(objective, {"x": torch.randn(0, 4, dtype=torch.float64)}) == (found if "one score" in says else ())
