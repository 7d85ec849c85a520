"""What Alembic runs: the steps, on the connection that was handed in."""

from __future__ import annotations

from alembic import context

from kilter.engines.sql.database import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
