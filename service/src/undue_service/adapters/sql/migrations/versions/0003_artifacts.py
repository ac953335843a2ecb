"""Which artifacts each version is made of, and the long lists of files that lie where they are, beside the specs."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Apply."""
    table = op.create_table(
        "version_artifacts",
        sa.Column("version", _Sequence, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
    )
    op.add_column("versions", sa.Column("files", sa.Text))
    names = ("seq", "tenant", "spec", "files")
    versions = sa.table("versions", *(sa.column(name) for name in names))
    connection = op.get_bind()
    kept = connection.execute(sa.select(versions.c.seq).where(versions.c.spec != "")).scalars().all()
    for seq in kept:
        row = connection.execute(sa.select(versions).where(versions.c.seq == seq)).mappings().one()
        spec = json.loads(row["spec"])
        rows = [{"version": seq, "digest": digest, "tenant": row["tenant"]} for digest in dict.fromkeys(_digests(spec))]
        if rows:
            connection.execute(sa.insert(table), rows)
        lying = [file for file in spec.get("files", ()) if "path" in file]
        for file in lying:
            file |= {"ctime_ns": 0, "inode": 0}  # no file's: DATASET_CHANGED asks for it to be registered again
        if lying:
            changed = {}
            if spec["format"] in ("npz", "image_folder"):
                changed["files"] = json.dumps(lying, ensure_ascii=False)
                spec["files"] = []
            changed["spec"] = json.dumps(spec, ensure_ascii=False)
            connection.execute(sa.update(versions).where(versions.c.seq == seq).values(changed))


def downgrade() -> None:
    """Undo."""
    op.drop_column("versions", "files")
    op.drop_table("version_artifacts")


def _digests(value: Any) -> Iterator[str]:
    """Yield every digest inside a spec. Names are keys too, but a name's value is never a string."""
    if isinstance(value, dict):
        if isinstance(value.get("digest"), str):
            yield value["digest"]
        for inner in value.values():
            yield from _digests(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _digests(inner)
