"""What registration knows of an ONNX file's tensors: which were trained, and what the exporter did to them."""

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import make_node
from torch import nn

from undue_service.models import parity

W = np.eye(4, dtype=np.float32)
X, Y = {"x": ["n", 4]}, {"y": ["n", 4]}
ROWS = {0: torch.export.Dim.DYNAMIC}


class Fresh(nn.Module):
    """BatchNorm as it is initialised: its mean equals its bias, its variance its weight; and so do the second's."""

    def __init__(self):
        super().__init__()
        self.first, self.fc, self.second = nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("shift", torch.randn(4))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.second(torch.tanh(self.fc(self.first(x)))) + self.shift


def exported(module, x, dynamo, **options):
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(
                module.eval(), (x,), dynamo=True, dynamic_shapes=(ROWS,), verbose=False, **options
            )
            return program.model_proto.SerializeToString()
        axes = {"x": {0: "n"}}
        torch.onnx.export(module.eval(), (x,), content, dynamo=False, input_names=["x"], dynamic_axes=axes, **options)
    return content.getvalue()


def names(opened):
    return {name for name, _ in opened.exported.named_parameters()}


@pytest.mark.parametrize(
    ("dynamo", "options"),
    [(True, {"optimize": True}), (True, {"optimize": False}), (False, {"do_constant_folding": False})],
)
def test_statistics_stored_once_with_weights_of_equal_values_are_no_parameters(dynamo, options, open_bytes):
    torch.manual_seed(0)
    module, x = Fresh().eval(), torch.randn(5, 4)
    opened = open_bytes(exported(module, x, dynamo, **options))
    assert parity(opened, {opened.inputs[0].name: x.numpy()}) <= 1e-5
    buffers = set() if dynamo else {"shift"}  # the older exporter writes nothing that tells a buffer from a parameter
    assert names(opened) <= {name for name, _ in module.named_parameters()} | buffers
    ours = opened.exported.module()(x)[0].square().sum()
    theirs = module(x).square().sum()
    trained = dict(opened.exported.named_parameters())
    found = torch.autograd.grad(ours, [trained["first.weight"], trained["first.bias"], trained["fc.weight"]])
    first = [module.first.weight, module.first.bias, module.fc.weight]
    second = [module.second.weight, module.second.bias]
    of_first, of_second = torch.autograd.grad(theirs, first, retain_graph=True), torch.autograd.grad(theirs, second)
    tied = not {"second.weight", "second.bias"} <= set(trained)
    torch.testing.assert_close(found[0], of_first[0] + of_second[0] if tied else of_first[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], of_first[1] + of_second[1] if tied else of_first[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], of_first[2], rtol=1e-4, atol=1e-5)
    if tied and dynamo:
        assert any("'second.bias, second.weight, unused'" in text and "merged" in text for text in opened.warnings)
    elif tied:
        assert any("stored once" in text and "second.weight and first.weight" in text for text in opened.warnings)
    else:
        assert opened.warnings == ("the file does not hold the parameters 'unused' of the exported module: unused, "
            "or of the same values as another tensor and merged with it",)  # fmt: skip


def test_a_weight_under_another_name_is_a_parameter_and_both_names_are_told(open_bytes):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    opened = open_bytes(exported(module, torch.randn(3, 2, 4), dynamo=True))
    assert len(names(opened)) == 4
    assert sum(parameter.numel() for parameter in opened.exported.parameters()) == 43
    (text,) = opened.warnings
    stored = sorted(names(opened) - {"0.bias", "2.bias"})
    assert f"0.weight as {stored[0]}, 2.weight as {stored[1]}" in text


def test_constants_that_the_exporter_lifts_are_no_parameters(open_bytes):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.temperature = nn.Linear(4, 3), nn.Parameter(torch.tensor(1.5))

        def forward(self, x):
            return (self.fc(x).clamp(-2.0, 2.0) ** 2 + torch.tensor([0.1, 0.2, 0.3])) / self.temperature

    opened = open_bytes(exported(Scaled(), torch.randn(3, 4), dynamo=True))
    assert names(opened) == {"fc.weight", "fc.bias", "temperature"}
    assert opened.warnings == ()


@pytest.mark.parametrize("dynamo", [True, False])
def test_folded_batch_norm_is_told_with_the_weights_and_the_remedy(dynamo, open_bytes):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    module[1].running_mean.normal_()
    module[1].bias.data.normal_()
    opened = open_bytes(exported(module, torch.randn(3, 1, 4, 4), dynamo))
    (text,) = opened.warnings
    assert "BatchNorm" in text
    assert ("optimize=False" if dynamo else "do_constant_folding=False") in text
    assert ("'0.weight, 0.bias'" if dynamo else "'onnx::Conv_") in text
    assert "scores over the other parameters are" in text


def test_a_file_without_its_signature_still_tells_of_folding(open_bytes):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    model = onnx.load_model_from_string(exported(module, torch.randn(3, 1, 4, 4), dynamo=True))
    del model.graph.metadata_props[:]
    (text,) = open_bytes(model.SerializeToString()).warnings
    assert "folded BatchNorm into '0.weight, 0.bias'" in text


def test_metadata_that_names_nothing_in_the_file_decides_nothing(open_bytes, onnx_bytes):
    model = onnx.load_model_from_string(onnx_bytes([make_node("Gemm", ["x", "w"], ["y"])], X, Y, {"w": W}))
    entry = model.graph.metadata_props.add()
    entry.key = "pkg.torch.export.ExportedProgram.graph_signature"
    entry.value = "p_other: PARAMETER target='other'\nb_w: BUFFER target='w' persistent=True\n"
    opened = open_bytes(model.SerializeToString())
    assert names(opened) == {"w"}
    assert opened.warnings == ()


def test_statistics_behind_a_chain_of_identities(open_bytes, onnx_bytes):
    nodes = [
        make_node("Identity", ["w"], ["a"]),
        make_node("Identity", ["a"], ["mean"]),
        make_node("BatchNormalization", ["x", "w", "b", "mean", "variance"], ["y"]),
    ]
    ones = np.ones(4, np.float32)
    weights = {"w": ones * 2, "b": ones, "variance": ones}
    opened = open_bytes(onnx_bytes(nodes, X, Y, weights))
    assert names(opened) == {"w", "b"}
    x = torch.randn(3, 4)
    weight = dict(opened.exported.named_parameters())["w"]
    (gradient,) = torch.autograd.grad(opened.exported.module()(x)[0].sum(), [weight])
    torch.testing.assert_close(gradient, ((x - 2) / np.sqrt(1 + 1e-5)).sum(0))
