"""One process at a time works on the schema of a database."""

from __future__ import annotations

import sqlalchemy as sa

_LOCK = 7_246_001


def serialise(connection: sa.Connection) -> None:
    """Wait until nobody else works on the schema; the turn ends with the transaction.

    Args:
        connection: One with a transaction that writes.
    """
    # SQLite has one writer anyway; PostgreSQL holds this lock until the commit.
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
