"""What is counted of jobs that have ended."""

from datetime import UTC, datetime

import pytest

from undue_service.adapters.metrics import PrometheusMetrics
from undue_service.domain.index_jobs import IndexBuild, IndexCompact, IndexExtend
from undue_service.domain.jobs import Job
from unit.application.indexing import index_report

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("spec", "rows"),
    [(IndexBuild("indexes/i"), 40), (IndexExtend("indexes/i", "datasets/d"), 2), (IndexCompact("indexes/i"), 0)],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_training_rows_that_a_job_of_an_index_read_are_counted(spec, rows):
    metrics = PrometheusMetrics()
    metrics.job_finished(Job("t", "j", spec, NOW).start(NOW).succeed(NOW, index_report(rows), {}))
    sample = metrics.registry.get_sample_value
    assert sample("undue_examples_processed_total", {"kind": spec.kind}) == rows
    assert sample("undue_jobs_finished_total", {"kind": spec.kind, "outcome": "succeeded"}) == 1
