"""`cg` and `exact` are one estimand by two routes: they agree to 1e-5 on trained models and real data."""

import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program

torch.set_num_threads(1)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return torch.tensor(data.data[order] / 16), torch.tensor(data.target[order])


def trained(module: nn.Module, l2: float, steps: int, rows: int = 1697) -> nn.Module:
    x, y = digits()
    x, y, module = x[100 : 100 + rows], y[100 : 100 + rows], module.double()
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        squares = sum(p.square().sum() for p in module.parameters())
        value = nn.functional.cross_entropy(module(x), y) + 0.5 * l2 * squares
        value.backward()
        return value

    optimizer.step(closure)
    return module.eval()


def objective(module: nn.Module, l2: float, parameters: tuple[str, ...] = ()) -> Objective:
    exported = torch.export.export(
        module, (torch.zeros(3, 64, dtype=torch.float64),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    return Objective(
        Program.from_exported(exported).to("cpu", torch.float64), ObjectiveSpec("cross_entropy", l2), parameters
    )


def mlp(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))


CASES = {
    "digits softmax, l2 1e-2": lambda: objective(trained(nn.Linear(64, 10), 1e-2, 200), 1e-2),
    "digits softmax, l2 1e-4": lambda: objective(trained(nn.Linear(64, 10), 1e-4, 500), 1e-4),
    "last layer of an MLP": lambda: objective(trained(mlp(40), 1e-3, 150), 1e-3, ("2.*",)),
    "an MLP of 760 parameters": lambda: objective(trained(mlp(10), 1e-2, 400), 1e-2),
}


@pytest.mark.parametrize("name", CASES)
def test_cg_agrees_with_exact(name, capsys):
    model = CASES[name]()
    x, y = digits()
    train = TensorRows({"x": x[100:]}, y[100:])
    fresh = torch.rand(20, 64, dtype=torch.float64)  # another draw each time
    test = TensorRows({"x": torch.cat([x[:20], fresh])}, torch.cat([y[:20], torch.randint(10, (20,))]))
    found, seconds = {}, {}
    for method in ("exact", "cg"):
        started = time.perf_counter()
        found[method] = influence(model, train, test, method=method, leverage_correction=False, top_k=None)
        seconds[method] = time.perf_counter() - started
    diagnostics = found["cg"].diagnostics
    difference = abs(found["cg"].scores - found["exact"].scores).max() / abs(found["exact"].scores).max()
    with capsys.disabled():
        print(
            f"\n{name}, P {model.space.dim}: max|a−b|/max|b| {difference:.1e}, exact {seconds['exact']:.2f} s, cg "
            f"{seconds['cg']:.2f} s, {diagnostics.matvecs / 40:.0f} products a query, residual "
            f"{diagnostics.residual:.1e}"
        )
    assert difference < 1e-5
    assert diagnostics.damping == pytest.approx(found["exact"].diagnostics.damping, rel=1e-10)
    assert diagnostics.damping_source == found["exact"].diagnostics.damping_source


def test_self_influence_agrees_too():
    model = CASES["digits softmax, l2 1e-2"]()
    x, y = digits()
    train = TensorRows({"x": x[100:500]}, y[100:500])
    exact, cg = (self_influence(model, train, method=m, leverage_correction=False) for m in ("exact", "cg"))
    np.testing.assert_allclose(cg.scores, exact.scores, rtol=1e-5)


def test_an_mlp_that_did_not_converge_is_indefinite():
    model = objective(trained(mlp(40), 0.0, 8), 0.0)
    x, y = digits()
    train, test = TensorRows({"x": x[100:]}, y[100:]), TensorRows({"x": x[:5]}, y[:5])
    with pytest.raises(FailedPrecondition, match=r"curvature -.*pass damping=") as error:
        influence(model, train, test, method="cg", damping=1e-5)
    assert error.value.reason is Reason.HESSIAN_NOT_POSITIVE_DEFINITE
    enough = float(error.value.metadata["sufficient_damping"])
    influence(model, train, test, method="cg", damping=enough)


def test_a_large_model_has_no_limit_and_says_that_its_damping_is_an_estimate():
    model = objective(trained(mlp(180), 5e-2, 100, rows=300), 5e-2)
    assert model.space.dim > 12_000
    x, y = digits()
    train, test = TensorRows({"x": x[100:400]}, y[100:400]), TensorRows({"x": x[:3]}, y[:3])
    with pytest.raises(FailedPrecondition, match="cg") as error:
        influence(model, train, test)
    assert error.value.reason is Reason.TOO_MANY_PARAMETERS
    found = influence(model, train, test, method="cg").diagnostics
    assert found.damping_source == "mean_eigenvalue"
    assert found.residual <= 1e-8
    assert any(f"damping {found.damping:.4g}" in text and "standard error" in text for text in found.warnings)
