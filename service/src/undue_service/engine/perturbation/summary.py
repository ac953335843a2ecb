"""What an attack's end amounts to: confirmed flips, lengths, test loss."""

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from undue_service.engine.data import Rows
from undue_service.engine.diagnostics import Diagnosis, EngineDiagnostics
from undue_service.engine.objective import Objective
from undue_service.engine.progress import Progress

from .head_route import TOLERANCE, HeadRoute
from .mean_losses import mean_losses
from .result import Attack, AttackResult, Outcome, Share
from .state import AttackState, Trajectories

if TYPE_CHECKING:
    from .attack import Run

_AT_ONCE = 16
"""Confirmations that are fitted in step."""


def summarised(
    objective: Objective,
    test: Rows,
    sets: list[list[int]],
    run: "Run",
    state: AttackState,
    diagnosis: Diagnosis,
    started: float,
    *,
    memory_bytes: int,
    progress: Progress,
) -> AttackResult:
    """Return what the attacks have come to."""
    aimed = run.attacked_targets
    before = float(mean_losses(objective, test, state.baseline[None], memory_bytes=memory_bytes))
    attacked = _outcomes(objective, test, sets, run, state.attack, memory_bytes, progress)
    controlled = None
    if state.control is not None:
        controlled = _outcomes(objective, test, sets, run, state.control, memory_bytes, progress)
    linf, l2 = (lengths.cpu().numpy() for lengths in run.region.lengths(state.attack.inputs))
    attacks = []
    for k, some in enumerate(sets):
        alive = bool(aimed[k].any())
        attacks.append(
            Attack(
                targets=np.array(some, dtype=np.int64),
                already_wrong=run.wrong_before[k, : len(some)].cpu().numpy(),
                rows=state.candidates[k].numpy() if alive else np.empty(0, dtype=np.int64),
                linf=linf[k] if alive else np.empty(0),
                l2=l2[k] if alive else np.empty(0),
                attack=attacked[k],
                control=None if controlled is None else controlled[k],
            )
        )
    alive = [k for k in range(len(sets)) if bool(aimed[k].any())]
    of = int(aimed.sum())
    return AttackResult(
        settings=run.settings,
        input=run.candidates.name,
        attacks=tuple(attacks),
        inputs=state.attack.inputs,
        originals=run.candidates.originals,
        attacked=_share(attacked, of),
        controlled=None if controlled is None else _share(controlled, of),
        flips=state.attack.flips.numpy(),
        costs=state.attack.costs[:, alive].mean(dim=1).numpy() if alive else np.zeros(len(state.attack.costs)),
        test_loss=before,
        test_loss_after=float(np.mean([attacked[k].test_loss for k in alive])) if alive else before,
        distance=run.route.distance,
        diagnostics=_diagnostics(objective, run, diagnosis, time.perf_counter() - started),
    )


def _outcomes(
    objective: Objective,
    test: Rows,
    sets: list[list[int]],
    run: "Run",
    end: Trajectories,
    memory_bytes: int,
    progress: Progress,
) -> list[Outcome]:
    flipped = end.wrong & run.attacked_targets
    confirmed = _confirmed(run, end, flipped, progress)
    losses = mean_losses(objective, test, end.thetas, memory_bytes=memory_bytes)
    return [
        Outcome(
            iterations=int(end.taken[k]),
            flipped=_own(flipped, k, some),
            confirmed=None if confirmed is None else _own(confirmed, k, some),
            costs=end.costs[: int(end.taken[k]) + 1, k].numpy(),
            test_loss=float(losses[k]),
        )
        for k, some in enumerate(sets)
    ]


def _own(values: Tensor, k: int, some: list[int]) -> NDArray[np.bool_]:
    return values[k, : len(some)].cpu().numpy()


def _confirmed(run: "Run", end: Trajectories, flipped: Tensor, progress: Progress) -> Tensor | None:
    """Return which flips hold for heads fitted from zero, (K, T)."""
    if not run.settings.confirm or not isinstance(run.route, HeadRoute):
        return None
    found = torch.zeros_like(flipped)
    waiting = flipped.any(dim=1).nonzero()[:, 0]
    done = 0
    for at in waiting.split(_AT_ONCE) if len(waiting) else ():
        thetas = run.route.cold(run.candidates, at, end.inputs[at], end.thetas[0])
        _, wrong = run.route.measure(thetas, run.shares[:, at])
        found[at] = run.aims.at(at).of_each(wrong).cpu() & flipped[at]
        done += len(at)
        progress("confirmation", done, len(waiting))
    return found


def _share(outcomes: list[Outcome], of: int) -> Share:
    return Share.among(sum(int(one.counted.sum()) for one in outcomes), of)


def _diagnostics(objective: Objective, run: "Run", diagnosis: Diagnosis, seconds: float) -> EngineDiagnostics:
    is_head = isinstance(run.route, HeadRoute)
    damping = run.route.damping
    notes = []
    if run.settings.confirm and not is_head:
        notes.append(
            "flips were not confirmed from another start: a recipe leads to no minimum that is the same from anywhere"
        )
    return EngineDiagnostics(
        estimand="measured flips of test predictions when training rows are moved along the sign of I_pert, and the "
        "selected parameters are " + ("fitted again" if is_head else "trained again by the registered recipe"),
        scale="removal",
        method="perturb",
        damping=damping.value,
        damping_source=damping.source,
        leverage_correction=False,
        solver="newton, conjugate gradients" if is_head else "recipe, gauss_newton",
        solver_status="converged",
        residual=TOLERANCE if is_head else 0.0,
        matvecs=run.route.products,
        stationarity=diagnosis.stationarity,
        dtype=str(objective.program.dtype).removeprefix("torch."),
        device=str(objective.program.device),
        seconds=seconds,
        warnings=(*diagnosis.warnings, *damping.warnings, *notes),
    )
