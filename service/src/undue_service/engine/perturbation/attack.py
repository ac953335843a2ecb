"""The training-set attack: rows are moved along the sign of I_pert until predictions flip (Koh & Liang 2017, 5.2)."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from undue_service.domain.errors import FailedPrecondition, InvalidArgument, Reason, ResourceExhausted
from undue_service.domain.perturbation import AttackSettings
from undue_service.engine.data import Rows
from undue_service.engine.diagnostics import begin
from undue_service.engine.methods import Problem
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress, silent
from undue_service.engine.queries import asked_rows
from undue_service.engine.retraining.training import Recipe

from .candidates import Candidates
from .head_route import HeadRoute
from .reach import chosen_input, cut_off
from .recipe_route import RecipeRoute
from .region import Region, free_columns
from .result import AttackResult
from .route import Route, Targets
from .state import AttackState, Trajectories
from .summary import summarised

OnIteration = Callable[[AttackState], None]
Direction = Callable[[Tensor, Tensor, Tensor, Trajectories], Tensor]
"""(attacks (A,), the last batch (A',), its inputs, state) → where to move, (A, M, …)."""


def ignore(state: AttackState) -> None:
    """Do nothing."""


def attack(
    objective: Objective,
    train: Rows,
    test: Rows,
    targets: Sequence[Sequence[int]],
    settings: AttackSettings,
    *,
    recipe: Recipe | None = None,
    state: AttackState | None = None,
    on_iteration: OnIteration = ignore,
    memory_bytes: int = 2**30,
    progress: Progress = silent,
) -> AttackResult:
    """Move training rows until they flip the predictions of test rows, in K attacks that know nothing of each other.

    Each attack k starts with the rows of the largest w_i ‖I_pert(i, T_k)‖₁ at θ̂*, the fit on all rows, and repeats
    v ← μ v + I_pert / ‖I_pert‖₁, z̃ ← Π(z̃ + step · sign(v)) with the model fitted again and s_T found again at
    every step (μ = 0 in Koh & Liang; momentum by Dong et al. 2018); it ends when all of its targets have flipped,
    when no value can move any further, or when the iterations are spent. Of a linear head each fit is its minimum
    to ‖∇R‖ ≤ 1e-8; any other model is trained by its recipe from the registered weights.

    A flip is a target that θ̂* predicts as its label and the fit at the end does not; a target that is wrong already is
    not aimed at. With `settings.control` the same rows are moved by steps of the same length in one random direction.

    Args:
        objective: of a classification, in the model's registered precision: a linear head's algebra is in float64.
        train: the rows that may be moved.
        test: holds the targets; without labels the prediction itself is to be flipped.
        targets: test rows, a set for each attack.
        settings: see AttackSettings.
        recipe: how a model that is no linear head was trained.
        state: from which to go on; it is of the same arguments.
        on_iteration: told after every iteration, first of the attack and then of the control.
        memory_bytes: budget of what is kept of the rows, of passes and of linearisations.
        progress: called between blocks of rows, with ("attack" | "control", iterations, at most).

    Raises:
        InvalidArgument: INVALID_FIELD, ROW_OUT_OF_RANGE; INPUT_NOT_DIFFERENTIABLE where the input holds integers or the
            loss does not depend on it; INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING, MODEL_UNSUPPORTED;
            OBJECTIVE_MISMATCH for a regression.
        FailedPrecondition: RECIPE_MISSING; TOO_MANY_PARAMETERS, SOLVER_NOT_CONVERGED, NON_FINITE_RESULT, and what a
            solve with the curvature raises.
        ResourceExhausted: OUT_OF_MEMORY where the perturbed rows alone do not fit.
    """
    started = time.perf_counter()
    settings.check()
    sets = _checked_targets(objective, targets, len(test))
    _check_rows(settings, len(train))
    chosen = chosen_input(objective, settings.input)
    free = free_columns(chosen.shape, settings)
    _check_memory(len(sets), settings, free, objective, memory_bytes)
    aims = Targets.of(sets)
    route = _route(objective, train, test, aims, chosen.name, free, recipe, settings, memory_bytes, progress)
    diagnosis = begin(Problem(objective, train, memory_bytes=memory_bytes, progress=progress))
    run = Run(route, aims, settings, objective, train, chosen.name, on_iteration, progress)
    state = run.begun(state)
    state = run.attacked(state)
    state = run.controlled(state)
    return summarised(
        objective, test, sets, run, state, diagnosis, started, memory_bytes=memory_bytes, progress=progress
    )


class Run:
    """One attack and its control."""

    def __init__(
        self,
        route: HeadRoute | RecipeRoute,
        aims: Targets,
        settings: AttackSettings,
        objective: Objective,
        train: Rows,
        name: str,
        on_iteration: OnIteration,
        progress: Progress,
    ) -> None:
        self.route, self.aims, self.settings = route, aims, settings
        self._objective, self._train, self._name = objective, train, name
        self._on_iteration, self._progress = on_iteration, progress
        self._placed: tuple[Tensor, Tensor] | None = None

    def begun(self, state: AttackState | None) -> AttackState:
        """Return the state before the first iteration, or the one to go on from, and make what both need."""
        if state is None:
            baseline = self.route.baseline()
        else:
            baseline = state.baseline
            self.route.resume(baseline)
        whole = self.aims.shares(self.aims.places >= 0)
        _, wrong = self.route.measure(baseline[None], whole[:, :1])
        self.wrong_before = self.aims.of_each(wrong)
        self.attacked_targets = (self.aims.places >= 0) & ~self.wrong_before
        self.shares = self.aims.shares(self.attacked_targets)
        alive = self.attacked_targets.any(dim=1)
        rows = self._chosen(baseline, alive) if state is None else state.candidates
        self.candidates = Candidates.read(self._objective, self._train, rows, self._name)
        self.region = Region(self.candidates.originals, rows, self.settings)
        costs, _ = self.route.measure(baseline[None].expand(len(rows), -1), self.shares)
        self._start = Trajectories(
            iterations=torch.tensor(0),
            taken=torch.zeros(len(rows), dtype=torch.int64),
            running=alive,
            batch=alive.nonzero()[:, 0],
            inputs=self.candidates.originals,
            velocity=torch.zeros_like(self.candidates.originals),
            thetas=baseline[None].expand(len(rows), -1).clone(),
            wrong=self.wrong_before,
            costs=costs[None].to("cpu", torch.float64),
            flips=torch.zeros(1, dtype=torch.int64),
        )
        if state is not None:
            self.route.products = int(state.products)
            return state
        return AttackState(rows, baseline, torch.tensor(self.route.products), self._start, None)

    def attacked(self, state: AttackState) -> AttackState:
        """Return the state at the attack's end."""

        def along(at: Tensor, batch: Tensor, inputs: Tensor, now: Trajectories) -> Tensor:
            return self.route.influence(self.candidates, batch, inputs, at, now.thetas[at], self.shares[:, at])

        for moved in self._iterations("attack", state.attack, along, back=True):
            state = replace(state, attack=moved, products=torch.tensor(self.route.products))
            self._on_iteration(state)
        return state

    def controlled(self, state: AttackState) -> AttackState:
        """Return the state at the control's end."""
        if not self.settings.control:
            return state
        state = state if state.control is not None else replace(state, control=self._start)
        generator = torch.Generator().manual_seed(self.settings.seed)
        shape = self.candidates.originals.shape
        signs = torch.randint(2, shape, generator=generator, dtype=torch.int8)

        def at_random(at: Tensor, batch: Tensor, inputs: Tensor, now: Trajectories) -> Tensor:  # noqa: ARG001
            return (2 * signs[at] - 1).to(inputs)

        for moved in self._iterations("control", state.control, at_random, back=False):
            state = replace(state, control=moved, products=torch.tensor(self.route.products))
            self._on_iteration(state)
        return state

    def _iterations(self, stage: str, now: Trajectories, direction: Direction, *, back: bool) -> Iterator[Trajectories]:
        """Yield the state after each iteration."""
        most = self.settings.iterations
        placed = now.inputs[now.batch]
        while bool(now.running.any()) and int(now.iterations) < most:
            at = now.running.nonzero()[:, 0]
            before = now.inputs[at]
            towards = direction(at, now.batch, placed, now)
            velocity = self._velocity(now.velocity[at], towards)
            inputs = self.region.step(at, before, velocity)
            # Momentum may press against the bound for a while where the influence has turned already.
            still = (inputs == before) & (self.region.step(at, before, towards) == before)
            still = still.flatten(1).all(dim=1).cpu()
            running = now.running.clone()
            running[at[still]] = False
            goes = ~still.to(inputs.device)
            at, inputs, velocity = at[~still], inputs[goes], velocity[goes]
            if not len(at):
                yield replace(now, running=running)
                return
            thetas = self.route.fit(self.candidates, at, inputs, now.thetas[at], back=back)
            costs, wrong = self.route.measure(thetas, self.shares[:, at])
            now = self._moved(now, at, running, inputs, velocity, thetas, costs, wrong)
            placed = inputs
            self._progress(stage, int(now.iterations), most)
            yield now

    def _velocity(self, before: Tensor, direction: Tensor) -> Tensor:
        """Return μ v + g / ‖g‖₁ of the rows (A, M, …), g where the settings let values move."""
        g = torch.where(self.region.free, direction.to(before), 0)
        sizes = g.abs().flatten(2).sum(dim=2).view(*g.shape[:2], *[1] * (g.dim() - 2))
        return self.settings.momentum * before + torch.where(sizes > 0, g / sizes.where(sizes > 0, 1), 0)

    def _moved(
        self,
        now: Trajectories,
        at: Tensor,
        running: Tensor,
        inputs: Tensor,
        velocity: Tensor,
        thetas: Tensor,
        costs: Tensor,
        wrong: Tensor,
    ) -> Trajectories:
        all_wrong, all_inputs, all_thetas = now.wrong.clone(), now.inputs.clone(), now.thetas.clone()
        all_velocity = now.velocity.clone()
        all_wrong[at] = self.aims.at(at).of_each(wrong).cpu()
        all_inputs[at], all_velocity[at], all_thetas[at] = inputs, velocity, thetas
        latest = now.costs[-1].clone()
        latest[at] = costs.to("cpu", torch.float64)
        left = (self.attacked_targets & ~all_wrong).any(dim=1)
        flips = (all_wrong & self.attacked_targets).sum()
        taken = now.taken.clone()
        taken[at] += 1
        return Trajectories(
            iterations=now.iterations + 1,
            taken=taken,
            running=running & left,
            batch=at,
            inputs=all_inputs,
            velocity=all_velocity,
            thetas=all_thetas,
            wrong=all_wrong,
            costs=torch.cat([now.costs, latest[None]]),
            flips=torch.cat([now.flips, flips[None]]),
        )

    def _chosen(self, baseline: Tensor, alive: Tensor) -> Tensor:
        """Return the rows that each attack moves, (K, M); any for one that has nothing to aim at."""
        settings, K = self.settings, len(alive)
        if settings.candidate_rows:
            return torch.tensor(settings.candidate_rows).expand(K, -1).clone()
        rows = torch.arange(settings.candidates).expand(K, -1).clone()
        if not bool(alive.any()):
            return rows
        scores = self.route.rank(baseline, self.shares[:, alive])
        if not bool((scores > 0).any()):
            raise cut_off(f"no training row's loss changes the predictions through the input {self._name!r}")
        rows[alive] = torch.topk(scores, settings.candidates, dim=1).indices
        return rows


def _route(
    objective: Objective,
    train: Rows,
    test: Rows,
    aims: Targets,
    name: str,
    free: Tensor,
    recipe: Recipe | None,
    settings: AttackSettings,
    memory_bytes: int,
    progress: Progress,
) -> Route:
    shared = {"damping": settings.damping, "memory_bytes": memory_bytes, "progress": progress}
    if objective.head is not None:
        prefilter = settings.prefilter
        return HeadRoute(objective, train, test, aims, name, free, prefilter=prefilter, **shared)
    if recipe is None:
        text = (
            "this model's prediction is not linear in every selected parameter, so the attack trains it again by the "
            "recipe that it was trained by, and it has none: register it with training=undue.Training(…), or with the "
            "last layer alone, parameters=[…] (its report lists the names), which is fitted to its minimum"
        )
        raise FailedPrecondition(Reason.RECIPE_MISSING, text)
    if settings.prefilter is not None:
        raise InvalidArgument.at("prefilter", "ranks by a linear head's features, and this model is none: leave it out")
    return RecipeRoute(objective, train, test, aims, name, free, recipe, **shared)


def _checked_targets(objective: Objective, targets: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    if not objective.loss.explains_label:
        text = "the attack flips predicted labels, and the objective is a regression: it has none"
        raise InvalidArgument.at("objective", text, Reason.OBJECTIVE_MISMATCH)
    if not targets:
        raise InvalidArgument.at("rows", "name at least one test row to flip")
    sets = []
    for k, some in enumerate(targets):
        if not some:
            raise InvalidArgument.at(f"rows[{k}]", "names no test row")
        sets.append(list(dict.fromkeys(asked_rows(some, length))))
    return sets


def _check_rows(settings: AttackSettings, n: int) -> None:
    if settings.candidates > n:
        text = f"{settings.candidates:,} training rows cannot be perturbed: there are {n:,}"
        raise InvalidArgument.at("candidates", text)
    wrong = next((row for row in settings.candidate_rows if not 0 <= row < n), None)
    if wrong is not None:
        text = f"there is no training row {wrong}; there are rows 0…{n - 1}"
        raise InvalidArgument.at("candidate_rows", text, Reason.ROW_OUT_OF_RANGE)


def _check_memory(K: int, settings: AttackSettings, free: Tensor, objective: Objective, memory_bytes: int) -> None:
    rows = K * (len(settings.candidate_rows) or settings.candidates)
    taken = 5 * rows * free.numel() * objective.theta.element_size()
    if taken > memory_bytes:
        text = (
            f"the {rows:,} perturbed rows of {K:,} attacks take {taken / 2**30:.1f} GiB with what is made of them, "
            f"more than the {memory_bytes / 2**30:.1f} GiB allowed: attack fewer test rows at a time, or perturb fewer "
            "training rows"
        )
        raise ResourceExhausted(Reason.OUT_OF_MEMORY, text)
