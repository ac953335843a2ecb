"""Archives of real modules open, keep their names, and give the module's outputs."""

import io
import json

import numpy as np
import pytest
import torch
from torch import nn

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.models import predict

DYNAMIC = {0: torch.export.Dim.DYNAMIC}
TWO_OPEN = {0: torch.export.Dim("n"), 1: torch.export.Dim("t")}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("shift", torch.randn(4), persistent=False)
        self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x):
        return self.b(torch.relu(self.a(x)) + self.shift) * self.scale + torch.tensor([0.5, 0.25, 0.0, 1.0])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

    def forward(self, pixels, other):
        logits = self.body(pixels) + other.float()
        return {"logits": logits, "probability": torch.softmax(logits, -1)}


class Shaped(nn.Module):
    def forward(self, x):
        pairs = x.reshape(x.shape[0] * 2, -1).reshape(x.shape[0], -1)
        return x.view(x.size(0), x.shape[1] * x.shape[2]), (
            pairs,
            torch.ones(x.shape[0], 3) + x.amax(dim=(1, 2))[:, None],
        )


def mlp():
    return nn.Sequential(
        nn.Linear(4, 6),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(6),
        nn.Dropout(),
        nn.Linear(6, 5),
        nn.GELU(),
        nn.Linear(5, 3),
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 2, 2),
        nn.BatchNorm2d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


MODULES = {
    "gru": (lambda: Recurrent(nn.GRU(4, 3, 2, batch_first=True, dropout=0.5)), [(5, 4)], ("output",)),
    "lstm": (lambda: Recurrent(nn.LSTM(4, 3, batch_first=True, bidirectional=True)), [(5, 4)], ("output",)),
    "rnn": (lambda: Recurrent(nn.RNN(4, 3, bias=False, nonlinearity="relu", batch_first=True)), [(5, 4)], ("output",)),
    "linear": (lambda: nn.Linear(4, 3), [(4,)], ("output",)),
    "mlp": (mlp, [(4,)], ("output",)),
    "tied": (Tied, [(4,)], ("output",)),
    "named": (Named, [(3, 4), (3,)], ("logits", "probability")),
    "shaped": (Shaped, [(4, 6)], ("output_0", "output_1", "output_2")),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)),
        [(1, 4, 4)],
        ("output",),
    ),
    "cnn": (cnn, [(1, 6, 6)], ("output",)),
    "transformer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.LayerNorm(4)),
        [(5, 4)],
        ("output",),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODULES)
def test_archive_gives_the_outputs_of_its_module(name, dtype, save_pt2, open_bytes, tmp_path):
    build, shapes, outputs = MODULES[name]
    torch.manual_seed(0)
    module = build().to(dtype).eval()
    for buffer in ("running_mean", "running_var"):
        for part in module.modules():
            if hasattr(part, buffer):
                getattr(part, buffer).uniform_(0.5, 2)
    opened = open_bytes(save_pt2(module, *(torch.randn(3, *shape, dtype=dtype) for shape in shapes)), "pt2")
    assert opened.outputs == outputs
    assert opened.reference is None
    assert opened.warnings == ()
    assert dict(opened.exported.named_parameters()).keys() >= dict(module.named_parameters()).keys()
    for rows in (1, 2, 7):
        args = [torch.randn(rows, *shape, dtype=dtype) for shape in shapes]
        actual = predict(opened, {c.name: a.numpy() for c, a in zip(opened.inputs, args, strict=True)})
        expected = torch.utils._pytree.tree_leaves(module(*args))
        for output, value in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(actual[output], value.detach().numpy(), atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]


def test_inputs_and_parameters_are_described(save_pt2, open_bytes):
    opened = open_bytes(save_pt2(Named(), torch.randn(3, 3, 4), torch.ones(3, 3, dtype=torch.int64)), "pt2")
    assert [(c.name, c.dtype, c.shape) for c in opened.inputs] == [
        ("pixels", "float32", (3, 4)),
        ("other", "int64", (3,)),
    ]
    assert [name for name, _ in opened.exported.named_parameters()] == ["body.1.weight", "body.1.bias"]
    assert opened.exported.example_inputs is None


def test_tied_weights_share_memory(save_pt2, open_bytes):
    opened = open_bytes(save_pt2(Tied(), torch.randn(3, 4)), "pt2")
    state = opened.exported.state_dict
    assert state["a.weight"].data_ptr() == state["b.weight"].data_ptr()


def test_weights_that_are_views_of_one_storage(save_pt2, open_bytes):
    module = nn.Linear(4, 3)
    module.weight = nn.Parameter(torch.randn(8, 6)[1:5, 2:5].t())
    opened = open_bytes(save_pt2(module, torch.randn(2, 4)), "pt2")
    x = torch.randn(5, 4)
    np.testing.assert_allclose(predict(opened, {"input": x.numpy()})["output"], module(x).detach(), atol=1e-6)


@pytest.mark.parametrize(("build", "shape"), [(mlp, (4,)), (cnn, (1, 6, 6))])
def test_a_program_in_core_aten(build, shape, open_bytes):
    module = build().eval()
    program = torch.export.export(module, (torch.randn(3, *shape),), dynamic_shapes=(DYNAMIC,)).run_decompositions()
    content = io.BytesIO()
    torch.export.save(program, content)
    opened, x = open_bytes(content.getvalue(), "pt2"), torch.randn(5, *shape)
    np.testing.assert_allclose(predict(opened, {"input": x.numpy()})["output"], module(x).detach(), atol=1e-6)


def test_a_program_exported_on_a_gpu_is_loaded_on_the_cpu(save_pt2, tamper, open_bytes):
    def edit(data):
        return json.loads(json.dumps(data).replace('{"type": "cpu", "index": null}', '{"type": "cuda", "index": 0}'))

    edits = {"models/model.json": edit, "data/weights/model_weights_config.json": edit}
    opened = open_bytes(tamper(save_pt2(mlp(), torch.randn(3, 4)), edits), "pt2")
    assert {tensor.device.type for tensor in opened.exported.state_dict.values()} == {"cpu"}
    assert predict(opened, {"input": np.zeros((2, 4), np.float32)})["output"].shape == (2, 3)


@pytest.mark.parametrize(
    ("dimension", "warnings"),
    [
        (torch.export.Dim("n", min=0), 0),
        (torch.export.Dim("n", min=1, max=64), 1),
        (torch.export.Dim.AUTO, 0),
    ],
)
def test_every_way_to_leave_the_batch_open(dimension, warnings, save_pt2, open_bytes):
    module = mlp()
    opened = open_bytes(save_pt2(module, torch.randn(5, 4), shapes={0: dimension}), "pt2")
    assert len(opened.warnings) == warnings
    assert len(predict(opened, {"input": np.zeros((100, 4), np.float32)})["output"]) == 100


def test_extra_files_are_left_out_with_a_warning(save_pt2, tamper, open_bytes):
    opened = open_bytes(tamper(save_pt2(mlp(), torch.randn(3, 4)), {"extra/notes.txt": b"trained on Monday"}), "pt2")
    assert opened.warnings == ("1 extra files in the archive are left out",)


@pytest.mark.parametrize("shapes", [None, {0: torch.export.Dim("n", min=4)}, {0: 2 * torch.export.Dim("half")}])
def test_a_fixed_number_of_rows_shows_the_export_line(shapes, save_pt2, open_bytes):
    content = save_pt2(mlp(), torch.randn(6, 4), shapes=shapes or (None,))
    with pytest.raises(InvalidArgument) as caught:
        open_bytes(content, "pt2")
    assert caught.value.reason is Reason.STATIC_BATCH
    assert (
        "torch.export.save(torch.export.export(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"
        in str(caught.value)
    )


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(4, 3), function

    def forward(self, x):
        return self.function(self, x)


def _in_place(module, x):
    return module.fc(x.relu_())


@pytest.mark.parametrize(
    ("module", "example", "shapes", "reason", "says"),
    [
        (Returns(lambda m, x: torch.fft.rfft(m.fc(x)).real), torch.ones(3, 4), DYNAMIC, "UNSUPPORTED_OPERATORS", "fft"),
        (nn.Linear(4, 3).half(), torch.randn(3, 4).half(), DYNAMIC, "MODEL_UNSUPPORTED", "HALF"),
        (Returns(lambda m, x: m.fc(x).mean()), torch.randn(3, 4), DYNAMIC, "MODEL_UNSUPPORTED", "one row"),
        (Returns(lambda m, x: m.fc(x).reshape(-1)), torch.randn(3, 4), DYNAMIC, "MODEL_UNSUPPORTED", "one row"),
        (Returns(lambda m, x: m.fc.weight * 2), torch.randn(3, 4), DYNAMIC, "STATIC_BATCH", "any number of rows"),
        (Returns(_in_place), torch.randn(3, 4), DYNAMIC, "MODEL_UNSUPPORTED", "in place"),
        (Returns(lambda m, x: m.fc(x).t().relu_().t()), torch.randn(3, 4), DYNAMIC, "MODEL_UNSUPPORTED", "in place"),
        (Returns(lambda m, x: (m.fc(x), 3)), torch.randn(3, 4), DYNAMIC, "MODEL_UNSUPPORTED", "other than tensors"),
        (nn.Linear(4, 3), torch.randn(3, 5, 4), TWO_OPEN, "MODEL_UNSUPPORTED", "axis 1"),
        (Returns(lambda m, x: m.fc(x)[x[:, 0] > 0]), torch.randn(3, 4), DYNAMIC, "UNSUPPORTED_OPERATORS", "aten.index"),
    ],
)  # fmt: skip
def test_modules_that_are_not_for_us(module, example, shapes, reason, says, save_pt2, open_bytes):
    with pytest.raises(InvalidArgument) as caught:
        open_bytes(save_pt2(module, example, shapes=shapes), "pt2")
    assert caught.value.reason == reason
    assert says in caught.value.message
