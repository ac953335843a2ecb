"""Losses against autograd, targets and inputs that do not fit, selection of parameters, rows without targets."""

import math

import pytest
import torch
from torch import nn

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import Batch, TensorRows
from undue_service.engine.losses import loss_of
from undue_service.engine.measurements import MEASUREMENTS
from undue_service.engine.objective import Objective

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


def of(name, temperature=None):
    return loss_of(ObjectiveSpec(name, temperature=temperature or (0.7 if name == "smooth_hinge" else 0.0)))


def batch(y=None, x=X, weights=None, **inputs):
    return Batch(inputs or {"x": x}, y, weights, torch.arange(10, 14))


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("cross_entropy", 3), ("binary_logistic", 1), ("squared_error", 2), ("smooth_hinge", 1)],
)
def test_the_closed_curvature_is_the_second_derivative_and_positive_semidefinite(name, outputs):
    loss = of(name)
    f = 3 * torch.randn(7, outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randn(7, outputs, dtype=torch.float64) if name == "squared_error" else torch.arange(7) % max(outputs, 2)
    by_autograd = torch.func.vmap(torch.func.hessian(lambda f, y: loss.losses(f[None], y[None])[0]))(f, y)
    torch.testing.assert_close(loss.curvature(f, y), by_autograd, rtol=1e-10, atol=1e-12)
    assert torch.linalg.eigvalsh(loss.curvature(f, y)).min() > -1e-12


def test_losses_are_those_of_torch_and_do_not_overflow():
    f = torch.tensor([[800.0, -800.0], [0.5, 0.25]], dtype=torch.float64)
    y = torch.tensor([1, 0])
    torch.testing.assert_close(of("cross_entropy").losses(f, y), nn.functional.cross_entropy(f, y, reduction="none"))
    g = torch.tensor([[-800.0], [30.0]], dtype=torch.float64)
    binary = of("binary_logistic").losses(g, torch.tensor([1, 1]))
    torch.testing.assert_close(
        binary, torch.tensor([800.0, math.log1p(math.exp(-30))], dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert of("squared_error").losses(f, f + 2).tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    ("loss", "y", "says"),
    [
        ("cross_entropy", torch.tensor([0, 1, 3, 0]), "row 12 has the target 3"),
        ("cross_entropy", torch.tensor([0, -1, 2, 0]), "row 11 has the target -1"),
        ("cross_entropy", torch.tensor([0.0, 1, 2, 0]), "float32"),
        ("cross_entropy", torch.zeros(4, 1, dtype=torch.int64), r"\(4, 1\)"),
        ("cross_entropy", torch.tensor([0, 1]), "2 targets for 4 rows"),
        ("binary_logistic", torch.tensor([0, 1, 2, 0]), "row 12 has the target 2"),
        ("binary_logistic", torch.tensor([0, 0.5, 1, 0]), "row 11 has the target 0.5"),
        ("binary_logistic", torch.zeros(4, 2), r"\(4, 2\)"),
        ("squared_error", torch.tensor([[0.0, 1], [0, math.nan], [0, 0], [0, 0]]), "row 11"),
        ("squared_error", torch.zeros(4), r"2 number"),
        ("squared_error", torch.zeros(4, 3), r"\(4, 3\)"),
    ],
)
def test_a_target_that_does_not_fit_is_named_with_its_row(case, loss, y, says):
    with pytest.raises(InvalidArgument, match=says) as error:
        case(loss).objective.place(batch(y))
    assert error.value.reason is Reason.TARGET_MISMATCH


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float32])
def test_binary_targets_may_have_any_type(case, dtype):
    y = torch.tensor([0, 1, 1, 0])
    placed = case("binary_logistic").objective.place(batch(y.to(dtype)))
    assert torch.equal(placed.targets, y)
    assert torch.equal(case("binary_logistic").objective.place(batch(y[:, None])).targets, y)


@pytest.mark.parametrize(
    ("loss", "outputs", "says"), [("cross_entropy", 1, "binary_logistic"), ("binary_logistic", 2, "cross_entropy")]
)
def test_a_loss_that_does_not_fit_the_outputs_names_the_one_that_does(case, loss, outputs, says):
    with pytest.raises(InvalidArgument, match=says) as error:
        case(loss, outputs=outputs)
    assert error.value.reason is Reason.OBJECTIVE_MISMATCH


def test_an_output_of_higher_rank_fits_no_objective(program):
    with pytest.raises(InvalidArgument, match=r"\(2, 2\)") as error:
        Objective(program(nn.Unflatten(1, (2, 2)), X), ObjectiveSpec("squared_error"))
    assert error.value.reason is Reason.OBJECTIVE_MISMATCH


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"a": X, "b": X}, "needs the input 'input'.*has a, b"),
        ({"x": X[:, :3]}, r"shape \(4,\).*shape \(3,\)"),
        ({"x": X[:2]}, "shape"),
        ({"x": X.to(torch.complex64)}, "complex64"),
    ],
)
def test_inputs_that_do_not_fit(case, inputs, says):
    with pytest.raises(InvalidArgument, match=says) as error:
        case("cross_entropy").objective.place(batch(**inputs))
    assert error.value.reason is Reason.INPUT_MISMATCH


def test_integer_pixels_become_floats_but_floats_never_become_indices(case, program):
    placed = case("cross_entropy").objective.place(batch(x=torch.full((4, 4), 200, dtype=torch.uint8)))
    assert next(iter(placed.inputs.values())).tolist()[0] == [200.0] * 4
    embed = Objective(
        program(nn.Sequential(nn.Embedding(9, 3), nn.Flatten()), torch.zeros(3, 2, dtype=torch.int64)),
        ObjectiveSpec("cross_entropy"),
    )
    with pytest.raises(InvalidArgument, match="takes int64"):
        embed.place(batch(x=torch.zeros(4, 2)))
    assert embed.losses(
        embed.theta, embed.place(batch(torch.tensor([0, 1, 2, 3]), x=torch.zeros(4, 2, dtype=torch.int32)))
    ).shape == (4,)


@pytest.mark.parametrize(
    ("weights", "says"),
    [([1, -1.0, 1, 1], "row 11 has the weight -1"), ([1, math.inf, 1, 1], "row 11"), ([1.0], "one weight a row")],
)
def test_weights_are_finite_and_not_negative(case, weights, says):
    with pytest.raises(InvalidArgument, match=says):
        case("cross_entropy").objective.place(batch(weights=torch.tensor(weights)))


def test_patterns_select_parameters_and_leave_l2_out(case):
    objective = case("cross_entropy", head=False, l2=0.5, exclude=("*bias",), parameters=("2.*",)).objective
    assert objective.space.names == ("2.weight", "2.bias")
    assert objective.l2.tolist() == [0.5] * 9 + [0.0] * 3
    info = {p.name: (p.selected, p.l2) for p in objective.parameters}
    assert info == {
        "0.weight": (False, True),
        "0.bias": (False, False),
        "2.weight": (True, True),
        "2.bias": (True, False),
    }
    assert objective.head is not None
    theta = torch.randn_like(objective.theta)
    assert torch.equal(objective.space.flatten(objective.space.unflatten(theta)), theta)


@pytest.mark.parametrize("arguments", [{"parameters": ("2.*", "fc.*")}, {"exclude": ("fc.*",)}])
def test_a_pattern_that_matches_nothing_names_what_there_is(case, arguments):
    with pytest.raises(InvalidArgument, match=r"'fc\.\*'.*0\.weight, 0\.bias, 2\.weight, 2\.bias") as error:
        case("cross_entropy", head=False, **arguments)
    assert error.value.reason is Reason.PARAMETERS_NOT_FOUND


@pytest.mark.parametrize("l2", [-1.0, math.nan, math.inf])
def test_l2_is_a_number_that_is_not_negative(case, l2):
    with pytest.raises(InvalidArgument, match="l2"):
        case("cross_entropy", l2=l2)


def test_without_targets_the_prediction_is_explained(case):
    classes = case("cross_entropy").objective
    placed = classes.explained(classes.place(batch()))
    assert torch.equal(placed.targets, classes.outputs(classes.theta, placed.inputs).argmax(1))
    one = case("squared_error", outputs=1).objective
    placed = one.explained(one.place(batch()))
    assert placed.targets is None
    assert torch.equal(one.measurement(one.theta, placed), one.outputs(one.theta, placed.inputs)[:, 0])
    two = case("squared_error", outputs=2).objective
    with pytest.raises(InvalidArgument, match="one output") as error:
        two.explained(two.place(batch()))
    assert error.value.reason is Reason.TARGETS_MISSING


def test_an_unknown_measurement_names_those_there_are(case):
    objective = case("cross_entropy").objective
    placed = objective.place(batch(torch.tensor([0, 1, 2, 0])))
    assert torch.equal(
        objective.measurement(objective.theta, placed, "loss"), objective.losses(objective.theta, placed)
    )
    with pytest.raises(InvalidArgument, match=", ".join(MEASUREMENTS)):
        objective.measurement(objective.theta, placed, "likelihood")


def test_rows_need_the_same_length_and_at_least_one_row():
    with pytest.raises(InvalidArgument, match="same number") as error:
        TensorRows({"x": X}, torch.zeros(3))
    assert error.value.reason is Reason.ROWS_MISMATCH
    with pytest.raises(InvalidArgument, match="no row") as error:
        TensorRows({"x": X[:0]})
    assert error.value.reason is Reason.DATASET_EMPTY
    picked = list(TensorRows({"x": X}, torch.arange(4)).batches(2, [3, 0, 3]))
    assert [b.index.tolist() for b in picked] == [[3, 0], [3]]
    assert torch.equal(picked[0].inputs["x"], X[[3, 0]])


def test_in_double_it_is_the_same_function_behind_one_activation(program):
    """A softmax before the one that the loss looks behind belongs to the model, in any precision and at any weights."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1), torch.nn.LogSoftmax(1))
    x = torch.randn(5, 4)
    single = Objective(program(module, x).to("cpu", torch.float32), ObjectiveSpec("cross_entropy", 0.1))
    moved = {name: 2 * value for name, value in single.program.parameters.items()}
    for objective in (single, single.at(moved)):
        double = objective.in_double()
        torch.testing.assert_close(
            double.outputs(double.theta, {"input": x.double()}),
            objective.outputs(objective.theta, {"input": x}).double(),
            rtol=1e-5,
            atol=1e-6,
        )
