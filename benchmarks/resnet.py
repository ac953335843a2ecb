"""A CNN of 2.8 million parameters in ResNet-18's shape, for images of one channel, trained for a few epochs."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .caching import cached

WIDTH, CLASSES = 32, 10
EPOCHS, BATCH, LR = 8, 64, 1e-3


class Block(nn.Module):
    """Two 3 × 3 convolutions and what they are added to."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.first_norm, self.second_norm = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        passed = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.passed = passed if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        found = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(found)) + self.passed(x))


class ResNet18(nn.Module):
    """Four stages of two blocks, 32 to 256 channels, over (B, 1, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, 1, 1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
        )
        widths = [WIDTH, WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH]
        stages = []
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            stages += [Block(inputs, outputs, 2 if stage else 1), Block(outputs, outputs, 1)]
        self.body = nn.Sequential(*stages)
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (B, 10)."""
        return self.fc(self.body(self.stem(x)).mean(dim=(2, 3)))


def trained(x: Tensor, y: Tensor) -> ResNet18:
    """Return the network trained on images (n, 1, 28, 28) by Adam, in evaluation mode."""
    settings = {"rows": len(x), "epochs": EPOCHS, "batch": BATCH, "lr": LR}
    weights = cached("resnet", settings, lambda: _train(x, y))
    module = ResNet18()
    module.load_state_dict(weights)
    return module.eval()


def _train(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = ResNet18().train()
    optimizer = torch.optim.Adam(module.parameters(), LR)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return module.state_dict()
