"""Pages of a retrain job's result stay below what gRPC clients take, whatever the number of test rows."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from undue.v1 import jobs_pb2
from undue_service.transport.paging import MAX_PAGE_BYTES
from undue_service.transport.servicers import JobServicer
from undue_service.wire.results import SafetensorsResults, write


@pytest.fixture
def servicer(tmp_path):
    """servicer(m) over a result of three fits and m test rows, read from a file."""

    def make(m):
        path, reader = tmp_path / "result", SafetensorsResults()
        columns = {
            "rows": np.arange(m),
            "costs": np.ones(m),
            "changes": np.arange(3 * m, dtype=np.float64).reshape(3, m),
            "gradient_norm": np.zeros(3),
            "iterations": np.zeros(3, dtype=np.int64),
            "without": np.arange(3),
            "offsets": np.arange(4),
        }
        write(path, columns)
        results = SimpleNamespace(
            measured=lambda tenant, name: reader.measured(path),
            counterfactuals=lambda tenant, name, start, count: reader.counterfactuals(path, start, count),
            counterfactual_blocks=lambda tenant, name: reader.counterfactual_blocks(path),
        )
        return JobServicer(SimpleNamespace(jobs=None, results=results, perturbations=None, deletions=None))

    return make


@pytest.mark.parametrize(("m", "alone"), [(2, False), (60_000, False), (120_000, True)])
def test_the_first_page_has_the_rows_and_no_page_is_large(servicer, m, alone):
    service = servicer(m)

    async def read():
        pages, token = [], None
        while token is None or token:
            request = jobs_pb2.ListCounterfactualsRequest(parent="jobs/x", page_token=token or "")
            pages.append(await service.ListCounterfactuals(request, None))
            token = pages[-1].next_page_token
        stream = service.ReadCounterfactuals(jobs_pb2.ReadCounterfactualsRequest(name="jobs/x"), None)
        return pages, [one async for one in stream]

    pages, stream = asyncio.run(read())
    assert list(pages[0].rows) == list(range(m))
    assert len(pages[0].costs) == m
    assert all(not page.rows and not page.costs for page in pages[1:])
    assert bool(pages[0].counterfactuals) != alone
    assert all(page.ByteSize() <= MAX_PAGE_BYTES for page in pages)
    assert [one for page in pages for one in page.counterfactuals] == stream
    assert list(stream[2].changes) == list(range(2 * m, 3 * m))
    assert [(one.index, list(one.without)) for one in stream] == [(0, [0]), (1, [1]), (2, [2])]
