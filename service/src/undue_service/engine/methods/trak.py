"""`trak`: attribution in a linear model of projected gradients (Park et al. 2023, equation 17)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.methods import METHODS
from undue_service.engine.damping import UNUSED
from undue_service.engine.data import Batch
from undue_service.engine.gradients import FactoredGradients, block_rows, each_block, output_gradients
from undue_service.engine.measurements import measure
from undue_service.engine.objective import Objective
from undue_service.engine.projection import Projection
from undue_service.engine.queries import Asked
from undue_service.engine.solvers import Effort
from undue_service.engine.solvers.refusals import refuse_not_finite

from .base import Factors, Problem, Queries, ScoreBlock, SelfScores, check_settings

DEFAULT_RANK = 512
"""k, where the caller names none. LDS on digits, 512, 1024, 2048: MLP .469, .463, .441; CNN .263, .237, .221."""
RIDGE = 0.1
"""Of the mean eigenvalue of ΦᵀΦ, on its diagonal. LDS of the MLP on digits, k = 512: .26 without, .37 at .01, .46 at
.1, .42 at 1."""


@dataclass(frozen=True)
class Features:
    """Training rows as rows of a linear model: one output function each, or one for each output of a regression."""

    phi: Tensor
    """Rᵀ∇f, (B, F, k)."""
    pull: Tensor
    """∂ℓ/∂f, (B, F): minus the paper's 1 − p, as f is minus a cost."""


@dataclass(frozen=True)
class Linearised:
    """The model at one checkpoint, as a linear model."""

    objective: Objective
    projection: Projection
    factor: Tensor
    """Cholesky factor of ΦᵀΦ, (k, k) float64."""
    kept: Features | None
    """Of all training rows, where they fit into memory."""


@dataclass(frozen=True)
class TrakFactors(Factors):
    """The linear models."""

    models: tuple[Linearised, ...]


@dataclass(frozen=True)
class TrakQueries(Queries):
    """The test rows."""

    solved: tuple[Tensor, ...]
    """(ΦᵀΦ)⁻¹ Rᵀ∇m_t in each linear model, (k, m)."""


class Trak:
    """score(i, t) = w_i Σ_f mean_c[φ_tᵀ (ΦᵀΦ)⁻¹ φ_if] · mean_c[∂ℓ_i/∂f], over the checkpoints c, φ = Rᵀ∇ with signs R.

    f is the margin's cost −log(p_y/(1 − p_y)) of a classification, so that ∂ℓ/∂f is 1 − p_y, and each output of a
    regression; φ_t = Rᵀ∇m_t, of the margin for the paper's scores. ΦᵀΦ is weighted as the rows are. Without
    checkpoints it is the registered weights alone. Scores are not made sparse. A tenth of ΦᵀΦ's mean eigenvalue is
    added to its diagonal, of which the paper says nothing.
    """

    spec = METHODS["trak"]
    query_columns = 0

    def fit(self, problem: Problem) -> TrakFactors:
        """Project every training row, at every checkpoint.

        Raises:
            InvalidArgument: INVALID_FIELD, LEVERAGE_UNAVAILABLE, WEIGHTS_MISMATCH.
            FailedPrecondition: NON_FINITE_RESULT; HESSIAN_SINGULAR where no row has a gradient.
        """
        check_settings(problem, self.spec)
        at = [problem.objective.at(one.parameters) for one in problem.checkpoints] or [problem.objective]
        rank = problem.rank or DEFAULT_RANK
        models = []
        for number, objective in enumerate(at):
            projection = Projection(objective.taps.blocks, rank, problem.seed + number)
            models.append(_linearised(problem, objective, projection, len(at)))
        return TrakFactors(UNUSED, leverage_correction=False, solver="", solver_status="", models=tuple(models))

    def query(self, factors: TrakFactors, problem: Problem, asked: Asked) -> TrakQueries:  # noqa: ARG002
        """Project the test rows and solve for them."""
        solved = []
        for model in factors.models:
            phi = model.projection(asked.gradients(model.objective))
            solved.append(torch.cholesky_solve(phi.T.double(), model.factor).to(phi.dtype))
        return TrakQueries(Effort(), tuple(solved))

    def score(self, factors: TrakFactors, queries: TrakQueries, problem: Problem) -> Iterator[ScoreBlock]:
        """See Method."""

        def scores(found: list[Features], batch: Batch) -> Tensor:
            terms = sum(one.phi @ solved for one, solved in zip(found, queries.solved, strict=True)) / len(found)
            return _weighted((terms * _mean_pull(found)[:, :, None]).sum(dim=1), batch).T

        yield from _each(factors, problem, scores, 3 * queries.solved[0].shape[1] * problem.objective.outputs_per_row)

    def self_score(self, factors: TrakFactors, problem: Problem) -> SelfScores:
        """Yield w_i Σ_f mean_c[φ_iᵀ (ΦᵀΦ)⁻¹ φ_if] · mean_c[∂ℓ_i/∂f] with φ_i = Rᵀ∇ℓ_i."""

        def scores(found: list[Features], batch: Batch) -> Tensor:
            terms = 0.0
            for one, model in zip(found, factors.models, strict=True):
                own = (one.phi * one.pull[:, :, None]).sum(dim=1)
                solved = torch.cholesky_solve(own.T.double(), model.factor).to(own.dtype).T
                terms = terms + (one.phi @ solved[:, :, None])[:, :, 0] / len(found)
            return _weighted((terms * _mean_pull(found)).sum(dim=1, keepdim=True), batch)[:, 0]

        for block in _each(factors, problem, scores, 0):
            yield block, Effort()


def _linearised(problem: Problem, objective: Objective, projection: Projection, models: int) -> Linearised:
    n, k, F = len(problem.train), projection.features, _functions(objective)
    item = objective.theta.element_size()
    keeps = models * n * F * (k + 1) * item <= problem.memory_bytes // 4
    total = torch.zeros(k, k, dtype=torch.float64, device=objective.theta.device)
    parts, done = [], 0
    size = block_rows(objective, problem.memory_bytes // 4, F * (objective.taps.row_numel + 4 * k))

    def work(batch: Batch) -> tuple[Features, Tensor]:
        found = _features(objective, projection, batch)
        weighted = found.phi if batch.weights is None else found.phi * batch.weights[:, None, None]
        return found, found.phi.flatten(0, 1).T @ weighted.flatten(0, 1)

    for batch, (found, product) in each_block(objective, problem.train, size, work):
        total += product.double()
        if keeps:
            parts.append(found)
        done += len(batch.index)
        problem.progress("projection", done, n)
    if not bool(torch.isfinite(total).all()):
        refuse_not_finite("a projected gradient")
    mean = float(total.diagonal().mean())
    if not mean > 0:
        text = "no training row has a gradient: check the weights of the rows and the model that was registered"
        raise FailedPrecondition(Reason.HESSIAN_SINGULAR, text)
    total.diagonal().add_(RIDGE * mean)
    kept = Features(torch.cat([one.phi for one in parts]), torch.cat([one.pull for one in parts])) if keeps else None
    return Linearised(objective, projection, torch.linalg.cholesky(total), kept)


def _functions(objective: Objective) -> int:
    """Return F."""
    return 1 if objective.loss.explains_label else objective.outputs_per_row


def _features(objective: Objective, projection: Projection, batch: Batch) -> Features:
    loss, y = objective.loss, batch.targets
    capture = objective.taps.capture(batch.inputs)
    f = capture.outputs
    pull = output_gradients(f, lambda f: loss.losses(f, y))
    if loss.explains_label:
        margin = output_gradients(f, lambda f: measure("margin", loss, f, y))
        cotangents = [margin]
        # The loss is a function of the margin's cost: ∂ℓ/∂f of the outputs is ∂ℓ/∂(the cost) times the margin's.
        pull = ((pull * margin).sum(dim=1) / margin.square().sum(dim=1))[:, None]
    else:
        cotangents = list(torch.eye(f.shape[1], dtype=f.dtype, device=f.device)[:, None].expand(-1, len(f), -1))
    blocks = objective.taps.blocks
    phi = [projection(FactoredGradients(blocks, capture.parts(one))) for one in cotangents]
    return Features(torch.stack(phi, dim=1), pull)


def _mean_pull(found: list[Features]) -> Tensor:
    return torch.stack([one.pull for one in found]).mean(dim=0)


def _weighted(scores: Tensor, batch: Batch) -> Tensor:
    return scores if batch.weights is None else scores * batch.weights[:, None]


def _each(
    factors: TrakFactors, problem: Problem, scores: Callable[[list[Features], Batch], Tensor], numel: int
) -> Iterator[ScoreBlock]:
    objective, n = problem.objective, len(problem.train)
    k, F = factors.models[0].projection.features, _functions(objective)
    numel += F * (objective.taps.row_numel + 4 * k * len(factors.models))
    size = block_rows(objective, problem.memory_bytes // 4, numel)
    done = 0

    def work(batch: Batch) -> Tensor:
        return scores([_of(model, batch) for model in factors.models], batch)

    for batch, found in each_block(objective, problem.train, size, work):
        yield ScoreBlock(batch.index, found)
        done += len(batch.index)
        problem.progress("scores", done, n)


def _of(model: Linearised, batch: Batch) -> Features:
    if model.kept is None:
        return _features(model.objective, model.projection, batch)
    at = batch.index.to(model.kept.phi.device)
    return Features(model.kept.phi[at], model.kept.pull[at])
