"""Gradients row by row, and products with the Hessian, of every kind of layer: those of the original module."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import Batch
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program

ROWS = 3


class Tokens(nn.Module):
    def __init__(self, padding=None):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4, padding_idx=padding), nn.Linear(12, 3)

    def forward(self, ids):
        return self.head(torch.tanh(self.table(ids)).flatten(1))


def on(shape, *layers):
    """Put layers between an input of a shape and three outputs."""
    body = nn.Sequential(*layers).eval()
    return nn.Sequential(body, nn.Flatten(), nn.Linear(body(torch.randn(1, *shape)).numel(), 3)), shape


def image(*layers, channels=3):
    return on((2, 6, 6), nn.Conv2d(2, channels, 3), *layers)


LINE, BOX = (2, 9), (2, 5, 5, 5)
LAYERS = {
    "conv1d": lambda: on(LINE, nn.Conv1d(2, 4, 3, groups=2, stride=2, padding=1, dilation=2), nn.Tanh()),
    "conv2d": lambda: image(nn.Tanh(), nn.Conv2d(3, 3, 3, groups=3, padding="same")),
    "conv3d": lambda: on(BOX, nn.Conv3d(2, 2, 2), nn.Tanh()),
    "conv_transpose2d": lambda: image(nn.Tanh(), nn.ConvTranspose2d(3, 2, 3, stride=2)),
    "reflected": lambda: image(nn.Tanh(), nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")),
    "batch_norm": lambda: image(nn.BatchNorm2d(3), nn.Tanh()),
    "batch_norm_of_features": lambda: on((4,), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh()),
    "batch_norm_without_weights": lambda: image(nn.BatchNorm2d(3, affine=False), nn.Tanh()),
    "layer_norm": lambda: image(nn.LayerNorm((4, 4)), nn.Tanh()),
    "group_norm": lambda: image(nn.GroupNorm(2, 4), nn.Tanh(), channels=4),
    "instance_norm": lambda: image(nn.InstanceNorm2d(3, affine=True), nn.Tanh()),
    "max_pool": lambda: image(nn.Tanh(), nn.MaxPool2d(2, padding=1)),
    "max_pool1d": lambda: on(LINE, nn.Conv1d(2, 4, 3), nn.Tanh(), nn.MaxPool1d(2)),
    "max_pool3d": lambda: on(BOX, nn.Conv3d(2, 2, 2), nn.Tanh(), nn.MaxPool3d(2)),
    "max_pool_dilated": lambda: image(nn.Tanh(), nn.MaxPool2d(2, dilation=2, ceil_mode=True)),
    "avg_pool": lambda: image(nn.Tanh(), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "avg_pool1d": lambda: on(LINE, nn.Conv1d(2, 4, 3), nn.Tanh(), nn.AvgPool1d(2)),
    "adaptive_avg_pool": lambda: image(nn.Tanh(), nn.AdaptiveAvgPool2d(3)),
    "adaptive_max_pool": lambda: image(nn.Tanh(), nn.AdaptiveMaxPool2d(1)),
    "dropout": lambda: image(nn.Dropout2d(), nn.Tanh(), nn.Dropout()),
    "gelu": lambda: image(nn.GELU()),
    "hardswish": lambda: image(nn.Hardswish()),
    "hardsigmoid": lambda: image(nn.Hardsigmoid()),
    "hardsigmoid_in_place": lambda: image(nn.Hardsigmoid(inplace=True), nn.Tanh()),
    "elu": lambda: image(nn.ELU()),
    "leaky_relu": lambda: image(nn.LeakyReLU(), nn.Tanh()),
    "prelu": lambda: image(nn.PReLU(3), nn.Tanh()),
    "relu6": lambda: image(nn.ReLU6(), nn.Tanh()),
    "softplus": lambda: image(nn.Softplus()),
    "embedding": lambda: (Tokens(), None),
}
IN_CORE_ATEN = ("conv1d", "batch_norm", "layer_norm", "group_norm", "max_pool", "avg_pool", "hardsigmoid", "embedding")
"""`run_decompositions` writes these in other operators."""


def opened(name, decomposed):
    torch.manual_seed(len(name))
    module, shape = LAYERS[name]()
    module = module.double().eval()
    for part in module.modules():
        if getattr(part, "running_var", None) is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    x = torch.randn(ROWS, *shape).double() if shape else torch.randint(7, (ROWS, 3))
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    program = program.run_decompositions() if decomposed else program
    objective = Objective(Program.from_exported(program).to("cpu", torch.float64), ObjectiveSpec("cross_entropy"))
    y = torch.tensor([0, 1, 2])
    return module, objective, objective.place(Batch({"x": x}, y, None, torch.arange(ROWS))), x, y


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize(
    ("name", "decomposed"), [*((name, False) for name in LAYERS), *((name, True) for name in IN_CORE_ATEN)]
)
def test_derivatives_are_those_of_the_module(name, decomposed):
    module, objective, batch, x, y = opened(name, decomposed)

    def gradient(theta, rows):
        theta = theta.clone().requires_grad_()
        outputs = functional_call(module, objective.space.unflatten(theta), (x[rows].clone(),))
        return torch.autograd.grad(nn.functional.cross_entropy(outputs, y[rows], reduction="sum"), theta)[0]

    # torch's derivative of hardsigmoid holds 1/6 in float32
    rtol = 1e-7 if name.startswith("hardsigmoid") else 1e-10
    expected = torch.stack([gradient(objective.theta, [row]) for row in range(ROWS)])
    torch.testing.assert_close(loss_gradients(objective, batch).dense(), expected, rtol=rtol, atol=1e-12)

    V = torch.randn(objective.space.dim, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_all = grad(lambda theta: objective.losses(theta, batch).sum())
    HV = vmap(lambda v: jvp(of_all, (objective.theta,), (v,))[1], in_dims=1, out_dims=1)(V)
    step, everything = 1e-6, list(range(ROWS))
    differences = [gradient(objective.theta + s * step * v, everything) for v in V.T for s in (1, -1)]
    central = torch.stack([(a - b) / (2 * step) for a, b in zip(differences[::2], differences[1::2], strict=True)], 1)
    torch.testing.assert_close(HV, central, rtol=1e-5, atol=1e-6 * float(central.abs().max()))


@pytest.mark.parametrize("ids", [[[0, 1, 7]], [[0, -1, 2]]])
def test_ids_beyond_the_table_name_the_row_and_the_table(ids, export):
    program = Program.from_exported(export(Tokens(), torch.zeros(2, 3, dtype=torch.int64))).to("cpu", torch.float64)
    objective = Objective(program, ObjectiveSpec("cross_entropy"))
    batch = Batch({"ids": torch.tensor([[0, 1, 6], *ids])}, torch.tensor([0, 1]), None, torch.tensor([40, 41]))
    with pytest.raises(InvalidArgument) as caught:
        objective.place(batch)
    assert caught.value.reason is Reason.INPUT_MISMATCH
    bad = next(one for one in ids[0] if not 0 <= one < 7)
    assert f"row 41 looks up the id {bad}, and 'table.weight' has the rows 0 to 6" in caught.value.message


def test_the_padding_row_of_a_table_has_no_gradient(export):
    """As in torch: `padding_idx` takes that row out of training."""
    module = Tokens(padding=2)
    program = Program.from_exported(export(module, torch.zeros(2, 3, dtype=torch.int64))).to("cpu", torch.float64)
    objective = Objective(program, ObjectiveSpec("cross_entropy"))
    ids = torch.tensor([[2, 2, 5], [0, 2, 1]])
    batch = objective.place(Batch({"ids": ids}, torch.tensor([0, 1]), None, torch.arange(2)))
    gradients = loss_gradients(objective, batch).dense()[:, objective.space.slice("table.weight")].reshape(2, 7, 4)
    assert float(gradients[:, 2].abs().max()) == 0
    assert float(gradients[0, 5].abs().max()) > 0
