"""The same weights as nn.Module and through every exporter give the same outputs."""

import io
import itertools

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from undue_service.models import parity, predict

DYNAMIC = {0: torch.export.Dim.DYNAMIC}


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return self.fc(x.view(x.shape[0], -1))


class Reshaped(Viewed):
    def forward(self, x):
        return self.fc(torch.relu(x).reshape(-1, 12))


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.once, self.twice = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = torch.tanh(self.once(self.once(x)))
        return self.twice(hidden), hidden


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding="same"), nn.BatchNorm2d(4)
        self.left, self.right = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.pool, self.fc = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Linear(4, 3)

    def forward(self, x):
        x = self.pool(nn.functional.hardswish(self.norm(self.stem(x))))
        x = nn.functional.relu6(self.left(x) + self.right(x))
        return torch.log_softmax(self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)), 1)


class Patches(nn.Module):
    """A vision transformer without its attention: patches, a learned token before them, positions."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(2, 6, 2, stride=2), nn.LayerNorm(6)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 5, 6))
        self.mixer, self.fc = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)), nn.Linear(6, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.fc((x + self.mixer(self.norm(x)))[:, 0])


class Elementwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift, self.scale, self.slope = (nn.Parameter(torch.rand(4) + 0.5) for _ in range(3))

    def forward(self, x):
        spread = (x - x.mean(1, keepdim=True)).pow(2).mean(1, keepdim=True)
        x = (x - self.shift) * self.scale / torch.sqrt(spread + 1e-3)
        x = nn.functional.pad(nn.functional.leaky_relu(x, 0.2).clamp(-1, 2), (1, 2), value=0.5)
        x = torch.cat([x, nn.functional.hardtanh(x).neg().unsqueeze(2).squeeze(2)], 1)[:, 1::2]
        return nn.functional.elu(x) + nn.functional.softplus(x) + nn.functional.hardsigmoid(x), torch.erf(x).exp()


MODULES = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3)
        ),
        (6,),
    ),
    "flatten_softmax": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(-1)), (3, 4)),
    "without_bias": (lambda: nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)), (4,)),
    "positions": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (5, 4)),
    "viewed": (Viewed, (3, 4)),
    "reshaped": (Reshaped, (3, 4)),
    "used_twice": (Doubled, (4,)),
    "residual": (Residual, (2, 7, 7)),
    "patches": (Patches, (2, 4, 4)),
    "elementwise": (Elementwise, (4,)),
}
EXPORTERS = ("dynamo_optimized", "dynamo", "torchscript")
QUICK = {
    "dynamo_optimized": {"flatten_softmax", "used_twice", "elementwise"},
    "dynamo": {"viewed", "residual", "patches"},
    "torchscript": set(MODULES),
}
"""A dynamo export takes a second; the other pairs are in the slow suite."""
PAIRS = [
    pytest.param(name, exporter, marks=() if name in QUICK[exporter] else pytest.mark.slow)
    for name, exporter in itertools.product(MODULES, EXPORTERS)
]


def exported(module, example, exporter):
    if exporter == "torchscript":
        content = io.BytesIO()
        torch.onnx.export(module, (example,), content, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
        return content.getvalue()
    optimize = exporter == "dynamo_optimized"
    program = torch.onnx.export(
        module, (example,), dynamo=True, optimize=optimize, dynamic_shapes=(DYNAMIC,), verbose=False
    )
    return program.model_proto.SerializeToString()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "exporter"), PAIRS)
def test_exported_module_gives_its_outputs(name, exporter, open_bytes):
    build, shape = MODULES[name]
    torch.manual_seed(len(name))
    module = build().eval()
    opened = open_bytes(exported(module, torch.randn(3, *shape), exporter))
    for rows in (1, 2, 7):
        x = torch.randn(rows, *shape)
        expected = module(x)
        expected = expected if isinstance(expected, tuple) else (expected,)
        actual = predict(opened, {opened.inputs[0].name: x.numpy()})
        for value, output in zip(expected, opened.outputs, strict=True):
            np.testing.assert_allclose(actual[output], value.detach(), atol=1e-6, rtol=1e-6)
        assert parity(opened, {opened.inputs[0].name: x.numpy()}) <= 1e-6


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "exporter", ["dynamo_optimized", pytest.param("dynamo", marks=pytest.mark.slow), "torchscript"]
)
def test_float64_module_keeps_names_and_precision(exporter, open_bytes):
    module = MODULES["mlp"][0]().double().eval()
    opened = open_bytes(exported(module, torch.randn(3, 6).double(), exporter))
    x = torch.randn(7, 6).double()
    assert {n: tuple(p.shape) for n, p in opened.exported.named_parameters()} == {
        n: tuple(p.shape) for n, p in module.named_parameters()
    }
    np.testing.assert_allclose(
        predict(opened, {opened.inputs[0].name: x.numpy()})[opened.outputs[0]], module(x).detach(), atol=1e-15
    )
    assert parity(opened, {opened.inputs[0].name: x.numpy()}) <= 1e-12
    assert opened.inputs[0].dtype == "float64"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_local_functions_are_inlined(open_bytes, onnx_bytes):
    body = onnx.helper.make_function(
        "mine", "Dense", ["a", "w"], ["b"],
        [onnx.helper.make_node("Gemm", ["a", "w"], ["g"]), onnx.helper.make_node("Relu", ["g"], ["b"])],
        [onnx.helper.make_opsetid("", 20)],
    )  # fmt: skip
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Dense", ["x", "w"], ["h"], domain="mine"),
        onnx.helper.make_node("Dense", ["h", "w"], ["y"], domain="mine"),
    ]
    opsets = [onnx.helper.make_opsetid("mine", 1)]
    opened = open_bytes(
        onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"w": weight}, functions=[body], opsets=opsets)
    )
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    expected = np.maximum(np.maximum(x @ weight, 0) @ weight, 0)
    np.testing.assert_allclose(predict(opened, {"x": x})["y"], expected, rtol=1e-5)
    assert [name for name, _ in opened.exported.named_parameters()] == ["w"]
    assert parity(opened, {"x": x}) <= 1e-6
