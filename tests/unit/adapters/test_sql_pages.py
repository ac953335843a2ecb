"""Listings in SQL end by bytes: what a page has no room for is not even read."""

from datetime import UTC, datetime

import pytest

from undue_service.adapters.sql.database import PAGE_BYTES, connect, migrate
from undue_service.adapters.sql.jobs import SqlJobStore
from undue_service.domain.jobs import Job
from undue_service.domain.names import new_token
from undue_service.domain.retraining import Retrain
from undue_service.wire.codec import JOB

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'undue.sqlite3'}")
    migrate(engine)
    yield SqlJobStore(engine)
    engine.dispose()


def add(store, rows):
    spec = Retrain("models/m", "datasets/a", "datasets/b", without=(tuple(range(rows)),))
    return store.add("t", lambda: Job("t", new_token(), spec, NOW), None)


def test_a_page_ends_by_bytes(store):
    jobs = [add(store, 50_000) for _ in range(8)]
    size = len(JOB.dump(jobs[0]))
    page = store.list("t", 100, None)
    assert len(page.items) == PAGE_BYTES // size
    assert store.list("t", 100, page.next_before).items[0].id == jobs[-1 - len(page.items)].id


def test_one_that_is_larger_than_a_page_comes_alone(store):
    jobs = [add(store, 400_000) for _ in range(2)]
    assert len(JOB.dump(jobs[0])) > PAGE_BYTES
    page = store.list("t", 100, None)
    assert page.items == (jobs[1],)
    assert store.list("t", 100, page.next_before).items == (jobs[0],)
    assert store.list("t", 100, page.next_before).next_before is None
