"""Read what a finished job found, in pages and in blocks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from undue_service.domain.comparison_findings import CompareFinding
from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.group_findings import GroupFinding
from undue_service.domain.jobs import Job, JobState
from undue_service.domain.mislabels import MislabelCurve, RankingName
from undue_service.domain.results import Comparison, Counterfactual, Explanation, LeverageBlock, ScoredExample
from undue_service.domain.retraining import Retrain

from .jobs import Jobs
from .ports import ArtifactStore, ResultReader


class Results:
    """Use cases of JobService's results."""

    def __init__(self, jobs: Jobs, artifacts: ArtifactStore, reader: ResultReader) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._reader = reader

    def explanations(
        self, tenant: str, name: str, start: int, count: int
    ) -> tuple[tuple[Explanation, ...], int | None]:
        """Return at most `count` explanations from position `start` on, and where the next ones start.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.explanations(self.file(tenant, name, "explanations"), start, count)

    def explanation_blocks(self, tenant: str, name: str) -> Iterator[tuple[Explanation, ...]]:
        """Yield all explanations, some at a time.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.explanation_blocks(self.file(tenant, name, "explanations"))

    def self_influences(
        self, tenant: str, name: str, start: int, count: int
    ) -> tuple[tuple[ScoredExample, ...], int | None]:
        """Return at most `count` ranked training rows from position `start` on, and where the next ones start.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.self_influences(self.file(tenant, name, "self_influences"), start, count)

    def self_influence_blocks(self, tenant: str, name: str) -> Iterator[tuple[ScoredExample, ...]]:
        """Yield all ranked training rows, some at a time.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.self_influence_blocks(self.file(tenant, name, "self_influences"))

    def measured(self, tenant: str, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the test rows of a retrain job and their costs before anything was removed.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.measured(self.file(tenant, name, "counterfactuals"))

    def counterfactuals(
        self, tenant: str, name: str, start: int, count: int
    ) -> tuple[tuple[Counterfactual, ...], int | None]:
        """Return at most `count` counterfactuals from position `start` on, and where the next ones start.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        edited = self._edited(tenant, name)
        found, more = self._reader.counterfactuals(self.file(tenant, name, "counterfactuals"), start, count)
        return tuple(edited(one) for one in found), more

    def counterfactual_blocks(self, tenant: str, name: str) -> Iterator[tuple[Counterfactual, ...]]:
        """Yield all counterfactuals, some at a time.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        edited = self._edited(tenant, name)
        blocks = self._reader.counterfactual_blocks(self.file(tenant, name, "counterfactuals"))
        return (tuple(edited(one) for one in block) for block in blocks)

    def compared(self, tenant: str, name: str) -> npt.NDArray[np.int64]:
        """Return the test rows of a fidelity job.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.compared(self.file(tenant, name, "comparisons"))

    def comparisons(self, tenant: str, name: str, start: int, count: int) -> tuple[tuple[Comparison, ...], int | None]:
        """Return at most `count` comparisons from position `start` on, and where the next ones start.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.comparisons(self.file(tenant, name, "comparisons"), start, count)

    def comparison_blocks(self, tenant: str, name: str) -> Iterator[tuple[Comparison, ...]]:
        """Yield all comparisons, some at a time.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.comparison_blocks(self.file(tenant, name, "comparisons"))

    def leverage_blocks(self, tenant: str, name: str) -> Iterator[LeverageBlock]:
        """Yield what the training rows of a leverage job do, some rows at a time.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.leverage_blocks(self.file(tenant, name, "leverages"))

    def mislabel_curves(self, tenant: str, name: str) -> tuple[MislabelCurve, ...]:
        """Return what each ranking of a mislabels job found.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.mislabel_curves(self.file(tenant, name, "mislabels"))

    def suspects(
        self, tenant: str, name: str, start: int, count: int
    ) -> tuple[tuple[tuple[RankingName, ScoredExample], ...], int | None]:
        """Return at most `count` rows that a mislabels job lists, from position `start` on, and where the next start.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.suspects(self.file(tenant, name, "suspects"), start, count)

    def group_findings(self, tenant: str, name: str) -> Iterator[tuple[GroupFinding, ...]]:
        """Yield what a group influence job found, some of it at a time.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.group_findings(self.file(tenant, name, "group_influences"))

    def compare_findings(self, tenant: str, name: str) -> Iterator[tuple[CompareFinding, ...]]:
        """Yield what a compare job found, some of it at a time.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.compare_findings(self.file(tenant, name, "row_comparisons"))

    def score_blocks(self, tenant: str, name: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield (first row, float32 block) over the whole score matrix.

        Raises:
            FailedPrecondition: the job has not succeeded, or did not keep its scores.
            NotFound: RESOURCE_NOT_FOUND.
        """
        return self._reader.score_blocks(self.file(tenant, name, "scores"))

    def _edited(self, tenant: str, name: str) -> Callable[[Counterfactual], Counterfactual]:
        """Return what adds to a counterfactual which rows its job asked to be different."""
        spec = self._jobs.get(tenant, name).spec

        def with_rows(one: Counterfactual) -> Counterfactual:
            edit = spec.edit(one.index) if isinstance(spec, Retrain) else None
            if edit is None:
                return one
            return replace(one, replaced=edit.replaced, relabelled=edit.relabelled, reweighted=edit.reweighted)

        return with_rows

    def file(self, tenant: str, name: str, role: str) -> Path:
        """Return the file that a job kept in a role.

        Raises:
            FailedPrecondition: the job has not succeeded, or has a result of another kind.
            NotFound: RESOURCE_NOT_FOUND.
        """
        job = self._succeeded(self._jobs.get(tenant, name))
        if role not in job.results:
            kept = ", ".join(sorted(job.results)) or "nothing"
            hint = "; ask for it with top_k unset" if role == "scores" else ""
            text = (
                f"{job.name} has no {role.replace('_', '-')}: it is a job of kind {job.spec.kind} and kept {kept}{hint}"
            )
            raise FailedPrecondition(Reason.RESULT_KIND_MISMATCH, text)
        return self._artifacts.path(tenant, job.results[role])

    @staticmethod
    def _succeeded(job: Job) -> Job:
        if job.state is JobState.SUCCEEDED:
            return job
        if not job.state.ended:
            text = f"{job.name} is {job.state}: watch it until it has ended"
            raise FailedPrecondition(Reason.JOB_NOT_FINISHED, text)
        if job.failure is None:
            raise FailedPrecondition(Reason.JOB_CANCELLED, f"{job.name} was cancelled and has no result")
        text = f"{job.name} failed: {job.failure.message}"
        raise FailedPrecondition(
            Reason.JOB_FAILED, text, metadata={**job.failure.metadata, "job_reason": job.failure.reason}
        )
