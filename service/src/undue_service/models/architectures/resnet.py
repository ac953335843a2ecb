"""Residual networks (He et al. 2016) with the names that torchvision gives their parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .built import Built


class BasicBlock(nn.Module):
    """y = relu(x + bn(conv 3×3(relu(bn(conv 3×3(x)))))); x is projected where the sizes differ."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        hidden = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(hidden + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """y = relu(x + bn(conv 1×1(relu(bn(conv 3×3(relu(bn(conv 1×1(x)))))))); the stride is in the 3×3."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(before, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _projection(before, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        hidden = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        hidden = self.bn3(self.conv3(hidden))
        return torch.relu(hidden + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A stem, four stages of blocks that halve the image and double the width, the mean over the image, a head."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        channels: int,
        classes: int,
        width: int,
        stem: str,
    ) -> None:
        super().__init__()
        imagenet = stem == "imagenet"
        self.conv1 = _conv(channels, width, 7 if imagenet else 3, 2 if imagenet else 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        before = width
        for stage, count in enumerate(blocks):
            inner = width << stage
            layers = []
            for place in range(count):
                layers.append(block(before, inner, 2 if stage and not place else 1))
                before = inner * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(before, classes)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the input's name
        """Return the outputs, (rows, classes)."""
        hidden = self.maxpool(torch.relu(self.bn1(self.conv1(input))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.fc(hidden.mean((2, 3)))


def resnet18(channels: int, size: int, classes: int, width: int, stem: str) -> Built:
    """Return a ResNet with 2, 2, 2 and 2 basic blocks."""
    module = ResNet(BasicBlock, (2, 2, 2, 2), channels, classes, width, stem)
    return Built(module, {"input": torch.zeros(1, channels, size, size)})


def resnet50(channels: int, size: int, classes: int, width: int, stem: str) -> Built:
    """Return a ResNet with 3, 4, 6 and 3 bottlenecks."""
    module = ResNet(Bottleneck, (3, 4, 6, 3), channels, classes, width, stem)
    return Built(module, {"input": torch.zeros(1, channels, size, size)})


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


def _projection(before: int, after: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))
