"""An exported program as a pure function: what it computes, what it refuses."""

import pytest
import torch
from torch import nn

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import Batch, TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program

X = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))


class Everything(nn.Module):
    """Flatten, frozen batch norm, buffers, baked constants and dtypes, a tied weight, dropout, in-place relu."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.tied, self.tied_too = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
        self.tied_too.weight = self.tied.weight
        self.drop, self.relu = nn.Dropout(0.5), nn.ReLU(inplace=True)
        self.register_buffer("scale", torch.linspace(1, 2, 5))
        self.norm.running_mean.normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.a(x.flatten(1))) * self.scale + torch.tensor([1.0, 2, 3, 4, 5])
        h = h.reshape(h.shape[0], -1) + torch.zeros(h.shape[0], 5) + torch.arange(5, dtype=torch.float32)
        h = self.drop(self.relu(h.to(torch.float32).float()))
        return self.tied_too(torch.tanh(self.tied(h) + torch.full((5,), 0.5)))


def test_it_computes_what_the_module_does_in_both_dtypes_and_for_a_batch_of_one(export):
    torch.manual_seed(0)
    module = Everything().eval()
    exported = export(module, X)
    as_exported = Program.from_exported(exported)
    as_double = as_exported.to("cpu", torch.float64)
    assert torch.equal(as_exported.forward({}, {"x": X}), module(X))
    double = as_double.forward({}, {"x": X.double()})
    assert double.dtype is torch.float64
    torch.testing.assert_close(double, module(X).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(as_double.forward({}, {"x": X[:1].double()}), double[:1], rtol=1e-14, atol=1e-14)
    assert torch.equal(exported.module()(X), module(X)), "the exported program itself must stay as it was"


def test_a_tied_weight_is_one_parameter_whose_gradient_is_summed(program):
    torch.manual_seed(0)
    module = Everything().eval()
    model = program(module, X)
    names = set(model.parameters)
    assert len(names & {"tied.weight", "tied_too.weight"}) == 1
    (name,) = names & {"tied.weight", "tied_too.weight"}
    assert set(model.aliases) == {"tied.weight", "tied_too.weight"} - {name}
    grads = torch.func.grad(lambda p: model.forward(p, {"x": X.double()}).sum())(dict(model.parameters))
    module(X).sum().backward()
    torch.testing.assert_close(grads[name].float(), module.tied.weight.grad, rtol=1e-4, atol=1e-4)
    either = [
        Objective(model, ObjectiveSpec("squared_error"), (alias,)).space.names for alias in ("tied.w*", "tied_too.w*")
    ]
    assert either == [(name,), (name,)]


def test_per_example_gradients_and_hessians_go_through_the_whole_graph(program):
    torch.manual_seed(0)
    objective = Objective(program(Everything().eval(), X), ObjectiveSpec("cross_entropy"))
    batch = objective.place(Batch({"x": X}, torch.tensor([0, 1, 2, 3, 4]), None, torch.arange(5)))

    def one(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return objective.losses(theta, Batch({"x": x[None]}, y[None], None, batch.index[:1]))[0]

    each = torch.func.vmap(torch.func.grad(one), (None, 0, 0))(objective.theta, batch.inputs["x"], batch.targets)
    total = torch.func.grad(lambda theta: objective.losses(theta, batch).sum())(objective.theta)
    torch.testing.assert_close(each.sum(0), total, rtol=1e-10, atol=1e-12)
    assert each.abs().max() > 0.01


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.l(x) + z, "hidden": z * 2}


def test_one_of_several_outputs_is_chosen_by_name(export):
    exported = export(Two(), torch.randn(4, 3), torch.randn(4, 2))
    with pytest.raises(InvalidArgument, match=r"'logits', 'hidden'.*output=") as error:
        Program.from_exported(exported)
    assert error.value.reason is Reason.OUTPUT_AMBIGUOUS
    with pytest.raises(InvalidArgument, match=r"no output 'scores'; there is 'logits', 'hidden'") as error:
        Program.from_exported(exported, "scores")
    assert error.value.reason is Reason.OUTPUT_AMBIGUOUS
    assert [spec.name for spec in Program.from_exported(exported, "logits").inputs] == ["x", "z"]
    hidden = Program.from_exported(exported, "hidden")
    assert [spec.name for spec in hidden.inputs] == ["z"]
    assert not hidden.parameters, "what the output does not depend on is left out"
    renamed = Program.from_exported(exported, "b", input_names=["in:0", "in:1"], output_names=["b", "c"])
    assert (renamed.outputs, [spec.name for spec in renamed.inputs]) == (("b", "c"), ["in:0", "in:1"])


def refused(module: nn.Module, *inputs: torch.Tensor, train: bool = False) -> InvalidArgument:
    module = module.train() if train else module.eval()
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    with pytest.raises(InvalidArgument) as error:
        Program.from_exported(torch.export.export(module, inputs, dynamic_shapes=dynamic))
    return error.value


class Body(nn.Module):
    def __init__(self, body) -> None:
        super().__init__()
        self.l = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(3))
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self, x)


def _through_view(m: Body, x: torch.Tensor) -> torch.Tensor:
    h = m.l(x)
    h[:, :2].mul_(2)
    return h


def _without_grad(m: Body, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        h = x * 2
    return m.l(h)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda m, x: m.l(x) + m.count.add_(1), "in place"),
        (lambda m, x: m.l(x.add_(1)), "in place|state"),
        (_through_view, "in place"),
        (lambda m, x: m.l(x) + torch.randn(3), "random"),
        (lambda m, x: m.l(x).mean(0), "one prediction for each input row"),
        (lambda m, x: m.l(x).argmax(1), "not a floating tensor"),
        (lambda m, x: m.count * 2, "does not depend on any input"),
        (_without_grad, "calls"),
    ],
)
def test_what_cannot_be_differentiated_row_by_row_is_refused(body, says):
    error = refused(Body(body), torch.randn(4, 3))
    assert error.reason is Reason.MODEL_UNSUPPORTED
    assert any(part in error.message for part in says.split("|")), error.message


@pytest.mark.parametrize(
    "module", [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))]
)
def test_training_mode_is_refused_with_the_remedy(module):
    error = refused(module, torch.randn(4, 3), train=True)
    assert error.reason is Reason.MODEL_UNSUPPORTED
    assert "model.eval()" in error.message


def test_an_inplace_chain_on_a_value_of_its_own_is_made_functional(program):
    module = Body(lambda m, x: m.l(x).relu_().add_(1).mul_(2))
    x = torch.randn(4, 3)
    torch.testing.assert_close(
        program(module, x).forward({}, {"x": x.double()}).float(), module(x), rtol=1e-6, atol=1e-6
    )


def test_a_static_batch_axis_is_refused_with_the_line_to_use():
    with pytest.raises(InvalidArgument, match=r"Dim\.DYNAMIC") as error:
        Program.from_exported(torch.export.export(nn.Linear(3, 2), (torch.randn(4, 3),)))
    assert error.value.reason is Reason.STATIC_BATCH


@pytest.mark.parametrize(
    ("loss", "activation", "name"),
    [
        ("cross_entropy", lambda f: torch.softmax(f, -1), "softmax"),
        ("cross_entropy", lambda f: torch.log_softmax(f, 1), "log_softmax"),
        ("cross_entropy", lambda f: torch.log(torch.softmax(f, 1)), "log_softmax"),
        ("binary_logistic", lambda f: torch.sigmoid(f[:, :1]), "sigmoid"),
        ("binary_logistic", lambda f: torch.sigmoid(f[:, :1]).squeeze(-1), "sigmoid"),
    ],
)
def test_an_activation_inside_the_model_changes_no_score_and_no_prediction(program, loss, activation, name):
    torch.manual_seed(0)
    linear = Body(lambda m, x: m.l(x) if loss == "cross_entropy" else m.l(x)[:, :1])
    inside = Body(lambda m, x: activation(m.l(x)))
    inside.load_state_dict(linear.state_dict())
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    y = torch.arange(20) % (3 if loss == "cross_entropy" else 2)
    rows = TensorRows({"x": x}, y)
    spec = ObjectiveSpec(loss, l2=0.1)
    plain, behind = (Objective(program(module, x), spec) for module in (linear, inside))
    assert (plain.output_activation, behind.output_activation) == ("", name)
    a, b = (influence(objective, rows, rows, top_k=None) for objective in (plain, behind))
    torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores), rtol=1e-6, atol=1e-9)
    assert (a.test.predictions == b.test.predictions).all()
    assert abs(a.scores).max() > 1e-4


@pytest.mark.parametrize(
    ("loss", "two", "name"),
    [
        ("binary_logistic", lambda s: torch.softmax(torch.cat([torch.zeros_like(s), s], 1), 1), "two_class_softmax"),
        ("binary_logistic", lambda s: torch.softmax(torch.cat([s - s, s], -1), -1), "two_class_softmax"),
        ("binary_logistic", lambda s: torch.cat([1 - s.sigmoid(), s.sigmoid()], 1), ""),
        ("binary_logistic", lambda s: (lambda p: torch.cat([1 - p, p], 1))(s.sigmoid()), "two_class_softmax"),
        ("binary_logistic", lambda s: torch.cat([-s, s], 1), "opposite_scores"),
        ("smooth_hinge", lambda s: torch.cat([-s, s], 1), "opposite_scores"),
        ("binary_logistic", lambda s: torch.cat([s, -s], 1), ""),
        ("binary_logistic", lambda s: torch.cat([-s, 2 * s], 1), ""),
        ("binary_logistic", lambda s: torch.softmax(torch.cat([s, torch.zeros_like(s)], 1), 1), ""),
        ("smooth_hinge", lambda s: torch.softmax(torch.cat([torch.zeros_like(s), s], 1), 1), ""),
    ],
)
def test_two_outputs_of_one_score_have_the_scores_of_that(program, loss, two, name):
    torch.manual_seed(0)
    linear = Body(lambda m, x: m.l(x)[:, :1])
    inside = Body(lambda m, x: two(m.l(x)[:, :1]))
    inside.load_state_dict(linear.state_dict())
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    rows = TensorRows({"x": x}, torch.arange(20) % 2)
    spec = ObjectiveSpec(loss, l2=0.1, temperature=0.5 if loss == "smooth_hinge" else 0.0)
    if not name:
        with pytest.raises(InvalidArgument) as error:
            Objective(program(inside, x), spec)
        assert error.value.reason is Reason.OBJECTIVE_MISMATCH
        return
    plain, behind = (Objective(program(module, x), spec) for module in (linear, inside))
    assert (behind.output_activation, behind.outputs_per_row) == (name, 1)
    a, b = (influence(objective, rows, rows, method="cg", top_k=None) for objective in (plain, behind))
    torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores), rtol=1e-6, atol=1e-9)
    assert (a.test.predictions == b.test.predictions).all()


def test_a_softmax_over_two_classes_has_the_same_scores_by_either_loss(program):
    module = Body(lambda m, x: torch.softmax(torch.cat([m.l(x)[:, :1] * 0, m.l(x)[:, :1]], 1), 1))
    one = Body(lambda m, x: m.l(x)[:, :1])
    one.load_state_dict(module.state_dict())
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    rows = TensorRows({"x": x}, torch.arange(20) % 2)
    found = [
        influence(Objective(program(body, x), ObjectiveSpec(loss, l2=0.1)), rows, rows, method="cg", top_k=None).scores
        for body, loss in ((module, "cross_entropy"), (one, "binary_logistic"))
    ]
    torch.testing.assert_close(*map(torch.tensor, found), rtol=1e-6, atol=1e-9)


def test_an_activation_that_the_loss_does_not_hold_stays_part_of_the_model(program):
    module = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
    objective = Objective(program(module, torch.randn(4, 3)), ObjectiveSpec("squared_error"))
    assert objective.output_activation == ""
    assert objective.head is None


def test_attention_is_differentiated_twice(program):
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = self.l(x)
            return nn.functional.scaled_dot_product_attention(q, x, x).flatten(1)

    x = torch.randn(3, 2, 4)
    objective = Objective(program(Attention(), x), ObjectiveSpec("cross_entropy"))
    batch = objective.place(Batch({"x": x}, torch.tensor([0, 1, 2]), None, torch.arange(3)))
    H = torch.func.hessian(lambda theta: objective.losses(theta, batch).sum())(objective.theta)
    v = torch.ones_like(objective.theta)
    product = torch.func.jvp(
        torch.func.grad(lambda theta: objective.losses(theta, batch).sum()), (objective.theta,), (v,)
    )[1]
    torch.testing.assert_close(product, H @ v, rtol=1e-8, atol=1e-10)


def test_a_pass_keeps_what_the_selected_parameters_lead_to_and_of_the_rest_what_it_holds_at_once(program):
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.ModuleList(nn.Linear(a, b) for a, b in ((6, 50), (50, 40), (40, 30)))
            self.first, self.last = nn.Linear(30, 70), nn.Linear(70, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            for layer in self.frozen:
                x = torch.tanh(layer(x))
            return self.last(torch.tanh(self.first(x)))

    model = program(Deep(), X)
    assert model.graph.row_numel(model.parameters) == 6 + 2 * (50 + 40 + 30 + 70) + 2
    assert model.graph.row_numel(["first.weight"]) == 30 + 2 * 70 + 2
    assert model.graph.row_numel(["last.weight"]) == 70 + 70, "of frozen layers two values are held at a time"
