"""The attack's route for linear heads: what lies below is frozen, and heads are fitted to their minima.

A head moves a little at each step, so Newton's steps and the solves with H_k are by conjugate gradients, preconditioned
by the Hessian of the unperturbed objective, which is factorised once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.engine.curvature import Hessian
from undue_service.engine.damping import Damping, resolve_damping
from undue_service.engine.data import Rows
from undue_service.engine.gradients import training_batches
from undue_service.engine.heads.block import HeadBlock, repeated
from undue_service.engine.heads.coefficients import coefficients_of, thetas_of
from undue_service.engine.heads.conjugate_gradients import Preconditioner, conjugate_gradients, norm
from undue_service.engine.heads.factorised import factorised
from undue_service.engine.heads.limits import check_size
from undue_service.engine.heads.minima import Minima
from undue_service.engine.heads.newton import Newton
from undue_service.engine.heads.objectives import HeadObjectives
from undue_service.engine.heads.rows import HeadRows
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .candidates import Candidates
from .head_pass import HeadPass
from .perturbed_rows import Moved, PerturbedRows
from .route import Targets

TOLERANCE = 1e-8
"""‖∇R‖ of every fit."""
_RESIDUAL = 1e-8
_MOST_PRODUCTS = 1000
_BACK = 2
"""Numbers that a pass and its way back take for each that its graph keeps."""
_NONE = torch.empty(0)


class HeadRoute:
    """See Route. θ is the head's, in float64; everything below it runs in the registered precision."""

    def __init__(
        self,
        objective: Objective,
        train: Rows,
        test: Rows,
        targets: Targets,
        name: str,
        free: Tensor,
        *,
        damping: float | None = None,
        prefilter: int | None = None,
        memory_bytes: int = 2**30,
        progress: Progress = silent,
    ) -> None:
        """Bind a head to its data; nothing is computed yet.

        Args:
            objective: has a linear head.
            train: the n training rows.
            test: holds the targets.
            targets: what is aimed at.
            name: of the input that moves.
            free: which of its values may, bool of a row's shape.
            damping: λ.
            prefilter: how many rows are ranked exactly.
            memory_bytes: budget: a quarter each for kept features, passes, and linearisations.
            progress: told between blocks.

        Raises:
            FailedPrecondition: TOO_MANY_PARAMETERS.
        """
        check_size(objective, "the attack")
        self._objective, self._train, self._targets = objective, train, targets
        self._name, self._free, self._prefilter = name, free, prefilter
        self._memory, self._progress = memory_bytes, progress
        self._head = objective.head
        self._l2 = objective.spec.l2 * self._coefficients(objective.l2_mask.to(torch.float64))[:, 0]
        eighth = memory_bytes // 8
        self._rows = HeadRows(objective, train, dtype=torch.float64, memory_bytes=eighth, progress=progress)
        rows = targets.rows.tolist()
        self._aims = HeadRows(objective, test, rows, explained=True, dtype=torch.float64, memory_bytes=eighth // 2)
        self._whole = self._objectives(None)
        self._newton = Newton(TOLERANCE)
        self._given, self._damping = damping, Damping(0.0, "unused")
        self._factor: Preconditioner | None = None
        self._solver: Preconditioner | None = None
        self._inputs, self._pass = _NONE, None
        kept = self._head.graph.row_numel((), (name,)) * objective.theta.element_size()
        self._row_bytes = max(1, _BACK * kept)
        self.products = 0
        self.distance = 0.0

    @property
    def damping(self) -> Damping:
        """Return λ, once the baseline is fitted."""
        return self._damping

    def baseline(self) -> Tensor:
        """See Route.

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED, NON_FINITE_RESULT.
        """
        start = self._coefficients(self._objective.theta.to(torch.float64))
        found = self._newton.minimise(self._whole, start, lambda at: factorised(self._whole, at[:, 0]))
        self._checked(found, ["the fit on the unperturbed rows"])
        (theta,) = thetas_of(self._head, found.coefficients)
        self.resume(theta)
        return theta

    def resume(self, theta: Tensor) -> None:
        """Go on with θ̂* (P,): factorise the curvature there, by which every fit and solve is preconditioned.

        Raises:
            InvalidArgument: INVALID_FIELD for a damping that cannot be.
            FailedPrecondition: HESSIAN_NOT_POSITIVE_DEFINITE, NON_FINITE_RESULT.
        """
        fitted = Hessian(self._objective, self._train, memory_bytes=self._memory // 4)
        self._damping = resolve_damping(self._given, self._objective, fitted.mean_eigenvalue)
        self.distance = float((theta - self._objective.theta.to(torch.float64)).norm())
        at = self._coefficients(theta)[:, 0]
        self._factor = factorised(self._whole, at)
        self._solver = factorised(self._whole, at, self._damping.value) if self._damping.value else self._factor

    def rank(self, theta: Tensor, shares: Tensor) -> Tensor:
        """See Route; −1 for a row that the prefilter leaves out."""
        K, n = shares.shape[1], len(self._train)
        own = self._coefficients(theta)
        S = self._solved(self._whole, own.expand(-1, K, -1), torch.zeros(K, dtype=torch.int64), shares)
        scores = torch.full((K, n), -1.0, dtype=torch.float64)
        if self._prefilter is None or self._prefilter >= n:
            size = self._pass_rows(n)
            for batch in training_batches(self._objective, self._train, size):
                live = HeadPass(self._objective, batch, self._name, size, keep=True)
                for k, found in enumerate(live.each(own, [S[:, k : k + 1] for k in range(K)])):
                    scores[k, batch.index] = self._size(found, batch.weights)
                self._progress("ranking", int(batch.index[-1]) + 1, n)
            return scores
        rough = torch.cat([self._reach(block, own, S) for block in self._rows.blocks()], dim=0)
        kept = torch.topk(rough, self._prefilter, dim=0).indices.T
        rows, heads = kept.reshape(-1), torch.arange(K).repeat_interleave(self._prefilter)
        size = self._pass_rows(len(rows))
        for first in range(0, len(rows), size):
            here = slice(first, first + size)
            (batch,) = training_batches(self._objective, self._train, size, rows[here].tolist())
            live = HeadPass(self._objective, batch, self._name, size, keep=True)
            found = live.influence(own.expand(-1, K, -1), S, heads[here])
            scores[heads[here], rows[here]] = self._size(found, batch.weights)
            self._progress("ranking", min(first + size, len(rows)), len(rows))
        return scores

    def fit(self, candidates: Candidates, at: Tensor, inputs: Tensor, start: Tensor, *, back: bool) -> Tensor:
        """See Route.

        Raises:
            FailedPrecondition: SOLVER_NOT_CONVERGED.
        """
        self._place(candidates, at, inputs, back)
        objectives = self._objectives(self._moved(candidates, at))
        found = self._newton.minimise(objectives, self._coefficients(start), lambda _: self._factor)
        self._checked(found, [f"attack {k}" for k in at.tolist()])
        return thetas_of(self._head, found.coefficients)

    def influence(
        self, candidates: Candidates, batch: Tensor, inputs: Tensor, at: Tensor, thetas: Tensor, shares: Tensor
    ) -> Tensor:
        """See Route.

        Raises:
            InvalidArgument: INPUT_NOT_DIFFERENTIABLE.
            FailedPrecondition: SOLVER_NOT_CONVERGED.
        """
        self._place(candidates, batch, inputs, back=True)
        places = torch.full((int(batch.max()) + 1,), -1)
        places[batch] = torch.arange(len(batch))
        own = places[at]
        objectives = self._objectives(self._moved(candidates, batch).of(own))
        theta = self._coefficients(thetas)
        S = self._solved(objectives, theta, torch.arange(len(at)), shares)
        heads = torch.full((len(batch),), -1)
        heads[own] = torch.arange(len(at))
        M = candidates.rows.shape[1]
        found = self._pass.influence(theta, S, heads.repeat_interleave(M))
        self._inputs, self._pass = _NONE, None  # its graph is spent
        return found.view(len(batch), M, *found.shape[1:])[own]

    def measure(self, thetas: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """See Route."""
        theta, costs, wrong = self._coefficients(thetas), 0.0, []
        for block, f, losses, here in self._aimed(theta):
            costs = costs + (losses * shares[here].to(losses.device)).sum(dim=0)
            labels = self._objective.loss.predictions(f.flatten(0, 1)).view(losses.shape)
            wrong.append(labels != block.targets[:, None])
        return costs.detach(), torch.cat(wrong)

    def cold(self, candidates: Candidates, at: Tensor, inputs: Tensor, theta: Tensor) -> Tensor:
        """Return θ_k (A, P) likewise, from zero; the curvature is factorised anew at each step."""
        self._place(candidates, at, inputs, back=False)
        objectives = self._objectives(self._moved(candidates, at))
        start = self._coefficients(torch.zeros_like(theta).expand(len(at), -1))
        found = self._newton.minimise(objectives, start, lambda where: factorised(self._whole, where.mean(dim=1)))
        self._checked(found, [f"the confirmation of attack {k}" for k in at.tolist()])
        return thetas_of(self._head, found.coefficients)

    def _place(self, candidates: Candidates, at: Tensor, inputs: Tensor, back: bool) -> None:
        """Run the model on the rows, unless it just did."""
        if inputs is self._inputs and self._pass is not None:
            return
        self._pass, self._inputs = None, inputs
        rows = inputs.shape[0] * inputs.shape[1]
        keep = back and rows * self._row_bytes <= self._memory // 4
        batch = candidates.batch(at, inputs)
        self._pass = HeadPass(self._objective, batch, self._name, self._pass_rows(rows), keep=keep)

    def _moved(self, candidates: Candidates, at: Tensor) -> Moved:
        A, M = len(at), candidates.rows.shape[1]
        features, offsets = self._pass.seen()
        return Moved(
            candidates.rows[at],
            features.view(A, M, -1),
            offsets.view(A, M, -1),
            candidates.targets[at],
            candidates.weights[at],
        )

    def _objectives(self, moved: Moved | None) -> HeadObjectives:
        rows = PerturbedRows(self._rows, moved)
        return HeadObjectives(self._objective.loss, self._l2, rows, memory_bytes=self._memory // 4)

    def _solved(self, objectives: HeadObjectives, theta: Tensor, at: Tensor, shares: Tensor) -> Tensor:
        """Return s_T = (H_k + λI)⁻¹ ∇m_T of the heads Θ_k, (d, A, C)."""
        right = torch.zeros_like(theta)
        for block, f, losses, here in self._aimed(theta):
            (r,) = torch.autograd.grad((losses * shares[here].to(losses.device)).sum(), f)
            right += block.gather(r)
        curved, damping, goals = objectives.curvature(theta, at), self._damping.value, _RESIDUAL * norm(right)
        found, left, products = conjugate_gradients(
            lambda V: curved(V) + damping * V, right, self._solver, goals, _MOST_PRODUCTS
        )
        self.products += products
        if bool((left > goals).any()):
            worst = float((left / norm(right).clamp(min=1e-300)).max())
            text = (
                f"s_T was not found within {products} products with the Hessian (relative residual {worst:.2g}); "
                "pass a damping > 0, or register the model with a larger l2"
            )
            raise FailedPrecondition(Reason.SOLVER_NOT_CONVERGED, text, metadata={"residual": f"{worst:.6g}"})
        return found

    def _aimed(self, theta: Tensor) -> Iterator[tuple[HeadBlock, Tensor, Tensor, slice]]:
        """Yield the targets with f (B, A, C), ℓ (B, A) and their places."""
        first = 0
        for block in self._aims.blocks():
            with torch.enable_grad():
                f = block.outputs(theta).requires_grad_()
                losses = self._objective.loss.losses(f.flatten(0, 1), repeated(block.targets, f.shape[1]))
            yield block, f, losses.view(f.shape[:2]), slice(first, first + len(f))
            first += len(f)

    def _reach(self, block: HeadBlock, theta: Tensor, S: Tensor) -> Tensor:
        """Return w_i times the norm of the gradient of s · ∇_θ ℓ_i in the features, (B, K).

        It is S r + Θ Σ q with q = x̃ S, so that its square is a form of size 2C in (r, Σ q).
        """
        loss, K = self._objective.loss, S.shape[1]
        f = block.outputs(theta)[:, 0].requires_grad_()
        with torch.enable_grad():
            (r,) = torch.autograd.grad(loss.losses(f, block.targets).sum(), f)
        f = f.detach()
        curved = torch.einsum("bce,bke->bkc", loss.curvature(f, block.targets), block.project(S))
        z = torch.cat([r[:, None].expand(-1, K, -1), curved], dim=2)
        wide = slice(0, self._head.features - self._head.has_bias)
        both = torch.cat([S[wide].transpose(0, 1), theta[wide].expand(-1, K, -1).transpose(0, 1)], dim=2)  # (K, d, 2C)
        gram = both.transpose(1, 2) @ both
        squares = torch.einsum("bki,kij,bkj->bk", z, gram, z).clamp(min=0)
        own = squares.sqrt()
        return own if block.weights is None else own * block.weights[:, None]

    def _size(self, found: Tensor, weights: Tensor | None) -> Tensor:
        sizes = torch.where(self._free, found, 0).flatten(1).abs().sum(dim=1).to("cpu", torch.float64)
        return sizes if weights is None else sizes * weights.to("cpu", torch.float64)

    def _pass_rows(self, rows: int) -> int:
        return max(1, min(rows, self._memory // 4 // self._row_bytes))

    def _coefficients(self, thetas: Tensor) -> Tensor:
        """Return θ (A, P) or (P,) as Θ (d, A, C)."""
        return coefficients_of(self._head, thetas if thetas.dim() == 2 else thetas[None])

    def _checked(self, found: Minima, names: list[str]) -> None:
        self.products += found.products
        found.check(TOLERANCE, lambda k: names[k])
