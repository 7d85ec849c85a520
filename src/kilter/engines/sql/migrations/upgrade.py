"""Run Alembic's steps inside one transaction of the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from kilter.engines.sql.migrations.serial import serialise

if TYPE_CHECKING:
    from kilter.engines.sql.database import Database


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring a schema up to a revision; a second process waits, and then finds it done.

    Args:
        database: Whose schema.
        revision: The target; the newest if not said.
    """
    with database.transaction() as connection:
        serialise(connection)
        command.upgrade(configuration(connection), revision)


def downgrade(database: Database, revision: str = "base") -> None:
    """Bring a schema down to a revision; the rows of dropped tables are lost.

    Args:
        database: Whose schema.
        revision: The target; an empty store if not said.
    """
    with database.transaction() as connection:
        serialise(connection)
        command.downgrade(configuration(connection), revision)


def configuration(connection: sa.Connection) -> Config:
    """Return Alembic's configuration for an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config
