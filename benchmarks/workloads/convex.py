"""Softmax regression on digits, p = 650, at the minimum of its L2 objective; truth: leave-one-out by retraining."""

import torch
from torch import Tensor, nn

from benchmarks.caching import cached
from benchmarks.data import digits

from .base import LeaveOneOut, Workload

L2 = 1e-2
TOLERANCE = 1e-10
"""‖∇R‖ of every fit, in float64; a fit that does not reach it is an error."""
MAX_STEPS = 400
_CLASSES = 10


def _arrays() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training rows with a constant column (n, 65), one-hot labels (n, 10), and the same of the test rows."""
    split = digits()

    def augmented(x: Tensor) -> Tensor:
        return torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)

    hot = nn.functional.one_hot
    return (
        augmented(split.x),
        hot(split.y, _CLASSES).double(),
        augmented(split.test_x),
        hot(split.test_y, _CLASSES).double(),
    )


def _hessian(x: Tensor, theta: Tensor) -> Tensor:
    """Return ∇²R, (650, 650), parameters ordered class by class."""
    p = (x @ theta.T).softmax(dim=1)
    blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    rows = torch.einsum("ncd,ni,nj->cidj", blocks, x, x) / len(x)
    size = theta.numel()
    return rows.reshape(size, size) + L2 * torch.eye(size, dtype=torch.float64)


def _minimum() -> Tensor:
    """Return θ̂, (10, 65), by Newton steps with halving."""
    x, y, _, _ = _arrays()
    theta = torch.zeros(_CLASSES, x.shape[1], dtype=torch.float64)

    def risk(at: Tensor) -> Tensor:
        return -(y * (x @ at.T).log_softmax(dim=1)).sum(dim=1).mean() + 0.5 * L2 * at.square().sum()

    for _ in range(MAX_STEPS):
        gradient = ((x @ theta.T).softmax(dim=1) - y).T @ x / len(x) + L2 * theta
        if gradient.norm() <= TOLERANCE:
            return theta
        step = torch.linalg.solve(_hessian(x, theta), gradient.flatten()).reshape(theta.shape)
        length = 1.0
        while risk(theta - length * step) > risk(theta) and length > 1e-8:
            length /= 2
        theta = theta - length * step
    raise RuntimeError("softmax regression did not reach its minimum")


def _models() -> dict[str, Tensor]:
    def compute() -> dict[str, Tensor]:
        theta = _minimum()
        return {"0.weight": theta[None, :, :-1].float(), "0.bias": theta[None, :, -1].float()}

    return cached("convex-models", {"l2": L2, "tolerance": TOLERANCE}, compute)


def _leave_one_out() -> LeaveOneOut:
    """Refit without each row: steps by the full objective's inverse Hessian, asserted to end at each minimum."""

    def compute() -> dict[str, Tensor]:
        x, y, test_x, test_y = _arrays()
        theta = _minimum()
        n, m = len(x), len(test_x)
        inverse = torch.linalg.inv(_hessian(x, theta))
        before = -(test_y * (test_x @ theta.T).log_softmax(dim=1)).sum(dim=1)
        changes = torch.empty(m, n, dtype=torch.float64)
        size = 64
        for start in range(0, n, size):
            left_out = torch.arange(start, min(start + size, n))
            fits = theta.repeat(len(left_out), 1, 1)
            for step in range(MAX_STEPS):
                residuals = (x @ fits.mT).softmax(dim=2) - y
                residuals[torch.arange(len(left_out)), left_out] = 0
                gradients = residuals.mT @ x / n + L2 * fits
                worst = float(gradients.flatten(1).norm(dim=1).max())
                if worst <= TOLERANCE:
                    break
                if step == MAX_STEPS - 1:
                    raise RuntimeError(f"leaving out rows {start}…: ‖∇R‖ is {worst:.1e} after {MAX_STEPS} steps")
                fits -= (gradients.flatten(1) @ inverse).reshape(fits.shape)
            outputs = (test_x @ fits.mT).log_softmax(dim=2)
            changes[:, left_out] = (-(test_y * outputs).sum(dim=2) - before).T
        return {"changes": changes}

    return LeaveOneOut(cached("convex-loo", {"l2": L2, "tolerance": TOLERANCE}, compute)["changes"])


def _exact_scores() -> Tensor:
    """Return (1/n) ∇m_tᵀ H⁻¹ ∇ℓ_i in float64, (m, n)."""
    x, y, test_x, test_y = _arrays()
    theta = _minimum()

    def gradients(rows: Tensor, labels: Tensor) -> Tensor:
        residuals = (rows @ theta.T).softmax(dim=1) - labels
        return (residuals[:, :, None] * rows[:, None, :]).flatten(1)

    solved = torch.linalg.solve(_hessian(x, theta), gradients(test_x, test_y).T)
    return solved.T @ gradients(x, y).T / len(x)


WORKLOAD = Workload(
    name="convex",
    title="Softmax regression on digits: p = 650, 1,697 × 100",
    architecture=lambda: nn.Sequential(nn.Linear(64, _CLASSES)),
    data=digits,
    l2=L2,
    damping={"hessian": 0.0, "gauss_newton": 0.0, "ekfac": 0.0},
    models=_models,
    seeds=1,
    truth=_leave_one_out,
    reference=_exact_scores,
    reference_is="exact influence, dense Hessian in float64",
    settings=f"l2 {L2:g} on every parameter, λ 0; trained in float64 to ‖∇R‖ ≤ {TOLERANCE:g}; "
    f"all 1,697 leave-one-out refits to the same",
    kind="loo",
)
