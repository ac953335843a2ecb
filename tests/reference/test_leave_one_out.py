"""Scores against the truth: the model trained again without each of some rows, with 1/n kept as the contract says.

The reference is written here on its own, with none of the engine's code: Newton's method from the trained weights, and
nothing is counted before its gradient is zero.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn

from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program

torch.set_num_threads(1)
REMOVED = 60
TESTS = 100


@dataclass
class Problem:
    """R(W) = (1/n) Σ w_i ℓ(W x̃_i, y_i) + l2/2 ‖W‖², x̃ = [x, 1], W (C, d)."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    loss: str
    l2: float
    outputs: int

    def losses(self, W: Tensor, x: Tensor, y: Tensor) -> Tensor:
        f = x @ W[:, :-1].T + W[:, -1]
        if self.loss == "cross_entropy":
            return nn.functional.cross_entropy(f, y, reduction="none")
        if self.loss == "binary_logistic":
            return torch.logaddexp(torch.zeros(len(f), dtype=f.dtype), f[:, 0]) - y * f[:, 0]
        return 0.5 * (f - y).square().sum(1)

    def derivatives(self, W: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
        """Return R, its gradient (C·d) and a function that makes its Hessian."""
        x = torch.cat([self.x, torch.ones(len(self.x), 1, dtype=self.x.dtype)], 1)
        n, C = len(x), self.outputs
        f = x @ W.T
        if self.loss == "cross_entropy":
            p = torch.softmax(f, 1)
            residual = p - nn.functional.one_hot(self.y, C)
            curvature = lambda: torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # noqa: E731
        elif self.loss == "binary_logistic":
            p = torch.sigmoid(f)
            residual = p - self.y[:, None]
            curvature = lambda: (p * (1 - p))[:, :, None]  # noqa: E731
        else:
            residual = f - self.y
            curvature = lambda: torch.eye(C, dtype=f.dtype).expand(n, C, C)  # noqa: E731
        value = (w * self.losses(W, self.x, self.y)).sum() / n + 0.5 * self.l2 * W.square().sum()
        gradient = (residual * w[:, None]).T @ x / n + self.l2 * W

        def hessian() -> Tensor:
            H = torch.empty(C, x.shape[1], C, x.shape[1], dtype=f.dtype)
            S = curvature() * w[:, None, None] / n
            for a in range(C):
                for b in range(a, C):
                    H[a, :, b] = (x * S[:, a, b, None]).T @ x
                    H[b, :, a] = H[a, :, b].T.clone()
            size = C * x.shape[1]
            return H.reshape(size, size) + self.l2 * torch.eye(size, dtype=f.dtype)

        return value, gradient.reshape(-1), hessian

    def minimise(self, W: Tensor, without: int | None = None, factor: Tensor | None = None) -> Tensor:
        """Return the minimiser, from W; the Hessian's factor is renewed whenever a step does not halve the gradient."""
        w = torch.ones(len(self.x), dtype=self.x.dtype)
        if without is not None:
            w[without] = 0
        before = float("inf")
        for _ in range(200):
            value, gradient, hessian = self.derivatives(W, w)
            norm = float(gradient.norm())
            if norm < 1e-11:
                break
            if factor is None or norm > 0.5 * before:
                factor = torch.linalg.cholesky(hessian())
            step = torch.cholesky_solve(gradient[:, None], factor).reshape(W.shape)
            scale = 1.0
            while float(self.derivatives(W - scale * step, w)[0]) > float(value) + 1e-13 and scale > 1e-4:
                scale /= 2
            W, before = W - scale * step, norm
        assert float(self.derivatives(W, w)[1].norm()) < 1e-10, "not at the minimum: nothing may be counted"
        return W

    def without(self, W: Tensor, rows: list[int]) -> list[Tensor]:
        """Return the minimiser without each of the rows, from the one with all of them."""
        whole = self.derivatives(W, torch.ones(len(self.x), dtype=W.dtype))[2]()
        found = []
        for i in rows:
            own = replace(self, x=self.x[i : i + 1], y=self.y[i : i + 1], l2=0.0)
            part = own.derivatives(W, torch.ones(1, dtype=W.dtype))[2]() / len(self.x)
            found.append(self.minimise(W, i, torch.linalg.cholesky(whole - part)))
        return found


def trained(problem: Problem) -> tuple[Tensor, Objective, TensorRows, TensorRows]:
    W = problem.minimise(torch.zeros(problem.outputs, problem.x.shape[1] + 1, dtype=torch.float64))
    module = nn.Linear(problem.x.shape[1], problem.outputs).double()
    module.load_state_dict({"weight": W[:, :-1], "bias": W[:, -1]})
    exported = torch.export.export(module.eval(), (problem.x[:3],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    objective = Objective(
        Program.from_exported(exported).to("cpu", torch.float64), ObjectiveSpec(problem.loss, problem.l2)
    )
    return W, objective, TensorRows({"x": problem.x}, problem.y), TensorRows({"x": problem.x_test}, problem.y_test)


def measured(problem: Problem, W: Tensor, removed: list[int], measurement: str = "loss") -> np.ndarray:
    """Return the change of each test row's cost when each of `removed` is left out, (tests, removed)."""
    before = cost(problem, W, measurement)
    changes = [cost(problem, W_i, measurement) - before for W_i in problem.without(W, removed)]
    return torch.stack(changes, 1).numpy()


def cost(problem: Problem, W: Tensor, measurement: str) -> Tensor:
    x, y = problem.x_test, problem.y_test
    if measurement == "loss":
        return problem.losses(W, x, y)
    f = x @ W[:, :-1].T + W[:, -1]
    if problem.outputs == 1:
        return torch.where(y == 1, -f[:, 0], f[:, 0])
    if measurement == "logit":
        return -f[torch.arange(len(f)), y]
    p = torch.softmax(f, 1)[torch.arange(len(f)), y]
    return torch.log1p(-p) - torch.log(p)


@dataclass
class Agreement:
    pearson: float
    spearman: float
    slope: float
    """Of the estimate over the truth, through the origin: below 1 where the estimate is too small."""

    @classmethod
    def of(cls, estimate: np.ndarray, truth: np.ndarray) -> "Agreement":
        a, b = estimate.ravel(), truth.ravel()
        return cls(float(np.corrcoef(a, b)[0, 1]), float(spearmanr(a, b).statistic), float(a @ b / (b @ b)))


def digits(l2: float) -> Problem:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = torch.tensor(data.data[order] / 16), torch.tensor(data.target[order])
    return Problem(x[100:], y[100:], x[:TESTS], y[:TESTS], "cross_entropy", l2, 10)


def breast_cancer(loss: str) -> Problem:
    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = torch.tensor(data.data[order]), torch.tensor(data.target[order])
    x = (x - x[100:].mean(0)) / x[100:].std(0)
    return Problem(x[100:], y[100:], x[:TESTS], y[:TESTS], loss, 1e-2, 2 if loss == "cross_entropy" else 1)


def diabetes() -> Problem:
    data = load_diabetes()
    x, y = torch.tensor(data.data * 20), torch.tensor(data.target / 100)
    y = torch.stack([y, y.square()], 1)
    return Problem(x[100:], y[100:], x[:TESTS], y[:TESTS], "squared_error", 1e-3, 2)


def matrix(objective: Objective, train: TensorRows, test: TensorRows, removed: list[int], **settings) -> np.ndarray:
    return influence(objective, train, test, top_k=None, **settings).scores[:, removed].astype(np.float64)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("digits", lambda: digits(1e-2)),
        ("breast cancer, softmax", lambda: breast_cancer("cross_entropy")),
        ("breast cancer, binary logistic", lambda: breast_cancer("binary_logistic")),
        ("diabetes, two outputs", diabetes),
    ],
)
@pytest.mark.parametrize("leverage", [None, False], ids=["default", "plain"])
def test_scores_are_the_change_on_removal(name, make, leverage, capsys):
    problem = make()
    W, objective, train, test = trained(problem)
    removed = np.random.default_rng(1).choice(len(problem.x), REMOVED, replace=False).tolist()
    truth = _once(name, lambda: measured(problem, W, removed))
    found = Agreement.of(matrix(objective, train, test, removed, leverage_correction=leverage), truth)
    with capsys.disabled():
        print(f"\n{name}, l2 {problem.l2:g}, {'plain' if leverage is False else 'leverage corrected'}: {found}")
    assert found.pearson >= 0.99
    assert 0.9 <= found.slope <= 1.1


@pytest.mark.parametrize(
    ("make", "measurement"),
    [
        (lambda: digits(1e-2), "margin"),
        (lambda: digits(1e-2), "logit"),
        (lambda: breast_cancer("cross_entropy"), "margin"),
        (lambda: breast_cancer("binary_logistic"), "logit"),
    ],
    ids=["digits margin", "digits logit", "breast cancer margin", "breast cancer one logit"],
)
def test_so_they_are_for_the_other_measurements(make, measurement):
    problem = make()
    W, objective, train, test = trained(problem)
    removed = np.random.default_rng(1).choice(len(problem.x), 30, replace=False).tolist()
    truth = measured(problem, W, removed, measurement)
    found = Agreement.of(matrix(objective, train, test, removed, measurement=measurement), truth)
    assert found.pearson >= 0.99
    assert 0.9 <= found.slope <= 1.1
    assert Agreement.of(matrix(objective, train, test, removed), truth).slope < 0.8, "they are not the loss"


def test_the_leverage_correction_restores_the_size_where_l2_is_small(capsys):
    problem = digits(1e-4)
    W, objective, train, test = trained(problem)
    removed = np.random.default_rng(1).choice(len(problem.x), REMOVED, replace=False).tolist()
    truth = measured(problem, W, removed)
    plain = Agreement.of(matrix(objective, train, test, removed, leverage_correction=False), truth)
    corrected = Agreement.of(matrix(objective, train, test, removed), truth)
    with capsys.disabled():
        print(f"\ndigits, l2 1e-4\n  plain     {plain}\n  corrected {corrected}")
    assert corrected.slope >= 0.9
    assert corrected.pearson >= 0.99
    assert abs(1 - corrected.slope) < abs(1 - plain.slope) / 3


def test_for_squared_error_the_corrected_weights_are_those_of_leave_one_out():
    """Ridge: θ̂ without row i is θ̂ + H⁻¹ J_iᵀ r̃_i w_i/n exactly, so the change of the output is exact."""
    problem = diabetes()
    problem.y, problem.y_test, problem.outputs = problem.y[:, :1], problem.y_test[:, :1], 1
    W, objective, train, _ = trained(problem)
    removed = list(range(0, len(problem.x), 6))
    bare = TensorRows({"x": problem.x_test})  # without targets the measurement is the output itself
    scores = influence(objective, train, bare, top_k=len(problem.x))
    estimate = np.zeros((TESTS, len(problem.x)))
    for rows, values in ((scores.helpful_rows, scores.helpful_scores), (scores.harmful_rows, scores.harmful_scores)):
        for t in range(TESTS):
            estimate[t, rows[t][rows[t] >= 0]] = values[t][rows[t] >= 0]
    one = torch.cat([problem.x, torch.ones(len(problem.x), 1)], 1)
    one_test = torch.cat([problem.x_test, torch.ones(TESTS, 1)], 1)
    eye = problem.l2 * torch.eye(one.shape[1], dtype=one.dtype)
    truth = []
    for i in removed:
        keep = torch.arange(len(one)) != i
        n = len(one)
        W_i = torch.linalg.solve(one[keep].T @ one[keep] / n + eye, one[keep].T @ problem.y[keep] / n)
        truth.append((one_test @ (W_i - W.T))[:, 0].numpy())
    truth = np.stack(truth, 1)
    assert abs(estimate[:, removed] - truth).max() < 1e-8 * abs(truth).max()


def test_self_influence_is_the_change_of_the_rows_own_loss(capsys):
    problem = breast_cancer("cross_entropy")
    W, objective, train, _ = trained(problem)
    ranking = self_influence(objective, train)
    scores = np.empty(len(problem.x))
    scores[ranking.train.rows] = ranking.scores
    removed = np.random.default_rng(2).choice(len(problem.x), REMOVED, replace=False).tolist()
    before = problem.losses(W, problem.x, problem.y)
    after = [
        problem.losses(W_i, problem.x, problem.y)[i]
        for i, W_i in zip(removed, problem.without(W, removed), strict=True)
    ]
    truth = (torch.stack(after) - before[removed]).numpy()
    found = Agreement.of(scores[removed], truth)
    with capsys.disabled():
        print(f"\nbreast cancer, self-influence: {found}")
    # A row's own outputs move far and its loss is convex in them: first order keeps the order and not the size.
    assert found.pearson >= 0.99
    assert found.spearman >= 0.99
    assert 0 < found.slope < 1


_TRUTHS: dict[str, np.ndarray] = {}


def _once(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    if name not in _TRUTHS:
        _TRUTHS[name] = make()
    return _TRUTHS[name]
