"""Trained models do not warn; models that do not fit their data do."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.engine.stationarity import measure_fit

F = nn.functional


def linear(weight, bias) -> nn.Module:
    module = nn.Linear(weight.shape[1], weight.shape[0]).double()
    module.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return nn.Sequential(module)


def digits(n=600):
    data = load_digits()
    return torch.tensor(data.data[:n] / 16), torch.tensor(data.target[:n])


def sklearn_digits():
    x, y = digits()
    fitted = LogisticRegression().fit(x, y)
    return linear(fitted.coef_, fitted.intercept_), x, y, "cross_entropy", 1 / len(x), ("*bias",)


def sklearn_binary():
    data = load_breast_cancer()
    x = StandardScaler().fit_transform(data.data)
    fitted = LogisticRegression().fit(x, data.target)
    return (
        linear(fitted.coef_, fitted.intercept_),
        torch.tensor(x),
        torch.tensor(data.target),
        "binary_logistic",
        1 / len(x),
        ("*bias",),
    )


def lbfgs():
    x, y = digits()
    torch.manual_seed(0)
    module = nn.Linear(64, 10).double()
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), y) + 0.5e-2 * sum(p.square().sum() for p in module.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    return module, x, y, "cross_entropy", 1e-2, ()


def adam_network():
    x, y = digits()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(30):
        for at in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(module(x[at]), y[at]).backward()
            optimizer.step()
    return module, x, y, "cross_entropy", 0.0, ()


def ridge():
    data = load_diabetes()
    x, y = StandardScaler().fit_transform(data.data), data.target
    fitted = Ridge(alpha=1.0).fit(x, y)
    return (
        linear(fitted.coef_[None], np.array([fitted.intercept_])),
        torch.tensor(x),
        torch.tensor(y),
        "squared_error",
        1 / len(x),
        ("*bias",),
    )


TRAINED = {f.__name__: f for f in (sklearn_digits, sklearn_binary, lbfgs, adam_network, ridge)}


@pytest.fixture(scope="module")
def fit(program):
    def measure(trained, x=None, y=None, l2=None, fresh=False):
        module, x0, y0, loss, l20, exclude = trained
        if fresh:
            torch.manual_seed(5)
            for m in module.modules():
                if isinstance(m, nn.Linear):
                    m.reset_parameters()
        objective = Objective(program(module, x0[:3]), ObjectiveSpec(loss, l20 if l2 is None else l2, exclude))
        return measure_fit(
            objective, TensorRows({"x": x0 if x is None else x}, y0 if y is None else y), memory_bytes=2**22
        )

    return measure


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_model_does_not_warn_and_one_that_does_not_fit_does(fit, name):
    trained = TRAINED[name]()
    _, x, y, _, l2, _ = trained
    good = fit(trained)
    print(f"\n{name}: {good}")
    assert good.warnings == ()
    generator = torch.Generator().manual_seed(0)
    bad = {
        "shuffled labels": fit(trained, y=y[torch.randperm(len(y), generator=generator)]),
        "permuted inputs": fit(trained, x=x[:, torch.randperm(x.shape[1], generator=generator)]),
        "other scale": fit(trained, x=x * 16),
    }
    if l2 > 0 and name != "adam_network":
        bad |= {"l2 × 10": fit(trained, l2=l2 * 10), "l2 / 10": fit(trained, l2=l2 / 10), "no l2": fit(trained, l2=0.0)}
    bad["untrained"] = fit(trained, fresh=True)
    silent = [what for what, found in bad.items() if not found.warnings]
    assert not silent, {what: bad[what] for what in silent}


def test_the_implied_l2_is_the_one_it_was_trained_with(fit):
    found = fit(sklearn_digits(), l2=0.1)
    assert found.implied_l2 == pytest.approx(1 / 600, rel=0.01)
    assert "0.0017" in found.warnings[0]


def test_the_numbers_are_their_definitions(case):
    c = case("cross_entropy", weighted=True)
    found = measure_fit(c.objective, c.rows)
    batch = c.objective.place(next(c.rows.batches(100)))
    theta = c.objective.theta.clone().requires_grad_()
    losses = c.objective.losses(theta, batch)
    (total,) = torch.autograd.grad((c.weights * losses).mean() + 0.05 * theta.square().sum(), theta, retain_graph=True)
    norms = [torch.autograd.grad(loss, theta, retain_graph=True)[0].norm() for loss in losses]
    assert found.stationarity.gradient_norm == pytest.approx(float(total.norm()), rel=1e-12)
    assert found.stationarity.relative == pytest.approx(
        float(total.norm() / (c.weights * torch.stack(norms)).mean()), rel=1e-12
    )
    assert found.stationarity.mean_loss == pytest.approx(float(losses.mean()), rel=1e-12)
    share = torch.bincount(c.y) / len(c.y)
    assert found.constant_loss == pytest.approx(float(-(share * share.log()).sum()), rel=1e-6)
    r = case("squared_error")
    assert measure_fit(r.objective, r.rows).constant_loss == pytest.approx(
        0.5 * float(r.y.var(0, unbiased=False).sum()), rel=1e-12
    )


def test_rounding_is_not_taken_for_rows_that_mix(export):
    """In float32 a row's sums are rounded otherwise in a batch than alone, and the more so the larger their terms."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 3))
    x, y = 255 * torch.rand(300, 784), torch.arange(300) % 3
    with torch.no_grad():
        module[2].weight.abs_()
        module[2].bias -= module(x).mean(0)
    program = Program.from_exported(export(module, x[:3])).to("cpu", torch.float32)
    objective = Objective(program, ObjectiveSpec("cross_entropy", 1e-3))
    f = objective.outputs(objective.theta, {"input": x})
    alone = torch.cat([objective.outputs(objective.theta, {"input": x[i : i + 1]}) for i in range(4)])
    assert (alone - f[:4]).abs().max() > 1e-6 * f[:4].abs().max()
    assert measure_fit(objective, TensorRows({"x": x}, y)).stationarity.gradient_norm > 0

    class Mixing(nn.Module):
        def forward(self, x):
            return x - 0.1 * x.mean(0)

    mixed = Program.from_exported(export(nn.Sequential(nn.Linear(4, 3), Mixing()), x[:3, :4])).to("cpu", torch.float32)
    with pytest.raises(InvalidArgument, match="row alone"):
        measure_fit(Objective(mixed, ObjectiveSpec("cross_entropy", 1e-3)), TensorRows({"x": x[:, :4]}, y))
