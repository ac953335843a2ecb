"""The task of a group influence job."""

from collections.abc import Iterator, Sequence

from undue_service.datasets.source import DatasetSource
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.domain.group_findings import GroupFinding, GroupShare, GroupSummary
from undue_service.domain.methods import method_spec
from undue_service.domain.reports import InfluenceReport, Produced, TaskResult
from undue_service.domain.results import ScoredExample
from undue_service.domain.tasks import GroupInfluenceTask
from undue_service.engine.group_influence import LISTED_GROUPS, GroupInfluenceResult, Question, group_influence
from undue_service.engine.group_shares import Share
from undue_service.engine.methods import Problem
from undue_service.engine.objective import Objective
from undue_service.engine.retraining.refits import Refits
from undue_service.engine.retraining.retrain import choose_refits
from undue_service.wire.codec import GROUP_FINDING
from undue_service.wire.documents import write_lines

from .examples import Examples
from .opening import Models
from .place import Place, code_digest
from .recipes import checkpoints_of, completed, recipe_of
from .results import write_influence
from .rows import SourceRows


def group_influence_of(task: GroupInfluenceTask, place: Place, models: Models, block_bytes: int) -> TaskResult:
    """Run the task.

    Raises:
        InvalidArgument: as `group_influence`.
        FailedPrecondition: as `group_influence`.
    """
    spec = task.spec
    train, test = place.source(task.train), place.source(task.test)
    registered = models.objective(task.model, place.artifacts, place.scratch)
    precision = method_spec(spec.method).precision
    scored = registered
    if spec.parameters or (precision != "float64" and registered.head is None):
        scored = models.objective(
            task.model, place.artifacts, place.scratch, parameters=spec.parameters, precision=precision
        )
    problem = Problem(
        scored,
        SourceRows(train),
        spec.damping,
        spec.leverage_correction,
        block_bytes,
        place.report,
        spec.tolerance,
        spec.max_iterations,
        spec.rank,
        spec.normalization,
        spec.seed,
        checkpoints_of(task.model, spec.method, spec.ensemble, place),
    )
    question = Question(
        rows=spec.rows,
        groups=_groups(train, spec.by),
        reweight=spec.reweight,
        reweight_top=spec.reweight_top,
        top_k=spec.top_k,
        bootstrap=spec.bootstrap,
        method=spec.method,
        measurement=spec.measurement,
        ensemble=spec.ensemble,
    )

    def refits(rows: Sequence[int]) -> Refits:
        return choose_refits(
            registered,
            problem.train,
            SourceRows(test),
            rows,
            recipe=recipe_of(task.model, place),
            start=spec.start,
            seeds=spec.seeds,
            measurement=spec.measurement,
            memory_bytes=block_bytes,
            progress=place.report,
        )

    found = group_influence(problem, SourceRows(test), question, registered=registered, refits=refits)
    files = list(write_influence(place.scratch, found.attribution, train, test))
    file = "group_influences.jsonl"
    write_lines(place.scratch / file, GROUP_FINDING, _findings(found, train, test, scored))
    files.append(Produced("group_influences", file))
    digests = task.digests | {"code": code_digest()}
    diagnostics = completed(found.attribution.diagnostics, digests, spec.seed, found.warnings)
    return TaskResult(InfluenceReport(diagnostics, len(spec.rows), len(train)), tuple(files))


def _groups(train: DatasetSource, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return what every training row has in each of the columns."""
    missing = next((name for name in columns if name not in train.schema.groups), None)
    if missing is not None:
        text = f"the training data has no column of groups {missing!r}"
        raise InvalidArgument.at("by", text, Reason.COLUMN_NOT_FOUND)
    values = train.groups(range(len(train)))
    return {name: values[name] for name in columns}


def _findings(
    found: GroupInfluenceResult, train: DatasetSource, test: DatasetSource, objective: Objective
) -> Iterator[GroupFinding]:
    facts = found.attribution.test
    accuracy = None
    if objective.loss.explains_label and test.schema.target is not None:
        accuracy = float((facts.predictions == facts.targets).mean())
    yield GroupSummary(
        test_rows=len(facts.rows),
        rest_rows=found.rest_rows,
        loss=float(facts.losses.mean()),
        accuracy=accuracy,
        score=float(found.scores.sum()),
        size=float(abs(found.scores).sum()),
        recipe=found.recipe,
    )
    examples = Examples(found.listed, train)
    k = found.attribution.helpful_rows.shape[1]
    for name, shares in found.columns.items():
        for place, share in enumerate(shares):
            rows = share.rows[:k].tolist() if place < LISTED_GROUPS else []
            scored = tuple(examples.scored(row, float(found.scores[row])) for row in rows)
            yield _share(name, share, scored)
    yield from found.effects


def _share(column: str, share: Share, examples: tuple[ScoredExample, ...]) -> GroupShare:
    return GroupShare(
        column=column,
        group=share.group,
        rows=len(share.rows),
        row_share=share.row_share,
        score=share.score,
        share=share.share,
        signed_share=share.signed_share,
        excess=share.excess,
        mean_size=share.mean_size,
        examples=examples,
    )
