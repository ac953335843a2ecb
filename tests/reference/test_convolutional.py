"""A CNN with BatchNorm through every exporter of torch, and as `.pt2`: the scores of the original module.

The reference is the nn.Module itself in float64, by torch.func: ∇ℓ_i by vmap(grad), H of the last layer by jvp(grad).
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, vmap

import fashion
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.models import open_model, parity

L2, TRAIN, TEST = 1e-2, 120, 8
HEAD = ("fc.*",)
ROWS = {0: torch.export.Dim.DYNAMIC}
FOLDS = {"dynamo": "optimize=False", "torchscript": "do_constant_folding=False"}
"""Exporters that fold BatchNorm, and the option that the warning names."""
ROUTES = ("dynamo", "dynamo_plain", "torchscript", "torchscript_plain", "pt2")


class Digits(nn.Module):
    """8×8 images."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(6, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        x = nn.functional.gelu(self.norm2(self.conv2(x)))
        return self.fc(self.drop(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)))


class Fashion(nn.Module):
    """28×28 images."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 5, stride=2, padding=2), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.AvgPool2d(3, 2, 1),
            nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.Hardswish(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.scale, self.fc = nn.LayerNorm((8, 3, 3)), nn.Linear(72, 10)

    def forward(self, x):
        return torch.log_softmax(self.fc(self.scale(self.body(x)).flatten(1)), 1)


@dataclass
class Reference:
    """A trained module, its rows, and the scores that it has itself."""

    module: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    grad_dot: np.ndarray
    exact: np.ndarray
    """Over the last layer, without the leverage correction."""
    head_grad_dot: np.ndarray


def trained(module, x, y, steps):
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=order)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
    return module.eval()


def refer(module, x, y):
    """Compute both scores of the module, (TEST, TRAIN), in float64."""
    weights = {name: p.detach().double() for name, p in module.named_parameters()}
    buffers = {name: b.double() if b.is_floating_point() else b for name, b in module.named_buffers()}
    head = {name: p for name, p in weights.items() if name.startswith("fc.")}

    def loss(chosen, row, target):
        outputs = functional_call(module, {**weights, **buffers, **chosen}, (row[None],))
        return nn.functional.cross_entropy(outputs, target[None])

    def gradients(chosen):
        found = vmap(grad(loss), (None, 0, 0))(chosen, x.double(), y)
        return torch.cat([value.flatten(1) for value in found.values()], 1)

    everything, last = gradients(weights), gradients(head)
    shapes = [p.shape for p in head.values()]

    def risk(theta):
        parts = torch.split(theta, [shape.numel() for shape in shapes])
        chosen = {name: part.view(shape) for name, part, shape in zip(head, parts, shapes, strict=True)}
        outputs = functional_call(module, {**weights, **buffers, **chosen}, (x[:TRAIN].double(),))
        return nn.functional.cross_entropy(outputs, y[:TRAIN]) + L2 / 2 * (theta @ theta)

    H = hessian(risk)(torch.cat([p.flatten() for p in head.values()]))
    exact = last[TRAIN:] @ torch.linalg.solve(H, last[:TRAIN].T) / TRAIN
    products = [g[TRAIN:] @ g[:TRAIN].T / TRAIN for g in (everything, last)]
    return Reference(module, x, y, products[0].numpy(), exact.numpy(), products[1].numpy())


@pytest.fixture(scope="module")
def digits_cnn(digits):
    torch.manual_seed(0)
    x, y = torch.tensor(digits.X_train, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(digits.y_train)
    module = trained(Digits(), x, y, 150)
    accuracy = float((module(x).argmax(1) == y).float().mean())
    assert accuracy > 0.8
    return refer(module, x[: TRAIN + TEST], y[: TRAIN + TEST])


@pytest.fixture(scope="module")
def fashion_cnn():
    torch.manual_seed(1)
    x, y = torch.rand(TRAIN + TEST, 1, 28, 28), torch.randint(10, (TRAIN + TEST,))
    return refer(trained(Fashion(), x, y, 20), x, y)


def exported(module, x, route, path):
    if route == "pt2":
        torch.export.save(torch.export.export(module, (x[:3],), dynamic_shapes=(ROWS,)), path)
        return "pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if route.startswith("dynamo"):
            optimize = route == "dynamo"
            torch.onnx.export(
                module, (x[:3],), path, dynamo=True, optimize=optimize, dynamic_shapes=(ROWS,), verbose=False,
                external_data=False,
            )  # fmt: skip
        else:
            fold = route == "torchscript"
            axes = {"x": {0: "rows"}}
            torch.onnx.export(
                module, (x[:3],), path, dynamo=False, do_constant_folding=fold, input_names=["x"], dynamic_axes=axes
            )
    return "onnx"


def agreement(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def check_route(reference, route, tmp_path):
    path = tmp_path / f"model.{route}"
    opened = open_model(path, exported(reference.module, reference.x, route, path), tmp_path)
    name = opened.inputs[0].name
    if route != "pt2":
        assert parity(opened, {name: reference.x.numpy()}) <= 1e-5
    program = Program.from_exported(
        opened.exported, input_names=[c.name for c in opened.inputs], output_names=opened.outputs
    ).to("cpu", torch.float64)
    rows = TensorRows({name: reference.x}, reference.y)
    train = TensorRows({name: reference.x[:TRAIN]}, reference.y[:TRAIN])
    asked = {"rows": list(range(TRAIN, TRAIN + TEST)), "top_k": None}

    def scores(method, parameters, **options):
        objective = Objective(program, ObjectiveSpec("cross_entropy", L2), parameters)
        return influence(objective, train, rows, method=method, **asked, **options).scores

    figures = {
        "exact, last layer": agreement(scores("exact", HEAD, leverage_correction=False), reference.exact),
        "grad_dot, last layer": agreement(scores("grad_dot", HEAD), reference.head_grad_dot),
        "grad_dot, all parameters": agreement(scores("grad_dot", ()), reference.grad_dot),
    }
    print(route, {what: f"{value:.1e}" for what, value in figures.items()})
    names = {name for name, _ in opened.exported.named_parameters()}
    folded = [text for text in opened.warnings if "BatchNorm" in text]
    if route in FOLDS:
        assert len(folded) == 1
        assert FOLDS[route] in folded[0]
        assert figures.pop("grad_dot, all parameters") > 1e-2
    else:
        assert opened.warnings == ()
        assert names == {name for name, _ in reference.module.named_parameters()}
    assert max(figures.values()) <= 1e-5, figures


@pytest.mark.parametrize("route", ROUTES)
def test_digits(digits_cnn, route, tmp_path):
    check_route(digits_cnn, route, tmp_path)


@pytest.mark.parametrize("route", ROUTES)
def test_images_of_the_size_of_fashion_mnist(fashion_cnn, route, tmp_path):
    check_route(fashion_cnn, route, tmp_path)


@pytest.mark.slow
def test_fashion_mnist(tmp_path):
    torch.manual_seed(0)
    x, y = (torch.from_numpy(array) for array in fashion.load("train", 4000))
    module = trained(Fashion(), x, y, 400)
    held_out, labels = (torch.from_numpy(array) for array in fashion.load("test", 1000))
    accuracy = float((module(held_out).argmax(1) == labels).float().mean())
    assert accuracy > 0.7
    reference = refer(module, x[: TRAIN + TEST], y[: TRAIN + TEST])
    for number, route in enumerate(ROUTES):
        folder = tmp_path / str(number)
        folder.mkdir()
        check_route(reference, route, folder)
