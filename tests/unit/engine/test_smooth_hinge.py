"""The smooth hinge: a surrogate that stays near the hinge, has both derivatives and never overflows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.losses import SmoothHinge, loss_of
from undue_service.engine.stationarity import _least_hinge

TEMPERATURES = [1e-3, 0.1, 1.0, 20.0]


def signed(f, y):
    return (2 * y - 1) * f[:, 0]


@given(
    s=st.floats(-1e6, 1e6),
    t=st.sampled_from([1e-9, *TEMPERATURES]),
    y=st.sampled_from([0, 1]),
)
def test_it_lies_above_the_hinge_by_at_most_t_log_2(s, t, y):
    f = torch.tensor([[s]], dtype=torch.float64)
    loss = float(SmoothHinge(t).losses(f, torch.tensor([y])))
    hinge = max(0.0, 1 - (2 * y - 1) * s)
    assert hinge - 1e-9 * max(1, abs(hinge)) <= loss <= hinge + t * math.log(2) + 1e-9 * max(1, abs(hinge))


@pytest.mark.parametrize("t", TEMPERATURES)
def test_it_is_its_formula_and_has_the_derivatives_that_it_says(t):
    f = (1 + t * torch.linspace(-6, 6, 41, dtype=torch.float64))[:, None] * torch.tensor([[1.0]])
    for y in (torch.ones(41, dtype=torch.int64), torch.zeros(41, dtype=torch.int64)):
        x = f if int(y[0]) else -f
        loss = SmoothHinge(t)
        torch.testing.assert_close(
            loss.losses(x, y), t * torch.log1p(torch.exp((1 - signed(x, y)) / t)), rtol=1e-12, atol=1e-14
        )
        step = 1e-5 * t
        above, below = loss.losses(x + step, y), loss.losses(x - step, y)
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss.losses(x, y).sum(), x)
        torch.testing.assert_close(gradient[:, 0], (above - below) / (2 * step), rtol=1e-5, atol=1e-7)
        second = torch.func.vmap(torch.func.hessian(lambda f, y, loss=loss: loss.losses(f[None], y[None])[0]))(x, y)
        torch.testing.assert_close(loss.curvature(x.detach(), y), second.detach(), rtol=1e-9, atol=1e-12 / t)
        assert (loss.curvature(x.detach(), y) > 0).all()


@pytest.mark.parametrize("t", [1e-12, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_margin_nothing_overflows(t, dtype):
    f = torch.tensor([[1e6], [-1e6], [1.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([1, 1, 1])
    loss = SmoothHinge(t)
    values = loss.losses(f, y)
    (gradient,) = torch.autograd.grad(values.sum(), f)
    assert torch.isfinite(values).all()
    assert values[0] == 0
    assert float(values[1].detach()) == pytest.approx(1e6 + 1)
    assert gradient[:, 0].tolist() == pytest.approx([0.0, -1.0, -0.5])
    curvature = loss.curvature(f.detach(), y)
    assert torch.isfinite(curvature).all()
    assert curvature[:2].abs().max() == 0
    assert float(curvature[2, 0, 0]) == pytest.approx(0.25 / t, rel=1e-6)


@pytest.mark.parametrize("t", [0.0, -0.1, math.nan, math.inf])
def test_the_hinge_itself_is_refused_with_what_to_do(t):
    with pytest.raises(InvalidArgument, match=r"no second derivative.*0\.001 to 0\.1") as error:
        loss_of(ObjectiveSpec("smooth_hinge", temperature=t))
    assert error.value.reason is Reason.INVALID_FIELD
    assert error.value.violations[0].field == "objective.temperature"


def test_no_other_loss_has_a_temperature():
    for name in ("cross_entropy", "binary_logistic", "squared_error"):
        with pytest.raises(InvalidArgument, match="no temperature"):
            loss_of(ObjectiveSpec(name, temperature=0.1))


def test_a_model_of_two_outputs_and_a_target_of_two_are_refused(case):
    with pytest.raises(InvalidArgument, match="one output, a margin") as error:
        case("smooth_hinge", outputs=2)
    assert error.value.reason is Reason.OBJECTIVE_MISMATCH
    c = case("smooth_hinge")
    c.y[3] = 2
    with pytest.raises(InvalidArgument, match="row 3 has the target 2"):
        c.objective.place(next(c.rows.batches(100)))


@pytest.mark.parametrize("t", [1e-3, 0.1, 5.0])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_best_constant_margin_is_found(t, share):
    loss = SmoothHinge(t)
    margins = torch.linspace(-3 - 20 * t, 3 + 20 * t, 200_001, dtype=torch.float64)[:, None]
    y = torch.zeros(len(margins), dtype=torch.int64)
    grid = (1 - share) * loss.losses(margins, y) + share * loss.losses(margins, y + 1)
    assert _least_hinge(loss, share) <= float(grid.min()) + 1e-9
    assert _least_hinge(loss, share) >= float(grid.min()) - 1e-3 * t
    hinge = 2 * min(share, 1 - share)
    assert hinge - 1e-9 <= _least_hinge(loss, share) <= hinge + t * math.log(2) + 1e-9
