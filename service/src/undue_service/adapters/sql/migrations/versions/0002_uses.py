"""Who names which model or data set: what its deletion asks for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "uses",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("target", sa.String(160), primary_key=True),
        sa.Column("user", sa.String(160), primary_key=True),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("uses")
