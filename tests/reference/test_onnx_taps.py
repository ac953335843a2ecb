"""What the engine recognises in models that come as ONNX: every weight, and with it the gradient of every row.

A transformer encoder, a GRU and a residual network with BatchNorm, by both of torch's exporters, against the module
itself by torch.func in float64.
"""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.func import functional_call

from reference import architectures as made
from reference.test_real_exports import TEST, TRAIN, Case, build, exported
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import Batch
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.models import open_model, parity, predict

WEIGHTS = {"encoder": 9, "gru": 3, "residual": 5}
"""Matrices and kernels: each one tap, with its bias where it has one."""
REST = {
    ("encoder", "dynamo_plain"): 8,  # scale and shift of four LayerNorms
    ("encoder", "dynamo"): 8,
    ("encoder", "torchscript"): 8,
    ("gru", "dynamo_plain"): 2,  # the two biases, whose gates ONNX has in another order
    ("gru", "dynamo"): 1,  # both biases of all gates, computed by the exporter
    ("gru", "torchscript"): 1,
    ("residual", "dynamo_plain"): 8,  # scale and shift of four BatchNorms
    ("residual", "dynamo"): 0,  # folded
    ("residual", "torchscript"): 0,
}


def objective_of(opened):
    program = Program.from_exported(
        opened.exported, input_names=[column.name for column in opened.inputs], output_names=opened.outputs
    )
    return Objective(program.to("cpu", torch.float64), ObjectiveSpec("cross_entropy", 1e-2))


class Residual(nn.Module):
    """A convolution, one block of a residual network with its shortcut, and a head."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.block, self.fc = made.Block(3, 4, 2), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.block(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))


def case_of(name):
    if name != "residual":
        return build(name)
    torch.manual_seed(0)
    module, x = Residual(), torch.randn(TRAIN + TEST, 2, 6, 6)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for _ in range(20):
            module(x)
    return Case(module.eval(), {"x": x}, "fc.")


def row_gradients(case, x, y):
    """Return each row's gradient of the module's loss, by parameter."""
    buffers = {n: b.double() if b.is_floating_point() else b for n, b in case.module.named_buffers()}
    theta = {name: value.detach().double().requires_grad_() for name, value in case.module.named_parameters()}
    rows = []
    for row, target in zip(x, y, strict=True):
        f = functional_call(case.module, {**buffers, **theta}, (row[None],))
        rows.append(torch.autograd.grad(nn.functional.cross_entropy(f, target[None]), list(theta.values())))
    return {name: torch.stack(of_all) for name, of_all in zip(theta, zip(*rows, strict=True), strict=True)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "route"), REST)
def test_every_weight_is_a_tap_and_every_row_has_the_modules_gradient(name, route, tmp_path):
    case = case_of(name)
    path = tmp_path / "model"
    opened = open_model(path, exported(case, route, path), tmp_path)
    (x,), y = case.inputs.values(), case.targets
    with torch.no_grad():
        outputs = case.module(x)
    assert parity(opened, {"x": x.numpy()}) <= 1e-5
    (found,) = predict(opened, {"x": x.numpy()}).values()
    torch.testing.assert_close(torch.from_numpy(found), outputs, rtol=1e-5, atol=1e-5)

    objective = objective_of(opened)
    assert not objective.taps.rest
    kinds = Counter(block.kind for block in objective.taps.blocks)
    assert (kinds["outer"], kinds["dense"]) == (WEIGHTS[name], REST[name, route])

    rows = objective.place(Batch({"x": x[:TRAIN]}, y[:TRAIN], None, torch.arange(TRAIN)))
    gradients = loss_gradients(objective, rows).dense()
    wanted = row_gradients(case, x[:TRAIN].double(), y[:TRAIN])
    kept = route == "dynamo_plain"  # the other exporters compute weights anew, under the same names or others
    names = [one for one in wanted if kept or one.startswith(case.head)]
    for parameter in names:
        ours = gradients[:, objective.space.slice(parameter)]
        torch.testing.assert_close(ours, wanted[parameter].flatten(1), rtol=1e-5, atol=1e-5)
    if kept:
        assert sorted(objective.space.names) == sorted(wanted)
