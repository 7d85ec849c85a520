"""The schema of a store that is new, made at once from the tables of the rooms.

The steps lead to the same schema, and a test compares both on every engine. They take Alembic, which costs a process 10 MB and
most of its first answer, and a store without any rows has no history to go through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from kilter.engines.sql.migrations.serial import serialise
from kilter.engines.sql.migrations.versions import HEAD

if TYPE_CHECKING:
    from kilter.engines.sql.database import Database

_VERSIONS = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def make(database: Database, tables: sa.MetaData) -> bool:
    """Make the newest schema in an empty database, and return whether it was made: a second process waits, and finds it there.

    Args:
        database: Whose schema.
        tables: The tables of all rooms.
    """
    with database.transaction() as connection:
        serialise(connection)
        if sa.inspect(connection).has_table(_VERSIONS.name):
            return False
        tables.create_all(connection, checkfirst=False)
        _VERSIONS.create(connection, checkfirst=False)
        connection.execute(_VERSIONS.insert().values(version_num=HEAD))
    return True
