"""Factored gradients, in every form, are those of plain autograd row by row; and which blocks θ falls into."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear

from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import Batch
from undue_service.engine.gradients import (
    dense_gradients,
    each_block,
    head_gradients,
    loss_gradients,
    measurement_gradients,
)
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.engine.taps import parts as parts_module
from unit.engine import dense

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def opened(module: nn.Module, x: Tensor, *, exclude=(), parameters=(), decomposed=False, l2=0.1, lengths=False):
    module = module.eval()
    dims = {0: torch.export.Dim.DYNAMIC}
    if lengths:
        dims[1] = torch.export.Dim.DYNAMIC
    exported = torch.export.export(module, (x,), dynamic_shapes=(dims,))
    exported = exported.run_decompositions() if decomposed else exported
    program = Program.from_exported(exported).to("cpu", torch.float64)
    loss = "cross_entropy" if program.output_shape[:1] > (1,) else "binary_logistic"
    return Objective(program, ObjectiveSpec(loss, l2, tuple(exclude)), parameters)


def placed(objective: Objective, x: Tensor, seed: int = 0) -> Batch:
    y = torch.randint(max(2, objective.outputs_per_row), (len(x),), generator=torch.Generator().manual_seed(seed))
    return objective.place(Batch({"x": x}, y, None, torch.arange(len(x))))


def check(objective: Objective, x: Tensor, other: Tensor | None = None) -> None:
    """Hold every form of a block of gradients against the dense ones."""
    batch = placed(objective, x)
    reference = dense.row_gradients(objective, batch)
    block = loss_gradients(objective, batch)
    blocks = objective.taps.blocks
    everywhere = torch.cat([one.positions for one in blocks])
    assert sorted(everywhere.tolist()) == list(range(objective.space.dim)), "the blocks are θ, each coefficient once"
    assert all(bool((objective.l2[one.positions] == one.l2).all()) for one in blocks)
    V = torch.randn(objective.space.dim, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(block.dense(), reference, **CLOSE)
    torch.testing.assert_close(block.dot(V), reference @ V, **CLOSE)
    torch.testing.assert_close(block.dot(V[:, :1]), reference @ V[:, :1], **CLOSE)
    torch.testing.assert_close(block.norms(), reference.norm(dim=1), **CLOSE)
    torch.testing.assert_close(block.total(None), reference.sum(0), **CLOSE)
    torch.testing.assert_close(block.total(weights), weights @ reference, **CLOSE)
    fewer = placed(objective, x[:-1] if other is None else other, seed=5)
    margins = measurement_gradients(objective, fewer, "margin")
    against = dense.row_gradients(objective, fewer, lambda theta, rows: objective.measurement(theta, rows, "margin"))
    scale = [1.0 + 0.5 * number for number in range(len(blocks))]
    scales = torch.empty(objective.space.dim, dtype=torch.float64)
    for one, factor in zip(blocks, scale, strict=True):
        scales[one.positions] = factor
    torch.testing.assert_close(block.gram(margins), reference @ against.T, **CLOSE)
    torch.testing.assert_close(block.gram(margins, scale), (reference * scales) @ against.T, **CLOSE)
    written = dense_gradients(objective, against)
    torch.testing.assert_close(written.dense(), against, rtol=0, atol=0)
    torch.testing.assert_close(block.gram(written, scale), (reference * scales) @ against.T, **CLOSE)
    torch.testing.assert_close(written.gram(block, scale), (against * scales) @ reference.T, **CLOSE)
    f = objective.outputs(objective.theta, batch.inputs)
    cotangent = torch.randn(f.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    capture = objective.taps.capture(batch.inputs)
    torch.testing.assert_close(capture.outputs, f)
    for c in (cotangent, -2 * cotangent.flip(0)):
        J = dense.row_gradients(objective, batch, lambda t, b, c=c: (objective.outputs(t, b.inputs) * c).sum(1))
        found = type(block)(blocks, capture.parts(c))
        torch.testing.assert_close(found.dense(), J, **CLOSE)


class Made(nn.Module):
    """f = function(module, x), with the parts given by name."""

    def __init__(self, function: Callable, **parts: object) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def mixer():
    return nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, dropout=0.0)


def joined(m):
    """Two weights as one tensor, as the directions of a recurrent layer are in ONNX."""
    return torch.cat([m.w[None], m.v[None]])


IDS = torch.randint(7, (5, 4), generator=torch.Generator().manual_seed(9))
X, SEQUENCE, IMAGE = randn(5, 4), randn(5, 3, 4), randn(5, 2, 6, 5)
OUTER, DENSE, LOOKUP = "outer", "dense", "lookup"
MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), X, [OUTER, OUTER]),
    "no bias": (lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 3)), X, [OUTER, OUTER]),
    "one output": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), X, [OUTER, OUTER]),
    "stored transposed": (
        lambda: Made(
            lambda m, x: torch.tanh(x @ m.w + m.b) @ m.v.t() + m.c, w=randn(4, 6), b=randn(6), v=randn(3, 6), c=randn(3)
        ),
        X,
        [OUTER, OUTER],
    ),
    "addmm": (
        lambda: Made(
            lambda m, x: torch.addmm(m.c, torch.tanh(torch.addmm(m.b, x, m.w)), m.v),
            w=randn(4, 6),
            b=randn(6),
            v=randn(6, 3),
            c=randn(3),
        ),
        X,
        [OUTER, OUTER],
    ),
    "addmm scaled": (
        lambda: Made(lambda m, x: torch.addmm(m.b, x, m.w, alpha=2) @ m.v, w=randn(4, 6), b=randn(6), v=randn(6, 3)),
        X,
        [DENSE, DENSE, OUTER],
    ),
    "vector": (
        lambda: Made(lambda m, x: torch.tanh(x @ m.w) @ m.u + m.b, w=randn(4, 6), u=randn(6), b=randn(1)),
        X,
        [OUTER, OUTER],
    ),
    "bias scaled and subtracted": (
        lambda: Made(
            lambda m, x: torch.sub(x @ m.w, m.b, alpha=3) @ m.v + 2 * m.c,
            w=randn(4, 6),
            b=randn(6),
            v=randn(6, 3),
            c=randn(3),
        ),
        X,
        [OUTER, DENSE, OUTER, DENSE],
    ),
    "bias of a used product": (
        lambda: Made(lambda m, x: ((y := x @ m.w) + m.b) * torch.tanh(y), w=randn(4, 3), b=randn(3)),
        X,
        [OUTER, DENSE],
    ),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)),
        SEQUENCE,
        [OUTER, OUTER],
    ),
    "sequence, time first": (
        lambda: Made(lambda m, x: m.v(torch.tanh(m.w(x.transpose(0, 1))).sum(0)), w=nn.Linear(4, 6), v=nn.Linear(6, 3)),
        SEQUENCE,
        [OUTER, OUTER],
    ),
    "merged, rows first": (
        lambda: Made(
            lambda m, x: m.v(torch.tanh(m.w(x.reshape(-1, 4))).view(x.shape[0], 18)),
            w=nn.Linear(4, 6),
            v=nn.Linear(18, 3),
        ),
        SEQUENCE,
        [OUTER, OUTER],
    ),
    "merged, rows last": (
        lambda: Made(
            lambda m, x: m.v(torch.tanh(m.w(x.transpose(0, 1).reshape(-1, 4))).view(3, x.shape[0], 6).sum(0)),
            w=nn.Linear(4, 6),
            v=nn.Linear(6, 3),
        ),
        SEQUENCE,
        [OUTER, OUTER],
    ),
    "flipped rows": (
        lambda: Made(lambda m, x: m.v(torch.tanh(m.w(x.flip(0)).flip(0))), w=nn.Linear(4, 6), v=nn.Linear(6, 3)),
        X,
        [DENSE, DENSE, DENSE, DENSE],
    ),
    "flipped places": (
        lambda: Made(lambda m, x: m.v(torch.tanh(m.w(x.flip(1)))).sum(1), w=nn.Linear(4, 6), v=nn.Linear(6, 3)),
        SEQUENCE,
        [OUTER, OUTER],
    ),
    "used twice": (
        lambda: Made(lambda m, x: m.v(torch.tanh(m.w(torch.tanh(m.w(x))))), w=nn.Linear(4, 4), v=nn.Linear(4, 3)),
        X,
        [OUTER, OUTER],
    ),
    "used twice, bias once": (
        lambda: Made(
            lambda m, x: m.v(torch.tanh(linear(torch.tanh(m.w(x)), m.w.weight))), w=nn.Linear(4, 4), v=nn.Linear(4, 3)
        ),
        X,
        [OUTER, DENSE, OUTER],
    ),
    "tied and transposed": (
        lambda: Made(
            lambda m, x: torch.tanh(torch.tanh(x @ m.w + m.b) @ m.w.T) @ m.v, w=randn(4, 6), b=randn(6), v=randn(4, 3)
        ),
        X,
        [OUTER, DENSE, OUTER],
    ),
    "one bias for two": (
        lambda: Made(
            lambda m, x: torch.tanh(linear(x, m.w, m.b)) + linear(x, m.v, m.b), w=randn(3, 4), v=randn(3, 4), b=randn(3)
        ),
        X,
        [OUTER, OUTER, DENSE],
    ),
    "weight also multiplied": (
        lambda: Made(lambda m, x: torch.tanh(linear(x, m.w, m.b)) * m.w[:, 0], w=randn(3, 4), b=randn(3)),
        X,
        [DENSE, DENSE],
    ),
    "chunks of a weight": (
        lambda: Made(lambda m, x: linear(x, m.w.chunk(2)[0]) * linear(torch.tanh(x), m.w.chunk(2)[1]), w=randn(6, 4)),
        X,
        [DENSE],
    ),
    "function of a parameter": (
        lambda: Made(lambda m, x: linear(x, m.w / m.w.norm()) + m.b.exp() * x[:, :3], w=randn(3, 4), b=randn(3)),
        X,
        [DENSE, DENSE],
    ),
    "start token and places": (
        lambda: Made(
            lambda m, x: m.v(torch.tanh(m.w(torch.cat([m.start.expand(x.shape[0], -1, -1), x], 1) + m.places)).mean(1)),
            w=nn.Linear(4, 6),
            v=nn.Linear(6, 3),
            start=randn(1, 1, 4),
            places=randn(1, 4, 4),
        ),
        SEQUENCE,
        [DENSE, DENSE, OUTER, OUTER],
    ),
    "conv2d": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        IMAGE,
        [OUTER, OUTER],
    ),
    "conv2d same, groups": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (2, 4), padding="same", groups=2),
            nn.Tanh(),
            nn.Conv2d(4, 3, 1),
            nn.Flatten(),
            nn.Linear(90, 3),
        ),
        IMAGE,
        [OUTER, OUTER, OUTER],
    ),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(3, 6, 2, groups=3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(30, 3)),
        SEQUENCE,
        [OUTER, OUTER],
    ),
    "conv of each frame": (
        lambda: Made(
            lambda m, x: m.v(m.w(x.reshape(-1, 1, 2, 2)).tanh().reshape(x.shape[0], -1)),
            w=nn.Conv2d(1, 2, (2, 1)),
            v=nn.Linear(12, 3),
        ),
        SEQUENCE,
        [OUTER, OUTER],
    ),
    "conv transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(84, 3)),
        IMAGE,
        [DENSE, DENSE, OUTER],
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.GroupNorm(2, 4),
            nn.Flatten(),
            nn.LayerNorm(48),
            nn.Linear(48, 3),
        ),
        IMAGE,
        [OUTER, DENSE, DENSE, DENSE, DENSE, DENSE, DENSE, OUTER],
    ),
    "scales": (
        lambda: Made(
            lambda m, x: (m.n(x) * m.s).sum(1) @ m.w - m.c, n=nn.RMSNorm(4), s=randn(3, 1), w=randn(4, 3), c=randn()
        ),
        SEQUENCE,
        None,
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(7, 6, padding_idx=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)),
        IDS,
        [LOOKUP, OUTER],
    ),
    "embedding used twice": (
        lambda: Made(
            lambda m, x: m.v(torch.cat([m.t(x), torch.tanh(m.t(x.flip(1)))], 2).sum(1)),
            t=nn.Embedding(7, 6),
            v=nn.Linear(12, 3),
        ),
        IDS,
        [LOOKUP, OUTER],
    ),
    "embedding tied to the head": (
        lambda: Made(lambda m, x: torch.tanh(m.t(x)).mean(1) @ m.t.weight.T + m.b, t=nn.Embedding(7, 6), b=randn(7)),
        IDS,
        [DENSE, DENSE],
    ),
    "gates in another order": (
        lambda: Made(
            lambda m, x: m.v(torch.tanh(linear(x, torch.cat([m.w[4:], m.w[:2], m.w[2:4]]), m.b[[4, 5, 0, 1, 2, 3]]))),
            w=randn(6, 4),
            b=randn(6),
            v=nn.Linear(6, 3),
        ),
        X,
        [OUTER, DENSE, OUTER],
    ),
    "joined, and parted again": (
        lambda: Made(lambda m, x: torch.tanh(x @ joined(m)[0].T) + x @ joined(m)[1].T, w=randn(3, 4), v=randn(3, 4)),
        X,
        [OUTER, OUTER],
    ),
    "joined": (
        lambda: Made(
            lambda m, x: m.c(torch.tanh(x @ joined(m).flatten(0, 1).T)), w=randn(3, 4), v=randn(3, 4), c=nn.Linear(6, 3)
        ),
        X,
        [DENSE, DENSE, OUTER],
    ),
    "stacked steps": (
        lambda: Made(
            lambda m, x: m.v(torch.stack([m.w(x[:, t]).tanh() for t in range(3)])[-1] + m.w(x).sum(1)),
            w=nn.Linear(4, 5),
            v=nn.Linear(5, 3),
        ),
        SEQUENCE,
        [OUTER, OUTER],
    ),
    "transformer": (
        lambda: nn.Sequential(nn.Embedding(7, 6), mixer(), mixer(), nn.Flatten(), nn.Linear(24, 3)),
        IDS,
        None,
    ),
    "lstm": (
        lambda: Made(lambda m, x: m.v(m.r(x)[0][:, -1]), r=nn.LSTM(4, 5, batch_first=True), v=nn.Linear(5, 3)),
        SEQUENCE,
        None,
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("exclude", [(), ("*b*",)], ids=["l2 on all", "l2 not on biases"])
def test_every_form_is_that_of_autograd(name, exclude):
    torch.manual_seed(0)
    make, x, kinds = MODELS[name]
    module = make()
    for part in module.modules():
        if getattr(part, "running_var", None) is not None:
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
        if isinstance(part, nn.LayerNorm | nn.BatchNorm2d | nn.GroupNorm | nn.RMSNorm):
            nn.init.normal_(part.weight)
    named = [one for one, _ in module.named_parameters() if "b" in one]
    objective = opened(module, x, exclude=exclude if named else (), decomposed=name == "lstm")
    check(objective, x.double() if x.is_floating_point() else x)
    if kinds is not None and not (exclude and named):
        assert [block.kind for block in objective.taps.blocks] == kinds
    assert (set(objective.taps.rest) != set()) == (name in BY_VMAP)


BY_VMAP = {
    "addmm scaled", "flipped rows", "function of a parameter", "start token and places", "conv transposed",
    "bias scaled and subtracted", "joined", "gates in another order",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["sequence", "mlp", "norms", "conv1d", "conv2d", "embedding", "transformer", "merged, rows last"]
)
def test_core_aten_has_the_same_taps(name):
    torch.manual_seed(0)
    make, x, _ = MODELS[name]
    module = make()
    whole, decomposed = (opened(module, x, decomposed=one) for one in (False, True))
    check(decomposed, x.double() if x.is_floating_point() else x)
    assert not decomposed.taps.rest
    assert [block.names for block in decomposed.taps.blocks] == [block.names for block in whole.taps.blocks]


def test_sequences_of_any_length():
    torch.manual_seed(0)
    module = Made(lambda m, x: m.v(m.t(x).tanh()).mean(1), t=nn.Embedding(7, 6), v=nn.Linear(6, 3))
    objective = opened(module, IDS, lengths=True)
    assert [block.kind for block in objective.taps.blocks] == [LOOKUP, OUTER]
    check(objective, IDS)
    check(objective, IDS[:, :2], IDS[:3])


@pytest.mark.parametrize("parameters", [("0.*",), ("*weight",), ("*bias",), ("2.weight", "0.bias")])
def test_some_parameters(parameters):
    torch.manual_seed(0)
    check(opened(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), X, parameters=parameters), X.double())


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_small_pieces_change_nothing(monkeypatch, limit):
    monkeypatch.setattr(parts_module, "_CHUNK", limit)
    torch.manual_seed(0)
    for name in ("mlp", "sequence", "conv2d same, groups", "embedding used twice"):
        make, x, _ = MODELS[name]
        check(opened(make(), x), x.double() if x.is_floating_point() else x)


@st.composite
def networks(draw):
    """A chain of layers over images, sequences or vectors, then a head; some parameters, some without L2."""
    torch.manual_seed(draw(st.integers(0, 99)))
    shape = list(draw(st.sampled_from([(3,), (4, 3), (2, 5, 4), (2, 6)])))
    rows = draw(st.integers(2, 4))
    x = torch.randn(rows, *shape)
    layers: list[nn.Module] = []
    body = x
    for _ in range(draw(st.integers(0, 3))):
        dims = body.dim() - 2
        if dims and draw(st.booleans()):
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if body.shape[1] % g == 0]))
            kernel = tuple(draw(st.integers(1, min(3, size))) for size in body.shape[2:])
            dilation = (
                draw(st.integers(1, 2))
                if all(2 * (k - 1) < s for k, s in zip(kernel, body.shape[2:], strict=True))
                else 1
            )
            layer = (nn.Conv1d, nn.Conv2d)[dims - 1](
                body.shape[1], groups * draw(st.integers(1, 2)), kernel, stride=draw(st.integers(1, 2)),
                padding=draw(st.integers(0, 1)), dilation=dilation, groups=groups, bias=draw(st.booleans()),
            )  # fmt: skip
        else:
            layer = draw(
                st.sampled_from(
                    [
                        nn.LayerNorm(body.shape[-1]),
                        nn.Linear(body.shape[-1], draw(st.integers(1, 4)), bias=draw(st.booleans())),
                    ]
                )
            )
        layers += [layer, nn.Tanh()]
        body = layer(body)
    tied = draw(st.booleans())
    if tied:
        layers += [square := nn.Linear(body.shape[-1], body.shape[-1]), nn.Tanh(), square]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(body[0].numel(), draw(st.integers(1, 3))))
    names = [name for name, _ in module.named_parameters()]
    parameters = draw(st.one_of(st.just(()), st.lists(st.sampled_from(names), min_size=1, unique=True)))
    exclude = draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
    return module, x, tuple(parameters), tuple(exclude), draw(st.booleans())


@settings(max_examples=40, deadline=None)
@given(networks())
def test_random_networks(network):
    module, x, parameters, exclude, decomposed = network
    objective = opened(module, x, parameters=parameters, exclude=exclude, decomposed=decomposed)
    check(objective, x.double())
    assert not objective.taps.rest


@pytest.mark.parametrize("exclude", [(), ("bias",)])
@pytest.mark.parametrize("parameters", [(), ("weight",), ("bias",)])
def test_a_heads_own_factors_are_the_same_gradients(exclude, parameters):
    torch.manual_seed(0)
    objective = opened(nn.Linear(4, 3), X, exclude=exclude, parameters=parameters)
    batch = placed(objective, X.double())
    features, _ = objective.head.evaluate(batch.inputs)
    residuals = torch.randn(5, 3, dtype=torch.float64)
    found = head_gradients(objective, features, residuals)
    expected = objective.head.to_theta((residuals[:, :, None] * features[:, None]).permute(1, 2, 0)).T
    torch.testing.assert_close(found.dense(), expected, **CLOSE)
    torch.testing.assert_close(found.norms(), expected.norm(dim=1), **CLOSE)


class Rows:
    """Six rows, read in the blocks that are asked for."""

    def __len__(self):
        return 6

    def batches(self, size, rows=None):
        wanted = torch.arange(6) if rows is None else torch.tensor(rows)
        for at in wanted.split(size):
            yield Batch({"x": X[:1].repeat(len(at), 1) * at[:, None]}, at % 3, None, at)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_where_memory_runs_out_the_block_halves_and_its_rows_are_done_again(error):
    objective = opened(nn.Linear(4, 3), X)
    asked = []

    def work(batch):
        asked.append(len(batch.index))
        if len(batch.index) > 2:
            raise error
        assert torch.equal(batch.targets, batch.index % 3)
        return batch.index

    found = list(each_block(objective, Rows(), 5, work))
    assert torch.cat([batch.index for batch, _ in found]).tolist() == list(range(6))
    assert asked == [5, 3, 2, 1, 2, 1]
    assert all(torch.equal(batch.index, made) for batch, made in found)
    some = list(each_block(objective, Rows(), 4, work, [5, 1, 4]))
    assert torch.cat([batch.index for batch, _ in some]).tolist() == [5, 1, 4]


def test_a_row_that_does_not_fit_and_other_errors_end_it():
    objective = opened(nn.Linear(4, 3), X)

    def full(batch):
        raise torch.OutOfMemoryError(f"{len(batch.index)} rows")

    with pytest.raises(torch.OutOfMemoryError, match="1 rows"):
        list(each_block(objective, Rows(), 5, full))

    def wrong(batch):
        raise RuntimeError(f"no such kernel for {len(batch.index)} rows")

    with pytest.raises(RuntimeError, match="for 5 rows"):
        list(each_block(objective, Rows(), 5, wrong))
