"""The task of a compare job."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from undue_service.datasets.source import DatasetSource
from undue_service.domain.comparison import Compare
from undue_service.domain.comparison_findings import CompareFinding, CompareSummary, ModelView, RowComparison
from undue_service.domain.methods import method_spec
from undue_service.domain.reports import InfluenceReport, Produced, TaskResult
from undue_service.domain.specs import ModelSpec
from undue_service.domain.tasks import CompareTask
from undue_service.engine.comparison.compare import CompareQuestion, ComparisonResult, Side, SideFound, compare
from undue_service.engine.methods import Problem
from undue_service.wire.codec import COMPARE_FINDING
from undue_service.wire.documents import write_lines

from .examples import Examples
from .opening import Models
from .place import Place, code_digest
from .recipes import checkpoints_of, completed
from .rows import SourceRows

_FILE = "row_comparisons.jsonl"


def comparison_of(task: CompareTask, place: Place, models: Models, block_bytes: int) -> TaskResult:
    """Run the task.

    Raises:
        InvalidArgument: as `compare`.
        FailedPrecondition: as `compare`.
        ResourceExhausted: as `compare`.
    """
    spec = task.spec
    train, test = place.source(task.train), place.source(task.test)
    side = _side(task.model, spec, spec.method, spec.parameters, train, place, place.scratch, models, block_bytes)
    other = None
    if task.other is not None:
        scratch = place.scratch / "other"  # what the first model was read from may still lie where it was
        scratch.mkdir()
        other = _side(task.other, spec, spec.other_method, (), train, place, scratch, models, block_bytes)
    question = CompareQuestion(
        rows=spec.rows or None,
        top_k=spec.top_k,
        measurement=spec.measurement,
        ablation=spec.ablation,
        distance=spec.distance,
        distance_inputs=spec.distance_inputs,
        scatter=spec.scatter,
        seed=spec.seed,
    )
    found = compare(SourceRows(test), side, other, question)
    digests = task.digests | {"code": code_digest()}
    own = {name: digest for name, digest in digests.items() if not name.startswith("other_")}
    diagnostics = completed(found.side.attribution.diagnostics, own, spec.seed, found.warnings)
    other_diagnostics = None
    if found.other is not None:
        others = own | {
            name.removeprefix("other_"): digest for name, digest in digests.items() if name.startswith("other_")
        }
        other_diagnostics = completed(found.other.attribution.diagnostics, others, spec.seed, found.other_warnings)
    summary = CompareSummary(len(found.scatters), found.distance_inputs)
    write_lines(place.scratch / _FILE, COMPARE_FINDING, _findings(summary, found, train, test))
    report = InfluenceReport(diagnostics, len(found.scatters), len(train), other_diagnostics)
    return TaskResult(report, (Produced("row_comparisons", _FILE),))


def _side(
    model: ModelSpec,
    spec: Compare,
    method: str,
    parameters: Sequence[str],
    train: DatasetSource,
    place: Place,
    scratch: Path,
    models: Models,
    block_bytes: int,
) -> Side:
    objective = models.objective(
        model, place.artifacts, scratch, parameters=parameters, precision=method_spec(method).precision
    )
    problem = Problem(
        objective,
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
        checkpoints_of(model, method, spec.ensemble, place),
    )
    return Side(problem, method, spec.ensemble)


def _findings(
    summary: CompareSummary, found: ComparisonResult, train: DatasetSource, test: DatasetSource
) -> Iterator[CompareFinding]:
    yield summary
    views = _views(found.side, train, test)
    others: Iterator[ModelView | None] = iter([None] * len(found.scatters))
    if found.other is not None:
        others = _views(found.other, train, test)
    rows = found.side.attribution.test.rows.tolist()
    ids = test.ids(rows)
    for t, (view, other) in enumerate(zip(views, others, strict=True)):
        agreement = found.agreements[t] if found.agreements else None
        yield RowComparison(rows[t], ids[t], view, other, agreement, found.scatters[t])


def _views(found: SideFound, train: DatasetSource, test: DatasetSource) -> Iterator[ModelView]:
    of = found.attribution
    examples, tests = Examples(of.train, train), Examples(of.test, test)
    for t, row in enumerate(of.test.rows.tolist()):
        _, prediction, target, loss = tests.described(row)
        sides = (
            zip(of.helpful_rows[t].tolist(), of.helpful_scores[t].tolist(), strict=True),
            zip(of.harmful_rows[t].tolist(), of.harmful_scores[t].tolist(), strict=True),
        )
        helpful, harmful = (tuple(examples.scored(*one) for one in side if one[0] >= 0) for side in sides)
        yield ModelView(prediction, target, loss, helpful, harmful, found.ablations[t], found.nearness[t])
