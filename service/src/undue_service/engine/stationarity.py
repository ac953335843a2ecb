"""Whether the registered weights are a minimum of the registered objective on this data.

Influence functions are derived at a minimum, and the commonest mistake is to ask for them elsewhere: another objective,
other data, other preprocessing than the model was trained with. Four tests, each of which a trained model passes;
thresholds from experiments on scikit-learn's digits, breast cancer and diabetes (softmax by L-BFGS,
`LogisticRegression` with C = 0.01, 1, 100, `Ridge`, MLPs by Adam for 5–200 epochs and by SGD with momentum, whole and
last layer alone):

| test | trained models | models that do not fit |
|---|---|---|
| relative = ‖∇R‖ / mean ‖∇ℓ_i‖ > 0.35 | ≤ 0.28; ≤ 0.02 by L-BFGS | inputs scaled by 16: 0.14–1.0 |
| mean loss ≥ the best constant's, relative > 0.02 | ≤ 0.6 of it | untrained 1.01, shuffled labels 1.5–8 |
| outward = ∇L·θ / (‖θ‖ mean ‖∇ℓ_i‖) > 0.005 | < −0.01 | shuffled labels 0.03–0.4, permuted inputs 0.01–0.2 |
| ∇R along θ (cosine > 0.9), l2 off by 2 or more | cosine ≤ 0.82 | convex, l2 wrong by 10 × or left out: 0.98–1.00 |

Of 240 cases no trained model warned, and every one that was untrained, had other labels, permuted or scaled inputs did.
Not found: an l2 wrong by 10 × on a network that was not trained to convergence, 10 % of wrong labels on a strongly
regularised or barely trained model, rows of the same distribution that the model was not trained on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.reports import Stationarity

from .data import Batch, Rows
from .gradients import block_rows, each_block, loss_gradients
from .losses import SmoothHinge
from .objective import Objective
from .probe import probe
from .progress import Progress, silent

_LARGE_RELATIVE = 0.35
_MOVING_RELATIVE = 0.02
_LARGE_OUTWARD = 0.005
_ALONG_WEIGHTS = 0.9
_NEGLIGIBLE_RELATIVE = 5e-4
_SECTIONS = 60


@dataclass(frozen=True)
class Fit:
    """How well the weights minimise the objective on the data."""

    stationarity: Stationarity
    constant_loss: float
    """Mean loss of the best constant prediction."""
    outward: float
    """∇L·θ / (‖θ‖ · mean w_i‖∇ℓ_i‖), L = R without its L2 term: positive where smaller weights would fit better.

    Here and below θ is the parameters that l2_exclude does not name.
    """
    l2: float
    """As registered."""
    implied_l2: float
    """−∇L·θ / ‖θ‖²: the l2 for which the gradient along θ would vanish."""
    along: float
    """Cosine of ∇R and θ."""
    notes: tuple[str, ...]
    """What `probe` found."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong in words; empty where nothing was found."""
        return (*self.notes, *self._misfit())

    def _misfit(self) -> tuple[str, ...]:
        relative, loss = self.stationarity.relative, self.stationarity.mean_loss
        if relative > _MOVING_RELATIVE and loss >= self.constant_loss:
            text = (
                f"the model does not fit its training data: its mean loss {loss:.3g} is no better than the "
                f"{self.constant_loss:.3g} of a constant prediction; check that these are its trained weights, "
                "its targets and its preprocessing"
            )
            return (text,)
        off = self.implied_l2 >= 0 and abs(self.implied_l2 - self.l2) > 0.5 * max(self.implied_l2, self.l2)
        if off and abs(self.along) > _ALONG_WEIGHTS and relative > _NEGLIGIBLE_RELATIVE:
            text = (
                "the gradient of the objective points along the weights: they look like the minimum for "
                f"l2 ≈ {self.implied_l2:.2g}, not for the registered l2 = {self.l2:.2g}; check l2 (R holds l2/2 · ‖θ‖² "
                "beside the mean loss), or train further"
            )
            return (text,)
        if relative > _LARGE_RELATIVE or self.outward > _LARGE_OUTWARD:
            text = (
                "the model is not at a minimum of its objective on this training data (its gradient is "
                f"{relative:.2g} of a row's): check that the inputs are preprocessed as in training, that the targets "
                "and the objective are those of training, and that training converged"
            )
            return (text,)
        return ()


def measure_fit(objective: Objective, train: Rows, *, memory_bytes: int = 2**30, progress: Progress = silent) -> Fit:
    """Return how near θ̂ is to a minimum of R on the training rows, in one pass.

    Raises:
        InvalidArgument: TARGETS_MISSING, INPUT_MISMATCH, TARGET_MISMATCH; MODEL_UNSUPPORTED where `probe` refuses the
            model.
        FailedPrecondition: NON_FINITE_RESULT where a row's loss or gradient is not finite.
    """
    n = len(train)
    theta = objective.theta
    gradient = torch.zeros_like(theta)
    norms = losses = 0.0
    constant = _Constant(objective)
    notes: tuple[str, ...] = ()
    done = 0

    def measured(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        gradients = loss_gradients(objective, batch)
        return objective.losses(theta, batch), gradients.norms(), gradients.total(batch.weights)

    for batch, (row_losses, row_norms, total) in each_block(
        objective, train, block_rows(objective, memory_bytes), measured
    ):
        notes = notes if done else probe(objective, batch)
        _check_finite(row_losses + row_norms, batch)
        gradient += total / n
        norms += float((row_norms if batch.weights is None else row_norms * batch.weights).sum())
        losses += float(row_losses.sum())
        constant.add(batch.targets)
        done += len(batch.index)
        progress("stationarity", done, n)
    total = gradient + objective.l2 * theta
    covered = theta * objective.l2_mask
    norm, size = float(total.norm()), float(covered.norm())
    return Fit(
        stationarity=Stationarity(gradient_norm=norm, relative=_ratio(norm, norms / n), mean_loss=losses / n),
        constant_loss=constant.loss(),
        outward=_ratio(float(gradient @ covered), size * norms / n),
        l2=objective.spec.l2,
        implied_l2=_ratio(-float(gradient @ covered), size**2),
        along=_ratio(float(total @ covered), norm * size),
        notes=notes,
    )


class _Constant:
    """The best constant prediction: the entropy of the labels, or half the variance of the targets.

    A smooth hinge has no closed form: the best margin is searched for.
    """

    def __init__(self, objective: Objective) -> None:
        self._loss = objective.loss
        self._labels = objective.loss.explains_label
        C = objective.outputs_per_row
        self._count = 0
        self._sum = torch.zeros(max(C, 2) if self._labels else C, dtype=torch.float64)
        self._squares = 0.0

    def add(self, y: Tensor) -> None:
        y = y.cpu()
        self._count += len(y)
        if self._labels:
            self._sum += torch.bincount(y, minlength=len(self._sum))
        else:
            self._sum += y.to(torch.float64).sum(dim=0)
            self._squares += float(y.to(torch.float64).square().sum())

    def loss(self) -> float:
        mean = self._sum / self._count
        if isinstance(self._loss, SmoothHinge):
            return _least_hinge(self._loss, float(mean[1]))
        if self._labels:
            return float(torch.special.entr(mean).sum())
        return 0.5 * (self._squares / self._count - float(mean.square().sum()))


def _least_hinge(loss: SmoothHinge, share: float) -> float:
    """Return the least mean loss of a constant margin where a share of the labels is 1, by ternary search."""
    labels, shares = torch.tensor([0, 1]), torch.tensor([1 - share, share], dtype=torch.float64)

    def mean(margin: float) -> float:
        return float(shares @ loss.losses(torch.full((2, 1), margin, dtype=torch.float64), labels))

    low, high = -1 - 50 * loss.temperature, 1 + 50 * loss.temperature
    for _ in range(_SECTIONS):
        third = (high - low) / 3
        if mean(low + third) <= mean(high - third):
            high -= third
        else:
            low += third
    return mean((low + high) / 2)


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0


def _check_finite(values: Tensor, batch: Batch) -> None:
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        row = int(batch.index[int(bad.nonzero()[0, 0])])
        text = (
            f"the loss or its gradient is not finite on training row {row}; check that row's inputs and the model's "
            "weights"
        )
        raise FailedPrecondition(Reason.NON_FINITE_RESULT, text, metadata={"row": str(row)})
