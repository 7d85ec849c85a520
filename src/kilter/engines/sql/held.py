"""A connection that one thread keeps, for writing again and again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from kilter.core.errors import Damaged, Unavailable
from kilter.engines.sql.failures import translated


class Held:
    """Transactions on one connection, which is neither fetched nor put away for each of them.

    Only one thread uses it. After an error of the database the connection is given up, and the next transaction opens another.

    Args:
        where: The URL without its password, for messages.
        engine: The engine for transactions that write.
    """

    def __init__(self, where: str, engine: sa.Engine) -> None:
        self._where = where
        self._engine = engine
        self._connection: sa.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Open a transaction that writes, as :meth:`Database.transaction` does; on SQLite for prepared statements only.

        Raises:
            Unavailable: When the store is busy for too long, read-only, full or unreachable.
        """
        connection = self._connection
        try:
            with translated(self._where):
                if connection is None:
                    connection = self._connection = self._engine.connect()
                if connection.dialect.name == "sqlite":
                    with _own(connection.connection.dbapi_connection):
                        yield connection
                else:
                    with connection.begin():
                        yield connection
        except (sa.exc.SQLAlchemyError, sqlite3.Error, Unavailable, Damaged):
            self.close()
            raise

    def close(self) -> None:
        """Put the connection away."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@contextmanager
def _own(driver: Any) -> Iterator[None]:
    """Open a transaction of SQLite's driver itself: what SQLAlchemy does around one costs as much as all of its statements."""
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
        driver.execute("COMMIT")
    except BaseException:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
        raise
