"""Migrations that die, and what SQLite leaves behind."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import inspect, text

from undue_service.adapters.sql.database import connect, migrate
from undue_service.adapters.sql.inventory import SqlInventory
from undue_service.adapters.sql.jobs import SqlJobStore
from undue_service.adapters.sql.registry import SqlRegistry
from undue_service.adapters.sql.tables import metadata
from undue_service.domain.jobs import Job, JobState
from undue_service.domain.names import new_token
from undue_service.domain.resources import Registration
from undue_service.domain.specs import ArraysSource, FileSource, LocatedFile, SchemaSpec, TensorRef, UploadedFile
from undue_service.domain.validations import DatasetValidation

NOW = datetime(2026, 1, 1, tzinfo=UTC)

DIES_IN_A_MIGRATION = """
import os, sys
from alembic import op
from undue_service.adapters.sql.database import connect, migrate

real, left = op.create_table, [int(sys.argv[2])]

def create_table(*arguments, **options):
    if left[0] == 0:
        os._exit(9)
    left[0] -= 1
    return real(*arguments, **options)

op.create_table = create_table
migrate(connect(sys.argv[1]))
"""

DIES_WITH_A_JOB = """
import os, sys
from datetime import UTC, datetime, timedelta
from undue_service.adapters.sql.database import connect, migrate
from undue_service.adapters.sql.jobs import SqlJobStore
from undue_service.domain.jobs import Job
from undue_service.domain.validations import DatasetValidation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
engine = connect(sys.argv[1])
migrate(engine)
store = SqlJobStore(engine)
store.add("t", lambda: Job("t", "j", DatasetValidation("datasets/d/versions/1"), NOW), None)
store.lease(NOW, NOW + timedelta(seconds=15))
os._exit(9)
"""


def run(code, *arguments):
    assert subprocess.run([sys.executable, "-c", code, *arguments], timeout=60).returncode == 9


@pytest.mark.parametrize("tables", [0, 1, 3])
def test_a_migration_that_was_killed_in_the_middle_has_changed_nothing(tmp_path, tables):
    url = f"sqlite:///{tmp_path / 'undue.sqlite3'}"
    run(DIES_IN_A_MIGRATION, url, str(tables))
    engine = connect(url)
    assert inspect(engine).get_table_names() == []
    migrate(engine)
    migrate(engine)
    assert set(inspect(engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    engine.dispose()


def test_a_database_from_before_knows_afterwards_what_its_versions_are_made_of(tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'undue.sqlite3'}")
    migrate(engine)
    registry = SqlRegistry(engine)
    digests = [f"{number:02d}" * 32 for number in range(4)]
    arrays = ArraysSource({"digest": TensorRef("int8", (1,), digests[0])})
    arrays.groups["g"] = TensorRef("int8", (1,), digests[1])
    arrays.inputs["again"] = arrays.inputs["digest"]
    columns = SchemaSpec({"digest": ("digest",)}, groups=("digest",))
    lying = FileSource("csv", (LocatedFile("ä.csv", "/data/ä.csv", 1, 2, 0, 0),), columns, "file:///data/ä.csv")
    uploaded = FileSource("csv", (UploadedFile("a", digests[2]), UploadedFile("b", digests[3])), columns)
    images = FileSource("image_folder", (LocatedFile("a/1.png", "/data/a/1.png", 1, 2, 0, 0),), columns, "file:///data")
    for spec in (arrays, uploaded, lying, images):
        registry.add(lambda version, spec=spec: a_version(version, spec), "t", "datasets", "d", None)
    registry.add(lambda version: a_version(version, arrays), "t", "datasets", "gone", None)
    expected = SqlInventory(engine).referenced()
    assert expected == {("t", digest) for digest in digests}
    with engine.begin() as connection:  # as 0002 left it
        for table in ("aliases", "erased_rows", "index_jobs", "indexes", "version_artifacts"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(
            text("UPDATE versions SET spec = replace(spec, :none, :files || files) WHERE version = 4"),
            {"none": '"files":[]', "files": '"files":'},
        )
        connection.execute(text("ALTER TABLE versions DROP COLUMN files"))
        connection.execute(text("UPDATE versions SET spec = '' WHERE id = 'gone'"))
        shorter = text("UPDATE versions SET spec = replace(spec, :added, '')")
        connection.execute(shorter, {"added": ',"ctime_ns":0,"inode":0'})
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
        assert connection.execute(text("SELECT count(*) FROM versions WHERE spec LIKE '%inode%'")).scalar() == 0
    migrate(engine)
    assert SqlInventory(engine).referenced() == expected
    found = registry.list("t", "datasets", "d", 9, None).items
    assert [one.spec for one in found] == [replace(images, files=()), lying, uploaded, arrays]
    assert registry.files("t", "d", 4) == images.files
    engine.dispose()


def a_version(version, spec):
    check = Job("t", new_token(), DatasetValidation(f"datasets/d/versions/{version}"), NOW)
    return Registration("t", "datasets", "d", version, spec, check, NOW)


def test_what_was_committed_is_read_from_the_log_that_a_killed_process_left(tmp_path):
    file = tmp_path / "undue.sqlite3"
    run(DIES_WITH_A_JOB, f"sqlite:///{file}")
    assert os.stat(f"{file}-wal").st_size > 0
    engine = connect(f"sqlite:///{file}")
    migrate(engine)
    store = SqlJobStore(engine)
    job = Job("t", "j", DatasetValidation("datasets/d/versions/1"), NOW)
    assert store.get("t", "j") == job.start(NOW)
    assert store.lease(NOW, NOW) is None, "its lease has not run out"
    store.expire_leases()
    lease = store.lease(NOW, NOW + timedelta(seconds=15))
    assert (lease.job.state, lease.job.interruptions, lease.token) == (JobState.RUNNING, 1, 2)
    engine.dispose()


def test_a_power_cut_loses_nothing_that_was_committed(tmp_path):
    engine = connect(f"sqlite:///{tmp_path / 'undue.sqlite3'}")
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2, "FULL"
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    engine.dispose()
