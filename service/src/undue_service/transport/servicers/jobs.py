"""JobService."""

from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from google.protobuf import empty_pb2

from undue.v1 import (
    jobs_pb2,
    jobs_pb2_grpc,
    mislabels_pb2,
    perturbation_pb2,
)
from undue_service.domain.comparison_findings import CompareSummary
from undue_service.domain.reports import InfluenceReport
from undue_service.transport import comparing, fidelity, groups, job_responses, mislabels, perturbing, requests, values
from undue_service.transport.paging import (
    MAX_PAGE_BYTES,
    PageRequest,
    page_size,
    read_token,
    request_key,
    write_token,
)

from .cases import Context, UseCases, tenant

T = TypeVar("T")


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """See jobs.proto."""

    def __init__(self, cases: UseCases) -> None:
        self._deletions = cases.deletions
        self._jobs = cases.jobs
        self._results = cases.results
        self._perturbations = cases.perturbations

    async def CreateJob(self, request: jobs_pb2.CreateJobRequest, context: Context) -> jobs_pb2.Job:
        """See jobs.proto."""
        spec, timeout = await to_thread(requests.job_spec, request)  # it may name a million rows
        if request.validate_only:
            settled, estimate = await to_thread(self._jobs.estimate, tenant(context), spec)
            return job_responses.estimated_job(settled, timeout, estimate)
        key = request_key(request, request.request_id)
        return job_responses.job(await to_thread(self._jobs.create, tenant(context), spec, timeout, key))

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Context) -> jobs_pb2.Job:
        """See jobs.proto."""
        return job_responses.job(await to_thread(self._jobs.get, tenant(context), request.name))

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Context) -> jobs_pb2.ListJobsResponse:
        """See jobs.proto."""
        limit, before = page_size(request), read_token(request, "jobs")

        def page() -> jobs_pb2.ListJobsResponse:
            found = self._jobs.list(tenant(context), limit, before)
            jobs = [job_responses.job(one) for one in found.items]
            return jobs_pb2.ListJobsResponse(jobs=jobs, next_page_token=write_token(found.next_before, "jobs"))

        return await to_thread(page)

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Context) -> jobs_pb2.Job:
        """See jobs.proto."""
        return job_responses.job(await to_thread(self._jobs.cancel, tenant(context), request.name))

    async def WatchJob(self, request: jobs_pb2.WatchJobRequest, context: Context) -> AsyncIterator[jobs_pb2.Job]:
        """See jobs.proto."""
        first = True
        async for job in self._jobs.watch(tenant(context), request.name):
            yield await to_thread(partial(job_responses.job, job, with_spec=first))
            first = False

    async def DeleteJob(self, request: jobs_pb2.DeleteJobRequest, context: Context) -> empty_pb2.Empty:
        """See jobs.proto."""
        await to_thread(partial(self._deletions.job, tenant(context), request.name, request.etag, force=request.force))
        return empty_pb2.Empty()

    async def ListExplanations(
        self, request: jobs_pb2.ListExplanationsRequest, context: Context
    ) -> jobs_pb2.ListExplanationsResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"explanations {request.parent}")

        def page() -> jobs_pb2.ListExplanationsResponse:
            found, more = self._results.explanations(tenant(context), request.parent, start, limit)
            messages = [job_responses.explanation(one) for one in found]
            return jobs_pb2.ListExplanationsResponse(explanations=messages, next_page_token=write_token(more, listing))

        return await to_thread(page)

    async def ListSelfInfluences(
        self, request: jobs_pb2.ListSelfInfluencesRequest, context: Context
    ) -> jobs_pb2.ListSelfInfluencesResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"self_influences {request.parent}")

        def page() -> jobs_pb2.ListSelfInfluencesResponse:
            found, more = self._results.self_influences(tenant(context), request.parent, start, limit)
            messages = [values.scored_example(one) for one in found]
            return jobs_pb2.ListSelfInfluencesResponse(examples=messages, next_page_token=write_token(more, listing))

        return await to_thread(page)

    async def ReadExplanations(
        self, request: jobs_pb2.ReadExplanationsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.Explanation]:
        """See jobs.proto."""
        async for one in _all(partial(self._results.explanation_blocks, tenant(context), request.name)):
            yield job_responses.explanation(one)

    async def ReadSelfInfluences(
        self, request: jobs_pb2.ReadSelfInfluencesRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.ScoredExample]:
        """See jobs.proto."""
        async for one in _all(partial(self._results.self_influence_blocks, tenant(context), request.name)):
            yield values.scored_example(one)

    async def ListCounterfactuals(
        self, request: jobs_pb2.ListCounterfactualsRequest, context: Context
    ) -> jobs_pb2.ListCounterfactualsResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"counterfactuals {request.parent}")

        def page() -> jobs_pb2.ListCounterfactualsResponse:
            answer = jobs_pb2.ListCounterfactualsResponse()
            more: int | None = start
            if not request.page_token:
                rows, costs = self._results.measured(tenant(context), request.parent)
                answer.rows.extend(rows.tolist())
                answer.costs.extend(costs.tolist())
            # The first page of very many test rows has those alone; the page after it starts at 0.
            if answer.ByteSize() <= MAX_PAGE_BYTES // 2:
                found, more = self._results.counterfactuals(tenant(context), request.parent, start, limit)
                answer.counterfactuals.extend(job_responses.counterfactual(one) for one in found)
            answer.next_page_token = write_token(more, listing)
            return answer

        return await to_thread(page)

    async def ReadCounterfactuals(
        self, request: jobs_pb2.ReadCounterfactualsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.Counterfactual]:
        """See jobs.proto."""
        async for one in _all(partial(self._results.counterfactual_blocks, tenant(context), request.name)):
            yield job_responses.counterfactual(one)

    async def ListComparisons(
        self, request: jobs_pb2.ListComparisonsRequest, context: Context
    ) -> jobs_pb2.ListComparisonsResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"comparisons {request.parent}")

        def page() -> jobs_pb2.ListComparisonsResponse:
            answer = jobs_pb2.ListComparisonsResponse()
            if not request.page_token:
                answer.rows.extend(self._results.compared(tenant(context), request.parent).tolist())
            found, more = self._results.comparisons(tenant(context), request.parent, start, limit)
            answer.comparisons.extend(fidelity.write_comparison(one) for one in found)
            answer.next_page_token = write_token(more, listing)
            return answer

        return await to_thread(page)

    async def ReadComparisons(
        self, request: jobs_pb2.ReadComparisonsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.Comparison]:
        """See jobs.proto."""
        async for one in _all(partial(self._results.comparison_blocks, tenant(context), request.name)):
            yield fidelity.write_comparison(one)

    async def ReadLeverages(
        self, request: jobs_pb2.ReadLeveragesRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.LeverageBlock]:
        """See jobs.proto."""
        blocks: Iterator[Any] = await to_thread(self._results.leverage_blocks, tenant(context), request.name)
        while (block := await to_thread(next, blocks, None)) is not None:
            yield job_responses.leverage_block(block)

    async def ReadMislabelCurves(
        self, request: mislabels_pb2.ReadMislabelCurvesRequest, context: Context
    ) -> AsyncIterator[mislabels_pb2.MislabelCurve]:
        """See jobs.proto."""
        for one in await to_thread(self._results.mislabel_curves, tenant(context), request.name):
            yield mislabels.write_curve(one)

    async def ListSuspects(
        self, request: mislabels_pb2.ListSuspectsRequest, context: Context
    ) -> mislabels_pb2.ListSuspectsResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"suspects {request.parent}")

        def page() -> mislabels_pb2.ListSuspectsResponse:
            found, more = self._results.suspects(tenant(context), request.parent, start, limit)
            suspects = [mislabels.write_suspect(*one) for one in found]
            return mislabels_pb2.ListSuspectsResponse(suspects=suspects, next_page_token=write_token(more, listing))

        return await to_thread(page)

    async def ReadGroupInfluences(
        self, request: jobs_pb2.ReadGroupInfluencesRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.GroupFinding]:
        """See jobs.proto."""
        async for one in _all(partial(self._results.group_findings, tenant(context), request.name)):
            yield groups.write_finding(one)

    async def ReadRowComparisons(
        self, request: jobs_pb2.ReadRowComparisonsRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.RowComparison]:
        """See jobs.proto."""
        summary: CompareSummary | None = None
        job = await to_thread(self._jobs.get, tenant(context), request.name)
        other = job.report.other if isinstance(job.report, InfluenceReport) else None
        async for one in _all(partial(self._results.compare_findings, tenant(context), request.name)):
            if isinstance(one, CompareSummary):
                summary = one
            else:
                yield comparing.write_row(one, summary, other)
                summary = other = None

    async def ReadScores(
        self, request: jobs_pb2.ReadScoresRequest, context: Context
    ) -> AsyncIterator[jobs_pb2.ScoreBlock]:
        """See jobs.proto."""
        blocks: Iterator[Any] = await to_thread(self._results.score_blocks, tenant(context), request.name)
        while (block := await to_thread(next, blocks, None)) is not None:
            yield job_responses.score_block(*block)

    async def ListPerturbations(
        self, request: perturbation_pb2.ListPerturbationsRequest, context: Context
    ) -> perturbation_pb2.ListPerturbationsResponse:
        """See jobs.proto."""
        start, limit, listing = _result_page(request, f"perturbations {request.parent}")

        def page() -> perturbation_pb2.ListPerturbationsResponse:
            found, more = self._perturbations.page(tenant(context), request.parent, start, limit)
            messages = [perturbing.write_perturbation(one) for one in found]
            return perturbation_pb2.ListPerturbationsResponse(
                perturbations=messages, next_page_token=write_token(more, listing)
            )

        return await to_thread(page)

    async def ReadPoisonedRows(
        self, request: perturbation_pb2.ReadPoisonedRowsRequest, context: Context
    ) -> AsyncIterator[perturbation_pb2.PoisonedRow]:
        """See jobs.proto."""
        rows = await to_thread(self._perturbations.poisoned, tenant(context), request.name, request.attacks)
        while (row := await to_thread(next, rows, None)) is not None:
            yield perturbing.write_poisoned(row)


async def _all(open_blocks: Callable[[], Iterator[tuple[T, ...]]]) -> AsyncIterator[T]:
    """Yield the items of all blocks, read off the event loop."""
    blocks = await to_thread(open_blocks)
    while (block := await to_thread(next, blocks, None)) is not None:
        for one in block:
            yield one


def _result_page(request: PageRequest, listing: str) -> tuple[int, int, str]:
    return read_token(request, listing) or 0, page_size(request), listing
