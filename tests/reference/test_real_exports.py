"""Architectures that people export, through every exporter of torch: the scores of the original module.

The reference is the nn.Module itself in float64, by torch.func. Where an exporter folded BatchNorm into a convolution
the parameters are others, which the registration says; then the scores over the last layer are compared.
"""

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.func import functional_call

from functional_twin import Twin, apart
from reference import architectures as made
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.models import open_model, parity

L2, DAMPING, TRAIN, TEST = 1e-2, 1e-1, 20, 4
ROWS = {0: torch.export.Dim.DYNAMIC}
ROUTES = ("dynamo", "dynamo_plain", "torchscript", "pt2")
FOLDS = {"dynamo": "optimize=False", "torchscript": "do_constant_folding=False"}
"""Exporters that fold BatchNorm, and the option that the warning names."""
LOST = {("minilm", "dynamo"): "position.weight"}
"""Parameters that an exporter folded into a constant, which the warning names."""


@dataclass
class Case:
    """A module with random weights and rows."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    head: str
    """Pattern of the last layer's parameters."""

    @property
    def targets(self):
        return torch.arange(TRAIN + TEST) % 3

    def twin(self, pattern="", without=""):
        """Return the module as a function of the parameters whose names begin so, without one of them."""
        buffers = {n: b.double() if b.is_floating_point() else b for n, b in self.module.named_buffers()}
        all_of = {n: p.detach().double() for n, p in self.module.named_parameters()}
        chosen = {n: p for n, p in all_of.items() if n.startswith(pattern) and n != without}
        names = list(self.inputs)
        stacked = torch.stack([self.inputs[name] for name in names], 1)

        def f(weights, row):
            if isinstance(self.module, made.Gru):
                return written_gru({**all_of, **weights}, row[0])
            given = tuple(row[place][None] for place in range(len(names)))
            return functional_call(self.module, {**buffers, **all_of, **weights}, given)[0]

        def loss(outputs, target):
            return nn.functional.cross_entropy(outputs[None], target[None])

        twin = Twin(f, loss, chosen, stacked, self.targets, TRAIN)
        with torch.no_grad():
            torch.testing.assert_close(twin.outputs.float(), self.module(*self.inputs.values()), atol=1e-5, rtol=1e-5)
        return twin


def written_gru(weights, x):
    """Return what made.Gru gives for one row x (T, I); torch's own layer writes in place, which vmap cannot follow."""
    W, U, b, c = (weights[f"gru.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = x.new_zeros(U.shape[1])
    for step in x:
        (r, z, n), (r_, z_, n_) = (W @ step + b).chunk(3), (U @ h + c).chunk(3)
        r, z = torch.sigmoid(r + r_), torch.sigmoid(z + z_)
        h = (1 - z) * torch.tanh(n + r * n_) + z * h
    return weights["head.weight"] @ h + weights["head.bias"]


def build(name):
    torch.manual_seed(0)
    n, tokens = TRAIN + TEST, None
    if name == "minilm":
        tokens = torch.randint(1, 20, (n, 6))
        mask = (torch.arange(6) < torch.randint(2, 7, (n, 1))).long()
    module, inputs, head = {
        "mlp": lambda: (made.Mlp(), {"x": torch.randn(n, 6)}, "4."),
        "lenet": lambda: (made.LeNet(), {"x": torch.randn(n, 1, 12, 12)}, "fc3."),
        "resnet18": lambda: (made.ResNet18(), {"x": torch.randn(n, 3, 16, 16)}, "fc."),
        "gru": lambda: (made.Gru(), {"x": torch.randn(n, 5, 4)}, "head."),
        "encoder": lambda: (made.Encoder(), {"x": torch.randn(n, 5, 8)}, "head."),
        "minilm": lambda: (
            made.MiniLm(),
            {"input_ids": tokens * mask, "attention_mask": mask},
            "head.",
        ),
    }[name]()
    with torch.no_grad():
        for parameter in module.parameters():  # as after training: exporters store tensors of equal values once
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    if name == "resnet18":
        module.train()
        with torch.no_grad():
            for _ in range(20):
                module(inputs["x"])
    return Case(module.eval(), inputs, head)


@pytest.fixture(scope="module")
def cases():
    return {}


def exported(case, route, path):
    args = tuple(tensor[:3] for tensor in case.inputs.values())
    names = list(case.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if route == "pt2":
            torch.export.save(torch.export.export(case.module, args, dynamic_shapes=tuple(ROWS for _ in args)), path)
            return "pt2"
        if route.startswith("dynamo"):
            torch.onnx.export(
                case.module, args, path, dynamo=True, optimize=route == "dynamo", input_names=names,
                dynamic_shapes=tuple(ROWS for _ in args), verbose=False, external_data=False,
            )  # fmt: skip
        else:
            torch.onnx.export(
                case.module,
                args,
                path,
                dynamo=False,
                input_names=names,
                dynamic_axes={name: {0: "n"} for name in names},
            )
    return "onnx"


NAMES = ("mlp", "lenet", "resnet18", "gru", "encoder", "minilm")
LONG = {("lenet", "dynamo"), *((name, "dynamo_plain") for name in ("mlp", "gru", "encoder", "resnet18"))}
PAIRS = [
    pytest.param(name, route, marks=pytest.mark.slow if (name, route) in LONG else ())
    for name in NAMES
    for route in ROUTES
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "route"), PAIRS)
def test_scores_are_those_of_the_module(name, route, cases, tmp_path):
    case = cases.setdefault(name, build(name))
    path = tmp_path / "model"
    opened = open_model(path, exported(case, route, path), tmp_path)
    if opened.reference is not None:
        assert parity(opened, {key: tensor.numpy() for key, tensor in case.inputs.items()}) <= 1e-5
    program = Program.from_exported(
        opened.exported, input_names=[column.name for column in opened.inputs], output_names=opened.outputs
    ).to("cpu", torch.float64)
    y = case.targets
    inputs = {key: t.double() if t.is_floating_point() else t for key, t in case.inputs.items()}
    parts = (slice(TRAIN), slice(TRAIN, None))
    rows = [TensorRows({key: tensor[part] for key, tensor in inputs.items()}, y[part]) for part in parts]
    is_folded = name == "resnet18" and route in FOLDS
    folded = [text for text in opened.warnings if "BatchNorm" in text]
    assert len(folded) == is_folded
    if is_folded:
        assert FOLDS[route] in folded[0]
    lost = LOST.get((name, route), "")
    assert any(lost in text and "no score runs over them" in text for text in opened.warnings) == bool(lost)
    figures = {}
    for what, pattern in {"all": "", "last layer": case.head}.items():
        objective = Objective(program, ObjectiveSpec("cross_entropy", L2), (f"{pattern}*",) if pattern else ())
        twin = case.twin(pattern, lost)
        if not is_folded:
            assert len(objective.theta) == twin.gradients.shape[1], (what, sorted(objective.space.shapes))
        wanted = {"grad_dot": twin.grad_dot, "gauss_newton": twin.gauss_newton(DAMPING + L2)}
        options = {"grad_dot": {}, "gauss_newton": {"damping": DAMPING, "tolerance": 1e-10}}
        for method, expected in wanted.items():
            scores = influence(objective, *rows, method=method, top_k=None, **options[method]).scores
            figures[f"{method}, {what}"] = apart(scores, expected)
    print(name, route, {what: f"{value:.1e}" for what, value in figures.items()}, opened.warnings)
    if is_folded:
        assert min(figures.pop("grad_dot, all"), figures.pop("gauss_newton, all")) > 1e-3
    assert max(figures.values()) <= 1e-5, figures


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("route", ["dynamo", "torchscript", "pt2"])
@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_softmax_inside_an_export_is_looked_behind(end, route, tmp_path):
    case = build("mlp")
    twin, path = case.twin(), tmp_path / "model"
    ending = Case(nn.Sequential(case.module, end).eval(), case.inputs, "")
    opened = open_model(path, exported(ending, route, path), tmp_path)
    program = Program.from_exported(
        opened.exported, input_names=[column.name for column in opened.inputs], output_names=opened.outputs
    ).to("cpu", torch.float64)
    objective = Objective(program, ObjectiveSpec("cross_entropy", L2))
    assert objective.output_activation == {nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax"}[type(end)]
    parts = (slice(TRAIN), slice(TRAIN, None))
    rows = [TensorRows({"x": case.inputs["x"].double()[part]}, case.targets[part]) for part in parts]
    assert apart(influence(objective, *rows, method="grad_dot", top_k=None).scores, twin.grad_dot) <= 1e-6
