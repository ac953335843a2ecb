"""The attack's route for models that are no linear head: trained again by their recipe.

Every fit goes on from the registered weights by the whole recipe, with the same order of rows, and so does the baseline
that predictions before are of: what differs is what the perturbed rows did.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from undue_service.domain.methods import DENSE_PARAMETER_LIMIT
from undue_service.engine.damping import Damping
from undue_service.engine.data import Batch, Rows
from undue_service.engine.gradients import block_rows, each_block
from undue_service.engine.methods import Problem
from undue_service.engine.methods.gauss_newton import DenseGaussNewton
from undue_service.engine.methods.gauss_newton_cg import IterativeGaussNewton
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.queries import Asked
from undue_service.engine.retraining.training import Recipe, train_in_step

from .candidates import Candidates
from .double_backward import double_backward
from .replaced_rows import ReplacedRows
from .route import Targets

_MOST_DENSE = 2000
"""Parameters up to which the Gauss–Newton matrix is written down."""


class RecipeRoute:
    """See Route."""

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        test: Rows,
        targets: Targets,
        name: str,
        free: Tensor,
        recipe: Recipe,
        *,
        damping: float | None = None,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind a model to its data; arguments as of `HeadRoute`."""
        self._objective, self._train, self._test, self._targets = objective, train, test, targets
        self._name, self._free, self._recipe = name, free, recipe
        self._given, self._damping = damping, Damping(0.0, "unused")
        self._memory, self._progress = memory_bytes, progress
        self.products = 0
        self.distance = 0.0

    @property
    def damping(self) -> Damping:
        """Return λ of the last solve."""
        return self._damping

    def baseline(self) -> Tensor:
        """See Route."""
        theta = self._trained(self._train)
        self.resume(theta)
        return theta

    def resume(self, theta: Tensor) -> None:
        """Go on with the baseline (P,) that was found before."""
        self.distance = float((theta - self._objective.theta).norm())

    def rank(self, theta: Tensor, shares: Tensor) -> Tensor:
        """See Route."""
        K = shares.shape[1]
        scores = torch.zeros(K, len(self._train), dtype=torch.float64)
        moved = self._moved(theta)
        for k in range(K):
            s = self._solved(moved, self._train, shares[:, k])
            size = block_rows(self._objective, self._memory // 4, self._graph)

            def found(batch: Batch, s: Tensor = s) -> Tensor:
                return self._size(double_backward(self._objective, theta, batch, self._name, s), batch.weights)

            for batch, sizes in each_block(self._objective, self._train, size, found):
                scores[k, batch.index] = sizes
                self._progress("ranking", k * len(self._train) + int(batch.index[-1]) + 1, scores.numel())
        return scores

    def fit(self, candidates: Candidates, at: Tensor, inputs: Tensor, start: Tensor, *, back: bool) -> Tensor:  # noqa: ARG002
        """See Route: from the registered weights, whatever `start` is.

        Raises:
            FailedPrecondition: NON_FINITE_RESULT.
        """
        return torch.stack([self._trained(self._rows(candidates, k, x)) for k, x in zip(at, inputs, strict=True)])

    def influence(
        self, candidates: Candidates, batch: Tensor, inputs: Tensor, at: Tensor, thetas: Tensor, shares: Tensor
    ) -> Tensor:
        """See Route.

        Raises:
            InvalidArgument: INPUT_NOT_DIFFERENTIABLE.
            FailedPrecondition: what solving raises.
        """
        place = {k: a for a, k in enumerate(batch.tolist())}
        found = []
        for a, (k, theta) in enumerate(zip(at, thetas, strict=True)):
            own = inputs[place[int(k)]]
            s = self._solved(self._moved(theta), self._rows(candidates, k, own), shares[:, a])
            rows = candidates.batch(k[None], own[None])
            found.append(double_backward(self._objective, theta, rows, self._name, s))
        return torch.stack(found)

    def measure(self, thetas: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """See Route."""
        costs, wrong, first = 0.0, [], 0
        size = block_rows(self._objective, self._memory // 4)
        for raw in self._test.batches(size, self._targets.rows.tolist()):
            batch = self._objective.explained(self._objective.place(raw))
            here = slice(first, first + len(batch.index))
            first = here.stop
            f = [self._objective.outputs(theta, batch.inputs) for theta in thetas]
            losses = torch.stack([self._objective.loss.losses(one, batch.targets) for one in f], dim=1)
            costs = costs + (losses.to("cpu", torch.float64) * shares[here]).sum(dim=0)
            labels = torch.stack([self._objective.loss.predictions(one) for one in f], dim=1)
            wrong.append((labels != batch.targets[:, None]).cpu())
        return costs.detach(), torch.cat(wrong)

    @property
    def _graph(self) -> int:
        """Return how many numbers the double backward pass of one row keeps, about."""
        objective = self._objective
        return 8 * objective.program.graph.row_numel(objective.space.names, (self._name,))

    def _trained(self, rows: Rows) -> Tensor:
        """Return where training ends, (P,)."""
        kept = torch.ones(1, len(rows), dtype=torch.bool)
        return train_in_step(
            self._objective,
            rows,
            self._recipe,
            kept,
            start=self._objective.theta,
            seeds=[self._recipe.spec.seed],
            memory_bytes=self._memory // 2,
            progress=self._progress,
        )[0]

    def _rows(self, candidates: Candidates, k: Tensor, inputs: Tensor) -> ReplacedRows:
        return ReplacedRows(self._train, self._name, candidates.rows[k], inputs)

    def _moved(self, theta: Tensor) -> Objective:
        """Return the objective at other weights."""
        program = self._objective.program
        weights: Mapping[str, Tensor] = {
            **program.constants,
            **program.parameters,
            **self._objective.space.unflatten(theta),
        }
        return self._objective.at(weights)

    def _solved(self, objective: Objective, rows: Rows, shares: Tensor) -> Tensor:
        """Return s_T = (G + λI)⁻¹ ∇m_T, (P,), of targets of these shares (U,)."""
        aimed = self._targets.rows[shares > 0].tolist()
        problem = Problem(objective, rows, self._given, memory_bytes=self._memory // 2, progress=self._progress)
        P = objective.space.dim
        method = DenseGaussNewton() if min(_MOST_DENSE, DENSE_PARAMETER_LIMIT) >= P else IterativeGaussNewton()
        factors = method.fit(problem)
        self._damping = factors.damping
        asked = Asked(self._test, aimed, "loss", mean=True, memory_bytes=self._memory // 4, explaining=self._objective)
        columns = method.query(factors, problem, asked)
        self.products += columns.effort.matvecs
        return columns.values[:, 0]

    def _size(self, found: Tensor, weights: Tensor | None) -> Tensor:
        sizes = torch.where(self._free, found, 0).flatten(1).abs().sum(dim=1).to("cpu", torch.float64)
        return sizes if weights is None else sizes * weights.to("cpu", torch.float64)
