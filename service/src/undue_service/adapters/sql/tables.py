"""The tables, as the migrations leave them. Every one carries the tenant."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# SQLite numbers rows by itself only where the key is an INTEGER.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("body", Text, nullable=False),
    Column("fencing_token", BigInteger, nullable=False, default=0),
    Column("lease_until", DateTime(timezone=True)),
    UniqueConstraint("tenant", "id"),
    Index("jobs_by_state", "state", "seq"),
)

versions = Table(
    "versions",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("collection", String(16), nullable=False),
    Column("id", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", Text, nullable=False),
    Column("files", Text),  # of a spec that is listed apart
    Column("validation_job", String(32), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    UniqueConstraint("tenant", "collection", "id", "version"),
)

# What versions are made of, beside their specs: some of those are long, and cleaning up asks for all of them.
version_artifacts = Table(
    "version_artifacts",
    metadata,
    Column("version", _Sequence, primary_key=True, autoincrement=False),
    Column("digest", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(32), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("finished", Boolean, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("resource", String(160), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

uses = Table(
    "uses",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("target", String(160), primary_key=True),
    Column("user", String(160), primary_key=True),
)

indexes = Table(
    "indexes",
    metadata,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("id", String(32), nullable=False),
    Column("spec", Text, nullable=False),
    Column("erased", BigInteger, nullable=False),
    Column("lost", Text, nullable=False),  # names, one a line
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("explain_time", DateTime(timezone=True)),
    UniqueConstraint("tenant", "id"),
)

index_jobs = Table(
    "index_jobs",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("job", String(32), primary_key=True),
    Column("index_id", String(32), nullable=False),
    Index("index_jobs_by_index", "tenant", "index_id"),
)

# There may be very many: each says the number of its index, not its name.
erased_rows = Table(
    "erased_rows",
    metadata,
    Column("index", _Sequence, primary_key=True, autoincrement=False),
    Column("row", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", String(64), nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("index_id", String(32), nullable=False),
    Column("update_time", DateTime(timezone=True), nullable=False),
    Index("aliases_by_index", "tenant", "index_id"),
)
