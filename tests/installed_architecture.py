"""A package of an operator that brings architectures by entry points, as pip would have installed it."""

from pathlib import Path

NETS = '''
import torch
from torch import nn

class Tied(nn.Module):
    """Two layers of the same weights, and a buffer that no file holds."""

    def __init__(self, size, classes):
        super().__init__()
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(size, classes)
        self.register_buffer("scale", torch.arange(1.0, size + 1), persistent=False)

    def forward(self, left, right):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(left * self.scale)))) + right)

def tied(*, size=4, classes=3):
    return Tied(size, classes), {"left": torch.zeros(2, size), "right": torch.zeros(2, size)}

def fails(**options):
    raise RuntimeError("no such luck")

def bare(**options):
    return nn.Linear(2, 2)

def unnamed(**options):
    return nn.Linear(2, 2), {"input": 3}

def fixed(**options):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)
        def forward(self, x):
            return self.linear(x.reshape(3, 4))
    return Fixed(), {"x": torch.zeros(3, 4)}

def strange(**options):
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)
        def forward(self, x):
            return torch.special.bessel_j0(self.linear(x))
    return Strange(), {"x": torch.zeros(3, 4)}
'''
NAMES = ("tied", "fails", "bare", "unnamed", "fixed", "strange", "absent")
"""The last one's entry point leads nowhere."""


def install(folder: Path) -> None:
    """Write the package into a folder, which is then to be put on Python's path."""
    (folder / "operators_nets.py").write_text(NETS)
    info = folder / "operators_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: operators-nets\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = operators_nets:{name}" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[undue.architectures]\n{lines}\n")
