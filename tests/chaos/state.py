"""What is in a data directory, read past the service, and what must be true of it."""

import hashlib
import json
import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from chaos.catalogue import Asked
from chaos.process import Service
from undue_service.adapters.data_dir import DataDir

_REPLACED = """
    select index_jobs.job from index_jobs join jobs on jobs.id = index_jobs.job where jobs.seq < (
        select max(newer.seq) from jobs newer join index_jobs same on same.job = newer.id
        where same.index_id = index_jobs.index_id and newer.state = 'SUCCEEDED'
    )
"""
_DIGEST = re.compile("[0-9a-f]{64}")


def jobs(data: Path, unfinished_only: bool = False) -> list[dict]:
    """Return the jobs in the store, as they are written there."""
    if not (data / "undue.sqlite3").exists():
        return []
    where = "where state in ('QUEUED', 'RUNNING')" if unfinished_only else ""
    return [json.loads(body) for (body,) in _rows(data, f"select body from jobs {where} order by seq")]


def outcome(job: dict) -> dict:
    """Return what a job found, but for what was measured of the machine: the times that it took, its speed.

    The manifest of an index says what the report does, and how long it is depends on that.
    """
    results = {role: digest for role, digest in job["results"].items() if role != "manifest"}
    return {"results": results, "report": _untimed(job["report"])}


def _untimed(value):
    if isinstance(value, list):
        return [_untimed(each) for each in value]
    if isinstance(value, dict):
        return {name: _untimed(each) for name, each in value.items() if name not in ("speed", "seconds", "bytes")}
    return value


def check_jobs(data: Path, asked: Asked, quiet: dict[str, dict], api_kills: int, runner_kills: int) -> list[dict]:
    """Check that every job is there once, ended once and found what it finds without a kill."""
    found = {job["id"]: job for job in jobs(data)}
    assert set(found) == set(asked.jobs), "a job was lost or doubled"
    for job_id, what in asked.jobs.items():
        job = found[job_id]
        assert job["state"] == "SUCCEEDED", (what, job["failure"])
        assert outcome(job) == quiet[what], what
        assert job["attempt"] == 1 + job["lost_runners"] + job["interruptions"], job
    assert sum(job["interruptions"] for job in found.values()) <= api_kills
    assert sum(job["lost_runners"] for job in found.values()) <= runner_kills
    versions = [f"{collection}/{name}/versions/{number}" for collection, name, number in _versions(data)]
    assert sorted(versions) == sorted(asked.versions)
    return list(found.values())


def check_log(service: Service) -> None:
    """Check that no job ended twice."""
    ended = [line["job"] for message in ("job succeeded", "job failed") for line in service.said(message)]
    assert len(ended) == len(set(ended))


def check_files(data: Path, open_uploads: list[str]) -> None:
    """Check that the folders of a service that has ended hold what is referred to and nothing else."""
    assert _files(data / "scratch") == _files(data / "taken") == _files(data / "workspaces") == set()
    assert _files(data / "staging") == {f"default/{upload}" for upload in open_uploads}
    assert {upload for (upload,) in _rows(data, "select id from uploads where not finished")} == set(open_uploads)
    needed = {digest for (digest,) in _rows(data, "select sha256 from uploads where finished")}
    replaced = {job for (job,) in _rows(data, _REPLACED)}
    needed |= {digest for job in jobs(data) if job["id"] not in replaced for digest in job["results"].values()}
    needed |= {digest for (spec,) in _rows(data, "select spec from versions") for digest in _DIGEST.findall(spec)}
    assert _files(data / "artifacts") == {f"default/{digest[:2]}/{digest}" for digest in needed}
    for digest in needed:
        content = (data / "artifacts" / "default" / digest[:2] / digest).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    assert _rows(data, "pragma integrity_check") == [("ok",)]
    DataDir(data).release()


def largest(folder: Path) -> int:
    """Return the size of the largest file in a folder whose files come and go."""
    sizes = [0]
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                sizes.append(os.stat(os.path.join(place, name)).st_size)
    return max(sizes)


def _versions(data: Path) -> list[tuple]:
    return _rows(data, "select collection, id, version from versions")


def _rows(data: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(f"file:{data / 'undue.sqlite3'}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
