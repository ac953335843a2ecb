"""Training by a recipe, of several copies of the selected parameters in step.

A copy k descends, step by step, (1/B) Σ_{i ∈ batch, kept} w_i ℓ_i + l2/2 ‖mask ∘ θ‖² with `torch.optim`'s SGD or Adam,
whose weight decay is this L2 term. An optimiser works on each number by itself, so one over stacked parameters (K, …)
is K optimisers; the copies' gradients come from one vectorised forward and one backward pass.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.specs import TrainingSpec
from undue_service.engine.data import Rows
from undue_service.engine.gradients import is_out_of_memory
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent

from .copy_edits import CopyBatch, CopyEdits, EditedRows
from .held_rows import HeldRows, row_blocks

Divisor = Literal["kept_n", "subset"]
"""What a row that is left out does to the rows that stay. "kept_n": its loss is masked, and its batch is divided by as
many rows as before: removal, as `docs/scores.md` has it. "subset": a copy shuffles its own rows alone and divides by
their number, as if it had been trained on nothing else."""

STAGE = "retraining"

_NUMBERS_AT_ONCE = 8_000_000
"""Of one group of copies: larger ones leave the caches, smaller ones are many small calls."""
_STATES = 6
"""Numbers that a parameter takes: itself, its gradient, two moments, and what passes between."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained again."""

    spec: TrainingSpec
    init: Mapping[str, Tensor] | None = None
    """Weights by name from which a cold start begins, where the recipe names a file of them."""


def train_in_step(
    objective: Objective,
    train: Rows,
    recipe: Recipe,
    kept: Tensor,
    *,
    start: Tensor,
    seeds: Sequence[int],
    edits: CopyEdits | None = None,
    divisor: Divisor = "kept_n",
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> Tensor:
    """Train K copies of the selected parameters, each on some of the rows, and return where they end, (K, P).

    An epoch visits the rows in the order `torch.randperm` draws from a generator that starts at the copy's seed, in
    batches of `batch_size` with a smaller last one. Which copies are trained together changes nothing but the time; a
    group for which memory runs out is trained again in halves.

    Args:
        objective: whose dtype is that of the training.
        train: the n rows.
        recipe: optimiser, schedule, epochs and batches; its own seed is not used.
        kept: (K, n) bool, the rows that each copy is trained on.
        start: where they begin, (P,) for all or (K, P).
        seeds: of each copy's order of rows, K of them. Copies of one seed see the same batches.
        edits: what each sees differently of the rows that it keeps, in their places; None is nothing.
        divisor: see `Divisor`.
        memory_bytes: budget of the rows that are held and of intermediate values.
        progress: told after each step, in steps of copies.

    Raises:
        InvalidArgument: INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING.
        FailedPrecondition: NON_FINITE_RESULT where a copy diverged.
    """
    K, n = kept.shape
    held = HeldRows(objective, train, memory_bytes=memory_bytes // 4)
    plan = _Plan(objective, _batch_size(recipe.spec, n), memory_bytes // 2)
    edits = edits or CopyEdits()
    starts = start.expand(K, -1)
    ends = torch.empty_like(starts, memory_format=torch.contiguous_format)
    lengths = kept.sum(dim=1).tolist() if divisor == "subset" else [n] * K
    # Copies in step take equally many steps; those that keep 1/n share their batches, too.
    alike: dict[int, list[int]] = {}
    for k in range(K):
        alike.setdefault(seeds[k] if divisor == "kept_n" else lengths[k], []).append(k)
    waiting = [some[at : at + plan.copies] for some in alike.values() for at in range(0, len(some), plan.copies)]
    total = sum(len(group) * _steps(recipe.spec, lengths[group[0]]) for group in waiting)
    rows, done = plan.rows, 0
    while waiting:
        group = waiting.pop(0)
        steps = _steps(recipe.spec, lengths[group[0]])
        try:
            seen = EditedRows(held, edits.among(group), len(group))
            copies = _Copies(objective, seen, recipe.spec, starts[group], rows)
            batches = _batches(recipe.spec, kept[group], [seeds[k] for k in group], divisor)
            for step, (index, counts) in enumerate(batches):
                copies.step(index, counts, recipe.spec.lr * _factor(recipe.spec, step / steps))
                progress(STAGE, done + len(group) * (step + 1), total)
            ends[group] = copies.theta()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(group) == rows == 1:
                raise
            half = (len(group) + 1) // 2
            rows = rows if len(group) > 1 else (rows + 1) // 2
            waiting[:0] = [some for some in (group[:half], group[half:]) if some]
            continue
        done += len(group) * steps
    _check_finite(ends, recipe.spec)
    return ends


def gradient_norms(
    objective: Objective,
    train: Rows,
    thetas: Tensor,
    kept: Tensor,
    *,
    edits: CopyEdits | None = None,
    divisor: Divisor = "kept_n",
    memory_bytes: int = 2**30,
) -> Tensor:
    """Return ‖∇R_k(θ_k)‖ of the objectives over the kept rows, (K,): how far from a minimum training has ended."""
    held = HeldRows(objective, train, memory_bytes=memory_bytes // 4)
    plan = _Plan(objective, len(train), memory_bytes // 2)
    rows = kept.sum(dim=1) if divisor == "subset" else torch.full((len(kept),), len(train))
    edits = edits or CopyEdits()
    norms = []
    for at in range(0, len(thetas), plan.copies):
        some = slice(at, at + plan.copies)
        parameters = _stacked(objective, thetas[some])
        copies = range(len(thetas))[some]
        seen = EditedRows(held, edits.among(copies), len(copies))
        gradients = [torch.zeros_like(parameter) for parameter in parameters.values()]
        for index in row_blocks(held, plan.rows):
            shares = kept[some][:, index].to(torch.float64) / rows[some, None]
            _accumulate(objective, parameters, seen.take(index), shares, gradients)
        flat = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1) + objective.l2 * thetas[some]
        norms.append(torch.linalg.vector_norm(flat, dim=1))
    return torch.cat(norms)


class _Plan:
    """How many copies are trained together, and how many rows of a batch pass through them at once."""

    def __init__(self, objective: Objective, batch: int, memory_bytes: int) -> None:
        most = min(_NUMBERS_AT_ONCE, memory_bytes // objective.theta.element_size())
        # A row is its input and what the graph makes of it, and that again on the way back.
        row = 4 * objective.row_numel
        row += sum(abs(math.prod(spec.shape)) for spec in objective.program.inputs)
        self.rows = max(1, min(batch, most // row))
        self.copies = max(1, most // (_STATES * objective.space.dim + self.rows * row))


class _Copies:
    """K copies of the selected parameters, and the optimiser over them."""

    def __init__(self, objective: Objective, seen: EditedRows, spec: TrainingSpec, start: Tensor, rows: int) -> None:
        self._objective = objective
        self._seen = seen
        self._rows = rows
        self._parameters = _stacked(objective, start)
        covered = {one.name for one in objective.parameters if one.l2}
        groups = [
            {
                "params": [tensor for name, tensor in self._parameters.items() if (name in covered) is decays],
                "weight_decay": objective.spec.l2 if decays else 0.0,
            }
            for decays in (True, False)
        ]
        groups = [group for group in groups if group["params"]]
        self._optimizer: torch.optim.Optimizer
        if spec.optimizer == "adam":
            self._optimizer = torch.optim.Adam(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)
        else:
            self._optimizer = torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, fused=True)

    def step(self, index: Tensor, shares: Tensor, lr: float) -> None:
        """Take a step on the rows `index`, (B,) for all copies or (K, B), with (1/B, or 0 if left out) each (K, B)."""
        gradients = [torch.zeros_like(parameter) for parameter in self._parameters.values()]
        for part, share in zip(index.split(self._rows, -1), shares.split(self._rows, -1), strict=True):
            _accumulate(self._objective, self._parameters, self._seen.take(part), share, gradients)
        for parameter, gradient in zip(self._parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def theta(self) -> Tensor:
        """Return θ of each copy, (K, P)."""
        return torch.cat([parameter.flatten(1) for parameter in self._parameters.values()], dim=1)


def _stacked(objective: Objective, thetas: Tensor) -> dict[str, Tensor]:
    """Return the parameters of K copies by name, (K, …) each, of θ (K, P)."""
    space = objective.space
    return {
        name: thetas[:, space.slice(name)].reshape(len(thetas), *space.shapes[name]).clone() for name in space.names
    }


def _accumulate(
    objective: Objective, parameters: Mapping[str, Tensor], batch: CopyBatch, shares: Tensor, gradients: list[Tensor]
) -> None:
    """Add ∇ Σ_i share_ki w_i ℓ_i of K copies."""
    shares = shares.to(objective.theta)
    shares = shares if batch.weights is None else shares * batch.weights
    own_inputs, own_targets = (0 if own else None for own in (batch.own_inputs, batch.own_targets))

    def cost(values: Mapping[str, Tensor], inputs: Mapping[str, Tensor], targets: Tensor, share: Tensor) -> Tensor:
        f = objective.program.forward(values, inputs)
        return objective.loss.losses(f.reshape(f.shape[0], objective.outputs_per_row), targets) @ share

    # Reverse mode outside of vmap: its inner products become batched ones without a level of wrappers on the way back.
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
        costs = vmap(cost, in_dims=(0, own_inputs, own_targets, 0))(leaves, dict(batch.inputs), batch.targets, shares)
        found = torch.autograd.grad(costs.sum(), list(leaves.values()), allow_unused=True)
    for gradient, more in zip(gradients, found, strict=True):
        if more is not None:
            gradient += more


def _batches(
    spec: TrainingSpec, kept: Tensor, seeds: Sequence[int], divisor: Divisor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of each step, (B,) for all copies or (K, B), with 1/B, or 0 for a row left out, (K, B)."""
    generators = {seed: torch.Generator().manual_seed(seed) for seed in seeds}
    own = [keeps.nonzero()[:, 0] for keeps in kept] if divisor == "subset" else []
    length = len(own[0]) if own else kept.shape[1]
    size = _batch_size(spec, length)
    for _ in range(spec.epochs):
        orders = {seed: torch.randperm(length, generator=generator) for seed, generator in generators.items()}
        for at in range(0, length, size):
            some = {seed: order[at : at + size] for seed, order in orders.items()}
            if own:
                index = torch.stack([rows[some[seed]] for rows, seed in zip(own, seeds, strict=True)])
                yield index, torch.full(index.shape, 1 / index.shape[1], dtype=torch.float64)
            else:
                index = some[seeds[0]]
                yield index, kept[:, index].to(torch.float64) / len(index)


def _batch_size(spec: TrainingSpec, length: int) -> int:
    return max(1, min(spec.batch_size or length, length))


def _steps(spec: TrainingSpec, length: int) -> int:
    return spec.epochs * math.ceil(length / _batch_size(spec, length))


def _factor(spec: TrainingSpec, elapsed: float) -> float:
    """Return what the schedule makes of the learning rate after a share of all steps."""
    if spec.schedule == "linear":
        return 1 - elapsed
    if spec.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * elapsed))
    return 1.0


def _check_finite(ends: Tensor, spec: TrainingSpec) -> None:
    bad = ~torch.isfinite(ends).all(dim=1)
    if bool(bad.any()):
        k = int(bad.nonzero()[0, 0])
        text = (
            f"retraining by the registered recipe diverged: weights are not finite after {spec.epochs} epochs of "
            f"{spec.optimizer} with lr {spec.lr:g}; register the recipe that the model was trained by, or a smaller lr"
        )
        raise FailedPrecondition(Reason.NON_FINITE_RESULT, text, metadata={"copy": str(k)})
