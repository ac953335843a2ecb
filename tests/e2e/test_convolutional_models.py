"""CNNs and token models through the whole service: what the registration says of them, and their scores."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import undue

ROWS = {0: torch.export.Dim.DYNAMIC}


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(36, 10)
        self.auxiliary = nn.Linear(36, 2)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2).flatten(1)
        return torch.softmax(self.fc(x), 1), self.auxiliary(x)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.conv, self.fc = nn.Embedding(17, 4), nn.Conv1d(4, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, ids):
        return self.fc(nn.functional.gelu(self.conv(self.table(ids).transpose(1, 2))).mean(2))


@pytest.fixture(scope="module")
def pictures(client, digits):
    torch.manual_seed(0)
    module = Pictures()
    x = torch.tensor(digits.X_train, dtype=torch.float32).reshape(-1, 1, 8, 8)
    with torch.no_grad():
        module(x)  # sets BatchNorm's running statistics
    train = client.datasets.register("pictures", undue.Arrays(inputs=x[:200].numpy(), targets=digits.y_train[:200]))
    return module.eval(), x, train


def write(module, example, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), path, dynamo=True, dynamic_shapes=(ROWS,), verbose=False, external_data=False, **options
        )
    return path


def test_the_report_says_what_was_found(client, pictures, tmp_path):
    module, x, train = pictures
    path = write(module, x[:3], tmp_path / "m.onnx", output_names=["probabilities", "auxiliary"])
    model = client.models.register(
        "pictures-folded",
        path,
        objective=undue.Objective("cross_entropy", l2=1e-2),
        parameters=["fc.*"],
        output="probabilities",
        sample=train,
    )
    report = model.report
    assert {p.name: p.selected for p in report.parameters} == {
        "conv.weight": False, "conv.bias": False, "fc.weight": True, "fc.bias": True,
    }  # fmt: skip
    assert {p.name: p.uses for p in report.parameters} == {
        "conv.weight": ("convolution",), "conv.bias": ("convolution",),
        "fc.weight": ("linear",), "fc.bias": ("linear",),
    }  # fmt: skip
    assert (report.output, report.output_activation) == ("probabilities", "softmax")
    assert any("the prediction is the output 'probabilities'" in text for text in report.warnings)
    assert report.linear_head
    assert report.parity.max_abs_difference <= 1e-5
    (folded,) = (text for text in report.warnings if "BatchNorm" in text)
    assert "'conv.weight, conv.bias'" in folded
    (unreached,) = (text for text in report.warnings if "does not depend" in text)
    assert "'auxiliary.weight', 'auxiliary.bias'" in unreached


def test_last_layer_scores_are_the_same_folded_or_not(client, pictures, tmp_path):
    module, x, train = pictures
    folded = write(module, x[:3], tmp_path / "m.onnx", output_names=["p", "a"])
    plain = write(module, x[:3], tmp_path / "plain.onnx", output_names=["p", "a"], optimize=False)
    found = []
    for name, source, options in (
        ("pictures-module", module, {"example_inputs": x[:3], "output": "output_0"}),
        ("pictures-folded", folded, {"output": "p"}),
        ("pictures-plain", plain, {"output": "p"}),
    ):
        objective = undue.Objective("cross_entropy", l2=1e-2)
        model = client.models.register(name, source, objective=objective, parameters=["fc.*"], sample=train, **options)
        job = client.influence(model, train=train, test=train, rows=range(6), method="exact", top_k=None)
        found.append(job.result().scores)
    for scores in found[1:]:
        assert np.abs(scores - found[0]).max() <= 1e-5 * np.abs(found[0]).max()


def test_a_token_model_takes_integers_and_refuses_ids_beyond_its_table(client, tmp_path):
    torch.manual_seed(0)
    module, ids = Tokens().eval(), torch.randint(17, (40, 6))
    targets = torch.randint(3, (40,)).numpy()
    train = client.datasets.register("tokens", undue.Arrays(inputs=ids.numpy(), targets=targets))
    objective = undue.Objective("cross_entropy", l2=1e-2)
    found = []
    for name, source, options in (
        ("tokens-onnx", write(module, ids[:3], tmp_path / "t.onnx"), {}),
        ("tokens-module", module, {"example_inputs": ids[:3]}),
    ):
        model = client.models.register(name, source, objective=objective, sample=train, **options)
        assert model.report.inputs[0].dtype == "int64"
        job = client.influence(model, train=train, test=train, rows=[0, 1], method="grad_dot", top_k=None)
        found.append(job.result().scores)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6 * np.abs(found[1]).max())

    ids[7, 3] = 17
    beyond = client.datasets.register("tokens-beyond", undue.Arrays(inputs=ids.numpy(), targets=targets))
    job = client.influence(model, train=beyond, test=train, rows=[0], method="grad_dot")
    with pytest.raises(undue.Error) as caught:
        job.result()
    assert caught.value.reason == "INPUT_MISMATCH"
    assert "row 7 looks up the id 17, and 'table.weight' has the rows 0 to 16" in str(caught.value)
