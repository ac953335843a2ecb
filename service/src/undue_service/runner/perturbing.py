"""Perturb training rows so that predictions flip: each iteration is kept, and a later attempt goes on from the last."""

from collections.abc import Sequence

import numpy as np

from undue_service.domain.perturb_jobs import (
    AttackedRow,
    FlipShare,
    Perturbation,
    PerturbationSummary,
    PerturbedRow,
)
from undue_service.domain.reports import PerturbationReport, Produced, TaskResult
from undue_service.domain.tasks import PerturbTask
from undue_service.engine.objective import Objective
from undue_service.engine.perturbation.attack import attack
from undue_service.engine.perturbation.result import Attack, AttackResult, Outcome, Share
from undue_service.engine.perturbation.state import AttackState
from undue_service.wire.codec import Codec
from undue_service.wire.perturbations import PERTURBATIONS, POISONED, write_perturbations, write_poisoned

from .place import Place, code_digest
from .recipes import recipe_of
from .rows import SourceRows
from .workspace import Workspace

_STATE = "state-"
"""What an iteration is kept under; its number goes on."""
_ITERATING = ("attack", "control")
"""Stages of the engine that are told with what was reached in them."""
_TASK: Codec[PerturbTask] = Codec(PerturbTask)


def perturb(task: PerturbTask, objective: Objective, place: Place, memory_bytes: int) -> TaskResult:
    """Attack test rows through training rows.

    Args:
        task: of what.
        objective: the model with it, as the engine's attacks take it.
        place: where an interrupted attempt left its last iteration, in the workspace.
        memory_bytes: budget of the intermediate values of a block of rows.

    Raises:
        Error: whatever is wrong with the model, the data or the request.
        OSError: the disk is full, or another failure of the file system.
    """
    train, test = place.source(task.train), place.source(task.test)
    targets = task.spec.targets(len(test))
    kept = _Kept(task, objective, place)

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in _ITERATING:
            place.report(stage, done, total)

    def on_iteration(state: AttackState) -> None:
        kept.keep(state)
        place.report(*_reached(state, sum(map(len, targets))), task.spec.settings.iterations)

    found = attack(
        objective,
        SourceRows(train),
        SourceRows(test),
        targets,
        task.spec.settings,
        recipe=recipe_of(task.model, place),
        state=kept.last(),
        on_iteration=on_iteration,
        memory_bytes=memory_bytes,
        progress=progress,
    )
    diagnostics = found.diagnostics.complete(
        recipe=_recipe(objective), seed=task.spec.settings.seed, digests=task.digests | {"code": code_digest()}
    )
    report = PerturbationReport(diagnostics, _summary(found), len(found.attacks), len(train))
    return TaskResult(report, _write(found, place))


class _Kept:
    """The iterations of one task in its workspace, of which the newest is kept."""

    def __init__(self, task: PerturbTask, objective: Objective, place: Place) -> None:
        key = b"\n".join([_TASK.dump(task), code_digest().encode(), objective.program.device.type.encode()])
        self._workspace = Workspace(place.workspace or place.scratch, key)

    def last(self) -> AttackState | None:
        """Return the newest state that is there as a whole; None where there is none."""
        for name in reversed(self._names()):
            found = self._workspace.find(name)
            if found is not None:
                return AttackState.of(found[0])
        return None

    def keep(self, state: AttackState) -> None:
        """Write a state, then let go of the one before it."""
        name = f"{_STATE}{state.iteration:09d}"
        earlier = [one for one in self._names() if one != name]
        self._workspace.keep(name, state.tensors())
        for one in earlier:
            self._workspace.forget(one)

    def _names(self) -> list[str]:
        return [name for name in self._workspace.names() if name.startswith(_STATE)]


def _reached(state: AttackState, targets: int) -> tuple[str, int]:
    """Return the stage of an iteration, with the flips so far, and its number."""
    name, now = ("attacking", state.attack) if state.control is None else ("control", state.control)
    return f"{name}: {int(now.flips[-1]):,} of {targets:,} flipped", int(now.iterations)


def _recipe(objective: Objective) -> str:
    if objective.head is None:
        return "the registered recipe on the rows with the perturbed ones in place, from the registered weights"
    return "the minimiser of the registered objective on the rows with the perturbed ones in place, at every step"


def _summary(found: AttackResult) -> PerturbationSummary:
    flips = sum(int(one.attack.flipped.sum()) for one in found.attacks)
    return PerturbationSummary(
        flipped=_share(found.attacked),
        control=None if found.controlled is None else _share(found.controlled),
        already_wrong=sum(int(one.already_wrong.sum()) for one in found.attacks),
        unconfirmed=flips - found.attacked.flips,
        test_loss_before=found.test_loss,
        test_loss_after=found.test_loss_after,
        flips=tuple(found.flips.tolist()),
    )


def _share(found: Share) -> FlipShare:
    return FlipShare(found.flips, found.of, found.share, found.low, found.high)


def _write(found: AttackResult, place: Place) -> tuple[Produced, ...]:
    """Write what the attacks did, and the rows that they moved."""
    moved = [one.rows.tolist() for one in found.attacks]
    values = [found.inputs[k, : len(rows)].cpu().numpy() for k, rows in enumerate(moved)]
    named = {role: f"{role}.safetensors" for role in (PERTURBATIONS, POISONED)}
    attacks = [_perturbation(k, one) for k, one in enumerate(found.attacks)]
    write_perturbations(place.scratch / named[PERTURBATIONS], attacks)
    write_poisoned(place.scratch / named[POISONED], found.input, moved, np.concatenate(values))
    return tuple(Produced(role, name) for role, name in named.items())


def _perturbation(index: int, found: Attack) -> Perturbation:
    attack, control = found.attack, found.control
    targets = zip(
        found.targets.tolist(),
        found.already_wrong.tolist(),
        attack.flipped.tolist(),
        _tried(attack),
        [None] * len(found.targets) if control is None else control.counted.tolist(),
        strict=True,
    )
    moved = zip(found.rows.tolist(), found.linf.tolist(), found.l2.tolist(), strict=True)
    return Perturbation(
        index=index,
        targets=tuple(AttackedRow(*each) for each in targets),
        rows=tuple(PerturbedRow(*each) for each in moved),
        iterations=attack.iterations,
        costs=tuple(attack.costs.tolist()),
        control_costs=() if control is None else tuple(control.costs.tolist()),
        test_loss=attack.test_loss,
    )


def _tried(found: Outcome) -> Sequence[bool | None]:
    """Return of each target whether its flip was confirmed; None where there was none to confirm."""
    if found.confirmed is None:
        return [None] * len(found.flipped)
    pairs = zip(found.flipped.tolist(), found.confirmed.tolist(), strict=True)
    return [confirmed if flipped else None for flipped, confirmed in pairs]
