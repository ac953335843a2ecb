"""Architectures that people export, small."""

import torch
from torch import nn


class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


class LeNet(nn.Module):
    """LeCun et al. 1998, on 12×12 images."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(24, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.fc1(torch.flatten(x, 1)))
        return self.fc3(torch.tanh(self.fc2(x)))


class Block(nn.Module):
    """The residual block of two convolutions (He et al. 2016)."""

    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Eight blocks in four stages, 18 layers with weights; the widths are the caller's."""

    def __init__(self, widths=(3, 4, 5, 6), classes=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages, inside = [], widths[0]
        for stage, width in enumerate(widths):
            stages.append(nn.Sequential(Block(inside, width, 1 if stage == 0 else 2), Block(width, width, 1)))
            inside = width
        self.layers = nn.Sequential(*stages)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(inside, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layers(x)), 1))


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        steps, _ = self.gru(x)
        return self.head(steps[:, -1])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x, mask):
        q, k, v = (
            part(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.norm(x + self.output(y.transpose(1, 2).reshape(x.shape)))


class MiniLm(nn.Module):
    """BERT as sentence-transformers use it: tokens and a mask in, the mean over tokens, a head."""

    def __init__(self, width=8, heads=2, layers=2, tokens=20, length=6):
        super().__init__()
        self.word, self.position = nn.Embedding(tokens, width, padding_idx=0), nn.Embedding(length, width)
        self.kind, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.attention = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.inner = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.register_buffer("position_ids", torch.arange(length)[None], persistent=False)
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids, attention_mask):
        x = self.word(input_ids) + self.position(self.position_ids[:, : input_ids.shape[1]])
        x = self.norm(x + self.kind(torch.zeros_like(input_ids)))
        kept = attention_mask[:, None, None, :].to(x.dtype)
        mask = (1.0 - kept) * torch.finfo(torch.float32).min
        for attention, inner, norm in zip(self.attention, self.inner, self.norms, strict=True):
            x = attention(x, mask)
            x = norm(x + inner(x))
        share = attention_mask[:, :, None].to(x.dtype)
        return self.head((x * share).sum(1) / share.sum(1).clamp(min=1e-9))
