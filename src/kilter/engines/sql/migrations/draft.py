"""Say what a new step of the schema would have to do.

Nobody runs this by hand: the test of the migrations fails when a room's tables have moved on, and prints the draft.
"""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext

from kilter.engines.sql.types import Json, UtcDateTime


def draft(connection: sa.Connection, metadata: sa.MetaData) -> str:
    """Return the operations, as Python, that would bring a database to the tables of the code; empty if it is there.

    Args:
        connection: To a migrated database.
        metadata: The tables of all rooms.
    """
    options = {"target_metadata": metadata, "compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    steps = produce_migrations(context, metadata).upgrade_ops
    if steps is None or steps.is_empty():
        return ""
    return render_python_code(steps, render_item=_render, migration_context=context)


def _render(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write Kilter's own types by their short names."""
    if kind == "type" and isinstance(item, UtcDateTime | Json):
        return f"{type(item).__name__}()"
    return False
