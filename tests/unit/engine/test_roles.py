"""What parameters are said to be used for."""

import pytest
import torch
from torch import nn

from undue_service.engine.roles import parameter_uses


class Every(nn.Module):
    """One parameter of each kind, and a weight that is both looked up and multiplied."""

    def __init__(self):
        super().__init__()
        self.table, self.conv, self.norm = nn.Embedding(7, 4), nn.Conv1d(4, 4, 3, padding=1), nn.LayerNorm(4)
        self.batch, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.scale, self.shift, self.power = (nn.Parameter(torch.rand(4) + 0.5) for _ in range(3))

    def forward(self, ids):
        x = self.batch(self.conv(self.table(ids).transpose(1, 2))).transpose(1, 2)
        x = self.norm(x) * self.scale + self.shift
        x = torch.sigmoid(self.fc(x)) ** self.power
        return (x @ self.table.weight.T).mean(1)


def test_each_use_is_named(program):
    found = parameter_uses(program(Every(), torch.randint(7, (3, 5))))
    assert found == {
        "table.weight": ("embedding", "linear"),
        "conv.weight": ("convolution",),
        "conv.bias": ("convolution",),
        "batch.weight": ("normalisation",),
        "batch.bias": ("normalisation",),
        "norm.weight": ("normalisation",),
        "norm.bias": ("normalisation",),
        "scale": ("elementwise",),
        "shift": ("elementwise",),
        "fc.weight": ("linear",),
        "fc.bias": ("linear",),
        "power": ("other",),
    }


@pytest.mark.parametrize("added", [lambda m, x: x @ m.w + m.b, lambda m, x: m.b + x @ m.w])
def test_a_bias_that_is_added_is_used_as_its_weight(added, program):
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.b = nn.Parameter(torch.rand(4, 2)), nn.Parameter(torch.rand(2))

        def forward(self, x):
            return added(self, x)

    assert parameter_uses(program(Split(), torch.randn(3, 4))) == {"w": ("linear",), "b": ("linear",)}
