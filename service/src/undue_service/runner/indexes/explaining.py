"""Answer a batch of calls from an index that is held in memory. What one caller sent is that caller's failure alone."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from undue_service.domain.errors import Error, Reason, ResourceExhausted
from undue_service.domain.reports import CallFailure, ExplainReport, TaskResult
from undue_service.domain.results import Questions
from undue_service.domain.tasks import ExplainCall, ExplainTask
from undue_service.engine.data import Batch
from undue_service.engine.gradients import is_out_of_memory
from undue_service.engine.index import Found
from undue_service.runner.faults import out_of_memory, typed
from undue_service.runner.rows import tensor
from undue_service.wire.attachments import AnswerArrays, decode_questions, encode_answers

from .listing import list_rows, no_room
from .resident import Resident, Residents


@dataclass(frozen=True)
class _Asked:
    """A call whose rows the model takes."""

    place: int
    """Of the call in the batch."""
    call: ExplainCall
    batch: Batch

    @property
    def group(self) -> tuple[object, ...]:
        """What calls have in common that are answered together."""
        shapes = tuple((name, one.shape[1:]) for name, one in self.batch.inputs.items())
        return (self.call.measurement, self.call.exact, self.batch.targets is None, shapes)


@dataclass
class _Outcome:
    """What becomes of the calls, by their places."""

    failures: dict[int, CallFailure] = field(default_factory=dict)
    answers: dict[int, AnswerArrays] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)


def explain(task: ExplainTask, attachment: bytes, residents: Residents) -> TaskResult:
    """Answer the calls of a task, if the index is there.

    Raises:
        FailedPrecondition: DATASET_CHANGED.
    """
    index = residents.find(task.index, task.revision)
    if index is None:
        return TaskResult(ExplainReport(resident=False))
    try:
        index.watch.check()
    except Error:
        residents.drop(task.index)
        raise
    questions = decode_questions(attachment)
    outcome = _Outcome()
    for members in _groups(index, task.calls, questions, outcome):
        _answer(index, members, outcome)
    started = time.perf_counter()
    data = _encoded(index, task.calls, outcome)
    seconds = {"instances": time.perf_counter() - started}
    for found in outcome.found:
        for stage, spent in found.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    diagnostics = index.manifest.diagnostics
    report = ExplainReport(
        resident=True,
        failures=outcome.failures,
        recall=index.manifest.recall,
        method=diagnostics.method,
        damping=diagnostics.damping,
        stage_seconds=seconds,
    )
    return TaskResult(report, attachment=data)


def _encoded(index: Resident, calls: Sequence[ExplainCall], outcome: _Outcome) -> bytes:
    """Return the answers of a batch with the rows that they list; those that are too large become failures."""
    listed, too_large = list_rows(outcome.found, outcome.answers, calls, index.rows)
    outcome.failures |= too_large
    answers = {place: one for place, one in outcome.answers.items() if place not in too_large}
    try:
        return encode_answers(answers, listed)
    except ResourceExhausted as error:
        why = _failure(error) if len(answers) == 1 else no_room()
        outcome.failures |= dict.fromkeys(answers, why)
        return encode_answers({}, list_rows([], {}, calls, index.rows)[0])


def _groups(
    index: Resident, calls: Sequence[ExplainCall], questions: Sequence[Questions], outcome: _Outcome
) -> list[list[_Asked]]:
    """Return the calls whose rows the model takes, those together that are asked alike."""
    groups: dict[tuple[object, ...], list[_Asked]] = {}
    for place, (call, one) in enumerate(zip(calls, questions, strict=True)):
        try:
            asked = _Asked(place, call, index.objective.place(_batch(one)))
        except Exception as error:  # noqa: BLE001  the others get their answers
            outcome.failures[place] = _failure(error)
        else:
            groups.setdefault(asked.group, []).append(asked)
    return list(groups.values())


def _batch(one: Questions) -> Batch:
    inputs = {name: tensor(array) for name, array in one.inputs.items()}
    targets = None if one.targets is None else tensor(one.targets)
    count = len(next(iter(inputs.values())))
    return Batch(inputs, targets, None, torch.arange(count))


def _answer(index: Resident, members: Sequence[_Asked], outcome: _Outcome) -> None:
    """Ask for some calls together; where that fails, for each by itself."""
    first = members[0].call
    try:
        found = index.searcher.explain(
            _joined([one.batch for one in members]),
            measurement=first.measurement,
            top_k=max(one.call.top_k for one in members),
            exact=first.exact,
        )
        answers = dict(_split(found, members))
    except Exception as error:  # noqa: BLE001  the others get their answers
        if len(members) == 1:
            outcome.failures[members[0].place] = _failure(error)
            return
        for one in members:
            _answer(index, [one], outcome)
        return
    outcome.found.append(found)
    for place, arrays in answers.items():
        if _is_finite(arrays):
            outcome.answers[place] = arrays
        else:
            text = "what the model makes of the rows, or a score, is not a finite number: check the rows for extremes"
            outcome.failures[place] = CallFailure("FAILED_PRECONDITION", Reason.NON_FINITE_RESULT, text)


def _joined(batches: Sequence[Batch]) -> Batch:
    """Return the rows of calls one after the other, numbered through."""
    first = batches[0]
    inputs = {name: torch.cat([one.inputs[name] for one in batches]) for name in first.inputs}
    known = [one.targets for one in batches if one.targets is not None]
    count = sum(len(one.index) for one in batches)
    return Batch(inputs, torch.cat(known) if known else None, None, torch.arange(count))


def _split(found: Found, members: Sequence[_Asked]) -> Iterator[tuple[int, AnswerArrays]]:
    """Yield what was found for each call, by its place."""
    start = 0
    for one in members:
        rows, k = slice(start, start + len(one.batch.index)), slice(0, one.call.top_k)
        start = rows.stop
        yield (
            one.place,
            AnswerArrays(
                prediction=found.test.predictions[rows],
                target=found.test.targets[rows],
                loss=found.test.losses[rows],
                helpful_rows=found.helpful_rows[rows, k],
                helpful_scores=found.helpful_scores[rows, k],
                harmful_rows=found.harmful_rows[rows, k],
                harmful_scores=found.harmful_scores[rows, k],
            ),
        )


def _is_finite(arrays: AnswerArrays) -> bool:
    numbers = (arrays.prediction, arrays.target, arrays.loss, arrays.helpful_scores, arrays.harmful_scores)
    return all(bool(np.isfinite(one).all()) for one in numbers)


def _failure(error: Exception) -> CallFailure:
    """Return why a call has no answer; called while the error is handled."""
    lacks_memory = isinstance(error, RuntimeError | MemoryError) and is_out_of_memory(error)
    said = out_of_memory() if lacks_memory else typed(error)
    return CallFailure(said.code, said.reason, said.message, said.metadata)
