"""The costs of a test row: by their formulas, by finite differences, and what is refused."""

import pytest
import torch

from undue_service.domain.errors import InvalidArgument
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.gradients import measurement_gradients
from undue_service.engine.losses import BinaryLogistic, CrossEntropy
from undue_service.engine.measurements import MEASUREMENTS, measure

CLASSIFICATIONS = ["cross_entropy", "binary_logistic"]


def test_the_formulas_on_fresh_input():
    f = torch.randn(50, 5, dtype=torch.float64) * 4
    y = torch.randint(5, (50,))
    p = torch.softmax(f, 1)[torch.arange(50), y]
    kind = CrossEntropy()
    torch.testing.assert_close(measure("logit", kind, f, y), -f[torch.arange(50), y])
    torch.testing.assert_close(measure("margin", kind, f, y), torch.log1p(-p) - torch.log(p))
    torch.testing.assert_close(measure("loss", kind, f, y), torch.nn.functional.softplus(measure("margin", kind, f, y)))


def test_one_logit_is_two_whose_difference_it_is():
    f, y = torch.randn(40, 1, dtype=torch.float64) * 3, torch.randint(2, (40,))
    two = torch.cat([torch.zeros_like(f), f], 1)
    for name in ("loss", "margin"):
        one = measure(name, BinaryLogistic(), f, y)
        torch.testing.assert_close(one, measure(name, CrossEntropy(), two, y))
    assert torch.equal(measure("logit", BinaryLogistic(), f, y), torch.where(y == 1, -f[:, 0], f[:, 0]))


@pytest.mark.parametrize("name", ["logit", "margin"])
def test_a_logit_beyond_exponentials_keeps_its_margin(name):
    f, y = torch.tensor([[900.0, -900.0, 0.0]], dtype=torch.float64), torch.tensor([0])
    assert measure(name, CrossEntropy(), f, y).tolist() == [-900.0]


@pytest.mark.parametrize("loss", CLASSIFICATIONS)
@pytest.mark.parametrize("head", [True, False], ids=["head", "network"])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_gradients_are_finite_differences(case, loss, head, name):
    c = case(loss, head)
    batch = c.objective.place(next(c.rows.batches(7)))
    gradients = measurement_gradients(c.objective, batch, name).dense()
    theta, step = c.objective.theta, 1e-6
    assert gradients.norm() > 0.1
    for j in range(c.objective.space.dim):
        e = torch.zeros_like(theta)
        e[j] = step
        up, down = (c.objective.measurement(theta + sign * e, batch, name) for sign in (1, -1))
        torch.testing.assert_close(gradients[:, j], (up - down) / (2 * step), rtol=1e-6, atol=1e-7)


def test_the_margin_is_the_loss_without_its_saturation(case):
    """∇loss = σ(−margin) ∇(−margin), so the scores of a row differ by that factor alone."""
    c = case("cross_entropy")
    scores = {
        name: influence(c.objective, c.rows, c.rows, measurement=name, top_k=None).scores for name in MEASUREMENTS
    }
    batch = c.objective.place(next(c.rows.batches(100)))
    factor = 1 - torch.exp(-c.objective.losses(c.objective.theta, batch))
    found = torch.tensor(scores["margin"], dtype=torch.float64) * factor[:, None]
    torch.testing.assert_close(found, torch.tensor(scores["loss"], dtype=torch.float64), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(torch.tensor(scores["logit"]), torch.tensor(scores["margin"]), rtol=0.05)


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("name", ["logit", "margin"])
def test_a_regression_has_no_class_to_measure(case, name, targets):
    c = case("squared_error", outputs=1)
    test, heard = TensorRows({"x": c.x}, c.y if targets else None), []
    with pytest.raises(InvalidArgument, match='regression: pass measurement="loss"') as error:
        influence(c.objective, c.rows, test, measurement=name, progress=lambda *a: heard.append(a))
    assert error.value.violations[0].field == "measurement"
    assert not heard, "refused before anything is computed"
