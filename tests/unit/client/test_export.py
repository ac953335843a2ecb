"""nn.Module → .pt2 with the caller's torch."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import undue
from undue._export import is_program, write_pt2


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 2)
        self.right = nn.Linear(4, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.left(a) + self.right(b)


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.reshape(2, 3))


def load(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(path).module()


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("kind", ["tensor", "array", "tuple"])
def test_the_batch_axis_is_of_any_size(tmp_path, rows, kind) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    example = torch.randn(rows, 3)
    given = {"tensor": example, "array": example.numpy(), "tuple": (example,)}[kind]
    loaded = load(write_pt2(module, given, tmp_path))
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3)
        assert torch.equal(loaded(x), module(x))


def test_several_inputs_by_position_or_by_name(tmp_path) -> None:
    module, a, b = Two(), torch.randn(5, 3), torch.randn(5, 4)
    by_position = load(write_pt2(module, (a[:1], b[:1]), tmp_path))
    assert torch.equal(by_position(a, b), module(a, b))
    by_name = load(write_pt2(module, {"b": b[:1], "a": a[:1]}, tmp_path))
    assert torch.equal(by_name(a=a, b=b), module(a, b))


def test_export_is_in_evaluation_mode_and_leaves_the_module_as_it_was(tmp_path) -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    loaded = load(write_pt2(module, torch.randn(4, 3), tmp_path))
    assert [part.training for part in module] == [True, False, True, True]
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    x = torch.randn(6, 3)
    assert torch.equal(loaded(x), loaded(x))
    assert torch.allclose(loaded(x), module.eval()(x))


def test_a_module_is_restored_also_when_export_fails(tmp_path) -> None:
    module = Fixed().train()
    with pytest.raises(undue.InvalidArgument, match="any number of rows") as caught:
        write_pt2(module, torch.randn(2, 3), tmp_path)
    assert caught.value.reason == "STATIC_BATCH"
    assert module.training
    assert module.linear.training


def test_exported_programs_pass_through(tmp_path) -> None:
    module = nn.Linear(3, 2)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (torch.randn(2, 3),), dynamic_shapes=dynamic)
    x = torch.randn(5, 3)
    assert torch.equal(load(write_pt2(program, None, tmp_path))(x), module(x))


@pytest.mark.parametrize(
    "example",
    [None, {}, torch.zeros(0, 3), torch.tensor(1.0), "text", object()],
    ids=["none", "empty", "no rows", "0-d", "text", "object"],
)
def test_missing_examples_say_what_to_write(tmp_path, example) -> None:
    with pytest.raises(undue.InvalidArgument, match=r"example_inputs=X\[:2\]"):
        write_pt2(nn.Linear(3, 2), example, tmp_path)


def test_what_torch_cannot_export_is_an_error_of_ours(tmp_path) -> None:
    with pytest.raises(undue.InvalidArgument, match="cannot export") as caught:
        write_pt2(nn.Linear(3, 2), torch.randn(2, 4), tmp_path)
    assert caught.value.reason == "MODEL_UNSUPPORTED"


def test_only_programs_are_programs() -> None:
    assert is_program(nn.Linear(1, 1))
    assert not is_program("model.onnx")
    assert not is_program(np.zeros(3))


def test_registering_a_module_uploads_a_pt2(fake, client) -> None:
    client.models.register(
        "m", nn.Linear(3, 2), objective=undue.Objective("squared_error"), example_inputs=torch.zeros(1, 3), wait=False
    )
    sent = fake.requests[-1].model
    assert sent.format == type(sent).FORMAT_PT2
    assert bytes(fake.content[sent.upload]).startswith(b"PK")


def test_without_torch_in_the_process_nothing_is_a_program(monkeypatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "torch")
    assert not is_program(nn.Linear(1, 1))
