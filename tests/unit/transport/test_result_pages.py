"""Pages of explanations and self-influences are bounded in bytes, and so is what is read for them."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from undue.v1 import jobs_pb2
from undue_service.transport.servicers import JobServicer
from undue_service.wire.examples import PAGE_BYTES, encode_ids
from undue_service.wire.results import SafetensorsResults, write

SLACK = 1 << 10
"""The page token and what is around the items."""


def facts(n, ids, outputs, prefix=""):
    rng = np.random.default_rng(n)
    wide = (n, outputs) if outputs > 1 else n
    columns = {"row": np.arange(n), "prediction": rng.normal(size=wide), "target": rng.normal(size=wide)}
    columns["loss"] = rng.normal(size=n)
    return {f"{prefix}{name}": array for name, array in columns.items()} | encode_ids(
        [f"{i:0{ids}}" for i in range(n)], prefix
    )


@pytest.fixture
def servicer(tmp_path):
    """servicer(arrays) over a result with these arrays."""

    def make(arrays):
        path, reader = tmp_path / "result", SafetensorsResults()
        write(path, arrays)
        results = SimpleNamespace(
            explanations=lambda tenant, name, *page: reader.explanations(path, *page),
            explanation_blocks=lambda tenant, name: reader.explanation_blocks(path),
            self_influences=lambda tenant, name, *page: reader.self_influences(path, *page),
            self_influence_blocks=lambda tenant, name: reader.self_influence_blocks(path),
        )
        return JobServicer(SimpleNamespace(jobs=None, results=results, perturbations=None, deletions=None))

    return make


async def pages(method, request):
    found = [await method(request, None)]
    while found[-1].next_page_token:
        request.page_token = found[-1].next_page_token
        found.append(await method(request, None))
    return found


SIDES = ("helpful", "harmful")
SHAPES = [(4, 1), (4096, 1), (4, 400), (4096, 400)]


@pytest.mark.parametrize(("ids", "outputs"), SHAPES)
def test_pages_of_self_influences_are_bounded_in_bytes(servicer, ids, outputs):
    service = servicer(facts(3000, ids, outputs) | {"score": -np.arange(3000.0)})

    async def read():
        request = jobs_pb2.ListSelfInfluencesRequest(parent="jobs/x", page_size=1000)
        stream = service.ReadSelfInfluences(jobs_pb2.ReadSelfInfluencesRequest(name="jobs/x"), None)
        return await pages(service.ListSelfInfluences, request), [one async for one in stream]

    found, stream = asyncio.run(read())
    assert max(page.ByteSize() for page in found) <= PAGE_BYTES + SLACK
    assert all(len(page.examples) == 1000 or page.ByteSize() > 0.8 * PAGE_BYTES for page in found[:-1])
    assert [one for page in found for one in page.examples] == stream
    assert [(one.row, one.id, one.score) for one in stream] == [(i, f"{i:0{ids}}", -i) for i in range(3000)]


@pytest.mark.parametrize(("ids", "outputs"), SHAPES)
def test_pages_of_explanations_are_bounded_in_bytes(servicer, ids, outputs):
    m, k, u = 300, 5, 1000
    rng = np.random.default_rng(0)
    tests, train = facts(m, ids, outputs), facts(u, ids, outputs, "train_")
    named = {f"{side}_rows": np.where(rng.random((m, k)) < 0.2, -1, rng.integers(u, size=(m, k))) for side in SIDES}
    service = servicer(tests | train | named | {f"{side}_scores": rng.normal(size=(m, k)) for side in SIDES})

    async def read():
        request = jobs_pb2.ListExplanationsRequest(parent="jobs/x", page_size=1000)
        stream = service.ReadExplanations(jobs_pb2.ReadExplanationsRequest(name="jobs/x"), None)
        return await pages(service.ListExplanations, request), [one async for one in stream]

    found, stream = asyncio.run(read())
    assert max(page.ByteSize() for page in found) <= PAGE_BYTES + SLACK
    assert len(found) <= 2.5 * sum(page.ByteSize() for page in found) / PAGE_BYTES + 1
    assert [one for page in found for one in page.explanations] == stream
    assert [one.id for one in stream] == [f"{i:0{ids}}" for i in range(m)]
    for at in range(0, m, 37):
        for side in SIDES:
            rows = [row for row in named[f"{side}_rows"][at].tolist() if row >= 0]
            assert [one.row for one in getattr(stream[at], side)] == rows
            assert [one.id for one in getattr(stream[at], side)] == [f"{row:0{ids}}" for row in rows]
            assert [one.loss for one in getattr(stream[at], side)] == train["train_loss"][rows].tolist()


def test_one_item_that_is_larger_than_a_page_comes_by_itself(servicer):
    service = servicer(facts(3, 2 * PAGE_BYTES, 1) | {"score": np.zeros(3)})
    request = jobs_pb2.ListSelfInfluencesRequest(parent="jobs/x")
    assert [len(page.examples) for page in asyncio.run(pages(service.ListSelfInfluences, request))] == [1, 1, 1]


def test_a_page_reads_its_own_rows_alone(tmp_path):
    """What is no text beyond the page does not matter to it."""
    arrays = facts(100, 8, 1) | {"score": np.zeros(100)}
    ids = arrays["ids"].copy()
    ids[: 9 * 10], ids[9 * 20 :] = 0xFF, 0xFF
    write(tmp_path / "result", arrays | {"ids": ids})
    found, more = SafetensorsResults().self_influences(tmp_path / "result", 10, 10)
    assert [one.id for one in found] == [f"{i:08}" for i in range(10, 20)]
    assert more == 20
