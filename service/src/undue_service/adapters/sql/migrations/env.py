"""Alembic's entry: it is only ever run by `database.migrate`, on the connection given there."""

from alembic import context

from undue_service.adapters.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
