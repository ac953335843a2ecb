"""Indexes with their jobs, the rows that were erased of them, and the aliases that mean them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "indexes",
        sa.Column("seq", _Sequence, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("erased", sa.BigInteger, nullable=False),
        sa.Column("lost", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("explain_time", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("tenant", "id"),
    )
    op.create_table(
        "index_jobs",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("job", sa.String(32), primary_key=True),
        sa.Column("index_id", sa.String(32), nullable=False),
    )
    op.create_index("index_jobs_by_index", "index_jobs", ["tenant", "index_id"])
    op.create_table(
        "erased_rows",
        sa.Column("index", _Sequence, primary_key=True, autoincrement=False),
        sa.Column("row", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String(64), nullable=False),
    )
    op.create_table(
        "aliases",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("index_id", sa.String(32), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("aliases_by_index", "aliases", ["tenant", "index_id"])


def downgrade() -> None:
    """Undo."""
    for table in ("aliases", "erased_rows", "index_jobs", "indexes"):
        op.drop_table(table)
