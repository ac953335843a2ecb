"""Built-in architectures against torch's own modules, and weights that do or do not fit."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from undue_service.domain.architectures import ARCHITECTURES, ArchitectureChoice, Architectures
from undue_service.domain.errors import Error, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.gradients import loss_gradients
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.models import open_model, predict
from undue_service.models.architectures import opening
from undue_service.models.architectures.building import BUILDERS, build

SMALL = {
    "mlp": {"sizes": (4, 6, 3), "activation": "tanh"},
    "lenet": {"size": 12, "classes": 3, "padding": 2, "pooling": "average", "activation": "tanh"},
    "resnet18": {"channels": 1, "size": 8, "classes": 3, "width": 4, "stem": "cifar"},
    "resnet50": {"channels": 2, "size": 32, "classes": 3, "width": 2},
    "transformer": {"vocabulary": 11, "length": 5, "classes": 3, "dim": 8, "heads": 2, "feedforward": 12, "pad": 0},
}


def chosen(name, **options):
    return Architectures().settle("model.architecture", ArchitectureChoice(name, options))


def trained(choice):
    """Return the module of an architecture as training might leave it, its statistics among it."""
    torch.manual_seed(0)
    module = build(choice, "cpu").module
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else 0.3 * torch.randn_like(tensor))
    return module.eval()


def rows_of(choice, count=5):
    torch.manual_seed(1)
    [(name, example)] = build(choice, "cpu").example_inputs.items()
    if example.is_floating_point():
        return name, torch.randn(count, *example.shape[1:])
    return name, torch.randint(0, choice.options["vocabulary"], (count, *example.shape[1:]))


def opened(folder, weights, choice):
    if weights is not None:
        save_file(weights, folder / "weights.safetensors")
    try:
        return open_model(folder / "weights.safetensors", "safetensors", folder, choice)
    finally:
        assert [path.name for path in folder.iterdir()] == ["weights.safetensors"], "something is left behind"


def test_every_architecture_has_a_builder() -> None:
    assert sorted(BUILDERS) == sorted(ARCHITECTURES) == sorted(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_weights_give_the_module_back(tmp_path, name) -> None:
    choice = chosen(name, **SMALL[name])
    module = trained(choice)
    found = opened(tmp_path, module.state_dict(), choice)
    input_name, x = rows_of(choice)
    assert [(column.name, column.shape) for column in found.inputs] == [(input_name, tuple(x.shape[1:]))]
    assert [n for n, _ in found.exported.named_parameters()] == [n for n, _ in module.named_parameters()]
    np.testing.assert_array_equal(predict(found, {input_name: x.numpy()})["output"], module(x).detach())
    assert found.warnings == ()


@pytest.mark.parametrize("name", SMALL)
def test_the_engine_differentiates_it_twice(tmp_path, name) -> None:
    choice = chosen(name, **SMALL[name])
    module = trained(choice)
    found = opened(tmp_path, module.state_dict(), choice)
    program = Program.from_exported(
        found.exported, input_names=[one.name for one in found.inputs], output_names=found.outputs
    ).to(torch.device("cpu"), torch.float64)
    objective = Objective(program, ObjectiveSpec("cross_entropy"), ())
    assert objective.space.dim == sum(parameter.numel() for parameter in module.parameters())
    input_name, x = rows_of(choice, 3)
    x = x.double() if x.is_floating_point() else x
    reference, y = module.double(), torch.tensor([0, 2, 1])
    parameters = {one: tensor.detach() for one, tensor in reference.named_parameters()}
    names = list(program.parameters)

    def loss(given, rows, labels):
        return nn.functional.cross_entropy(torch.func.functional_call(reference, given, (rows,)), labels)

    def ours(given, rows, labels):
        return nn.functional.cross_entropy(program.forward(given, {input_name: rows}), labels)

    per_row = [torch.func.grad(loss)(parameters, x[i : i + 1], y[i : i + 1]) for i in range(3)]
    expected = torch.stack([torch.cat([one[name].reshape(-1) for name in names]) for one in per_row])
    batch = objective.place(next(TensorRows({input_name: x}, y).batches(10)))
    torch.testing.assert_close(loss_gradients(objective, batch).dense(), expected, rtol=1e-8, atol=1e-10)

    tangents = {one: torch.randn_like(tensor) for one, tensor in parameters.items()}
    products = [
        torch.func.jvp(torch.func.grad(lambda given, of=of: of(given, x, y)), (parameters,), (tangents,))[1]
        for of in (loss, ours)
    ]
    for one in parameters:
        torch.testing.assert_close(products[1][one], products[0][one], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet18", {}, 11_689_512),
        ("resnet50", {}, 25_557_032),
        ("lenet", {}, 61_706),
        ("mlp", {"sizes": (784, 128, 10)}, 101_770),
    ],
)
def test_the_published_sizes(name, options, count) -> None:
    module = build(chosen(name, **options), "meta").module
    assert sum(parameter.numel() for parameter in module.parameters()) == count
    assert all(tensor.is_meta for tensor in module.state_dict().values())


def test_residual_networks_have_the_names_that_their_checkpoints_have() -> None:
    basic = build(chosen("resnet18"), "meta").module.state_dict()
    deep = build(chosen("resnet50"), "meta").module.state_dict()
    assert (len(basic), len(deep)) == (122, 320)
    assert {"conv1.weight", "bn1.running_var", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias", "fc.bias"} <= set(
        basic
    )
    assert "layer1.0.downsample.0.weight" not in basic
    assert tuple(deep["layer3.5.conv3.weight"].shape) == (1024, 256, 1, 1)
    assert tuple(deep["layer1.0.downsample.1.weight"].shape) == (256,)


def test_the_stride_is_where_torchvision_has_it() -> None:
    module = build(chosen("resnet50"), "meta").module
    strides = [module.layer2[0].conv1.stride, module.layer2[0].conv2.stride, module.layer1[0].conv2.stride]
    assert strides == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize(("norm", "activation"), [("after", "relu"), ("before", "gelu")])
def test_the_transformer_is_torchs(tmp_path, norm, activation, pooling, padding) -> None:
    torch.manual_seed(3)
    dim, length = 8, 6
    layer = nn.TransformerEncoderLayer(dim, 2, 12, 0.1, activation, batch_first=True, norm_first=norm == "before")
    last = nn.LayerNorm(dim) if norm == "before" else None
    encoder = nn.TransformerEncoder(layer, 3, last, enable_nested_tensor=False)
    parts = nn.ModuleDict(
        {
            "tokens": nn.Embedding(9, dim),
            "positions": nn.Embedding(length, dim),
            "encoder": encoder,
            "head": nn.Linear(dim, 4),
        }
    )
    for parameter in parts.parameters():
        nn.init.normal_(parameter, std=0.3)
    parts.eval()
    choice = chosen(
        "transformer",
        vocabulary=9,
        length=length,
        classes=4,
        dim=dim,
        heads=2,
        layers=3,
        feedforward=12,
        norm=norm,
        activation=activation,
        pooling=pooling,
        pad=0 if padding else -1,
    )
    found = opened(tmp_path, parts.state_dict(), choice)
    tokens = torch.randint(0 if padding else 1, 9, (7, length))
    tokens[:, 0] = 1
    mask = (tokens == 0) if padding else None
    with torch.no_grad():
        hidden = encoder(parts["tokens"](tokens) + parts["positions"].weight, src_key_padding_mask=mask)
        kept = torch.ones(7, length) if mask is None else (~mask).float()
        mean = (hidden * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
        expected = parts["head"](mean if pooling == "mean" else hidden[:, 0])
    np.testing.assert_allclose(predict(found, {"tokens": tokens.numpy()})["output"], expected, rtol=1e-4, atol=1e-5)


def test_a_row_of_nothing_but_padding_is_finite(tmp_path) -> None:
    choice = chosen("transformer", **SMALL["transformer"])
    found = opened(tmp_path, trained(choice).state_dict(), choice)
    assert np.isfinite(predict(found, {"tokens": np.zeros((2, 5), np.int64)})["output"]).all()


MLP = chosen("mlp", **SMALL["mlp"])


def rename(state, old, new):
    return {new if name == old else name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "parameter", "said"),
    [
        (lambda s: {n: t for n, t in s.items() if n != "2.bias"}, "2.bias", "the file has no weights '2.bias'"),
        (lambda s: s | {"4.bias": torch.zeros(3)}, "4.bias", "has weights '4.bias', which the architecture has not"),
        (lambda s: rename(s, "0.weight", "fc.weight"), "fc.weight", "which the architecture has not"),
        (
            lambda s: s | {"0.weight": torch.zeros(6, 5)},
            "0.weight",
            r"\(6, 5\) in the file and \(6, 4\) in the architecture: it is mlp\(sizes=\(4, 6, 3\), activation='tanh'\)",
        ),
        (lambda s: s | {"0.bias": torch.zeros(6, dtype=torch.int64)}, "0.bias", "int64 in the file and float32"),
        (lambda s: {f"module.{n}": t for n, t in s.items()}, "module.0.bias", "begins with 'module': write it without"),
    ],
)
def test_other_weights_are_named(tmp_path, change, parameter, said) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        opened(tmp_path, change(dict(trained(MLP).state_dict())), MLP)
    assert (caught.value.reason, caught.value.metadata) == (Reason.WEIGHTS_MISMATCH, {"parameter": parameter})


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float64, "float64"), (torch.float16, "float32"), (torch.bfloat16, "float32"), (torch.float32, "float32")],
)
def test_every_type_of_number_is_kept_exactly(tmp_path, given, expected) -> None:
    state = {name: tensor.to(given) for name, tensor in trained(MLP).state_dict().items()}
    found = opened(tmp_path, state, MLP)
    for name, tensor in found.exported.named_parameters():
        assert str(tensor.dtype) == f"torch.{expected}"
        assert torch.equal(tensor, state[name].to(tensor.dtype))
    assert [column.dtype for column in found.inputs] == [expected]


def test_mixed_types_become_the_wider_one(tmp_path) -> None:
    state = dict(trained(MLP).state_dict())
    state["0.bias"] = state["0.bias"].double()
    found = opened(tmp_path, state, MLP)
    assert {tensor.dtype for _, tensor in found.exported.named_parameters()} == {torch.float64}


def test_statistics_are_needed_and_counters_are_not(tmp_path) -> None:
    choice = chosen("resnet18", **SMALL["resnet18"])
    state = dict(trained(choice).state_dict())
    without = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    name, x = rows_of(choice)
    results = [predict(opened(tmp_path, one, choice), {name: x.numpy()})["output"] for one in (state, without)]
    np.testing.assert_array_equal(*results)
    del without["layer3.0.bn1.running_mean"]
    with pytest.raises(InvalidArgument, match=r"no weights 'layer3\.0\.bn1\.running_mean'"):
        opened(tmp_path, without, choice)


def test_nan_is_named(tmp_path) -> None:
    state = dict(trained(MLP).state_dict()) | {"2.bias": torch.tensor([0, math.nan, 0])}
    with pytest.raises(Error, match=r"2\.bias") as caught:
        opened(tmp_path, state, MLP)
    assert caught.value.reason is Reason.NON_FINITE_DATA


def test_options_that_ask_for_more_than_there_is_take_no_memory(tmp_path) -> None:
    huge = chosen("mlp", sizes=(1 << 20,) * 64)
    with pytest.raises(ResourceExhausted, match="the limit is") as caught:
        opened(tmp_path, trained(MLP).state_dict(), huge)
    assert caught.value.reason is Reason.UPLOAD_TOO_LARGE


def test_a_format_without_its_architecture_is_refused(tmp_path) -> None:
    with pytest.raises(InvalidArgument, match="safetensors with an architecture"):
        opened(tmp_path, trained(MLP).state_dict(), None)


def test_opening_needs_no_more_than_the_weights(tmp_path, monkeypatch) -> None:
    """Nothing is drawn at random in the place of what the file holds."""
    state = trained(MLP).state_dict()
    devices = []
    monkeypatch.setattr(opening, "build", lambda choice, device: devices.append(device) or build(choice, device))
    opened(tmp_path, state, MLP)
    assert devices == ["meta"]
