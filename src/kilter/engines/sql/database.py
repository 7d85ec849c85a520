"""Transactions on SQLite and PostgreSQL through the same SQLAlchemy Core."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.sql.failures import translated
from kilter.engines.sql.held import Held
from kilter.engines.sql.migrations.fresh import make
from kilter.engines.sql.migrations.versions import HEAD, REVISIONS, TABLES
from kilter.engines.sql.types import Json, UtcDateTime

__all__ = ["Database", "Json", "UtcDateTime", "metadata"]

ALLOWED = '"sqlite:////folder/kilter.db" or "postgresql+psycopg://user@host:5432/name"'
_BUSY_SECONDS = 10.0

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every table of every room; each room's ``tables.py`` adds its own."""


class Database:
    """The metadata of a store.

    Open one with :meth:`open`; it is safe to use from several threads. Each process opens its own.

    Args:
        where: The URL without its password, for messages.
        writing: The engine for transactions that write.
        reading: The engine for transactions that read.
    """

    def __init__(self, where: str, writing: sa.Engine, reading: sa.Engine) -> None:
        self.where = where
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if writing.dialect.name == "sqlite" else "postgresql"
        self._writing = writing
        self._reading = reading
        self._thread = threading.local()

    @classmethod
    def open(cls, url: str, busy_seconds: float = _BUSY_SECONDS) -> Database:
        """Open the metadata of a store; SQLite makes the file if its folder exists or can be made.

        Args:
            url: ``sqlite:///path`` or ``postgresql+psycopg://user@host:port/name``.
            busy_seconds: How long a writer waits for another before it gives up.

        Raises:
            InvalidInput: When the URL names no database.
            Damaged: When the file is no database.
            Conflict: When the store's schema is newer than this code.
            Unavailable: When the folder or the server can't be used.
        """
        try:
            parsed = sa.make_url(url)
        except ArgumentError as error:
            raise InvalidInput(f"{url!r} is not a URL of a database", where="store", allowed=ALLOWED) from error
        where = parsed.render_as_string(hide_password=True)
        if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
            database = cls(where, *_open_sqlite(parsed, where, busy_seconds))
        elif parsed.drivername in ("postgresql", "postgresql+psycopg"):
            database = cls(where, *_open_postgresql(parsed, busy_seconds))
        else:
            raise InvalidInput(
                f"{parsed.drivername!r} is no database that Kilter knows", where="store", allowed=ALLOWED
            )
        try:
            database._refuse_newer()
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Open a transaction that writes: it commits at the end, and rolls back on any error.

        SQLite has one writer at a time, and the transaction waits for its turn here, never later (BEGIN IMMEDIATE).

        Raises:
            Unavailable: When the store is busy for too long, read-only, full or unreachable.
            Conflict: When this thread has a transaction open already: hand its connection on instead.
        """
        if getattr(self._thread, "writing", False):
            raise Conflict(
                "this thread has a transaction open already", where=self.where, fix="hand its connection to the callee"
            )
        self._thread.writing = True
        try:
            with translated(self.where), self._writing.begin() as connection:
                yield connection
        finally:
            self._thread.writing = False

    def hold(self) -> Held:
        """Return a connection for a thread that writes again and again; whoever asks closes it, before the database."""
        return Held(self.where, self._writing)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a transaction that only reads, and sees one moment from its first to its last statement.

        Raises:
            Unavailable: When the store is unreachable.
        """
        with translated(self.where), self._reading.connect() as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the schema to the newest version; two processes that start together do it once.

        A new store's is made at once where all rooms' tables are loaded, as a workspace has them; else the steps are gone through.

        Raises:
            Conflict: When the store's schema is newer than this code.
        """
        revision = self._revision()
        if revision == HEAD:
            return
        if revision is None:
            self._refuse_foreign()
            if len(metadata.tables) == TABLES and make(self, metadata):
                return
            if self._revision() == HEAD:  # another process made it first
                return
        # Alembic is heavy, and is needed only when there is something to migrate.
        from kilter.engines.sql.migrations.upgrade import upgrade  # noqa: PLC0415

        upgrade(self)

    def close(self) -> None:
        """Close all connections."""
        self._reading.dispose()
        self._writing.dispose()

    def _revision(self) -> str | None:
        """Return the schema's revision, or ``None`` for an empty store."""
        with self.reading() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return found

    def _refuse_foreign(self) -> None:
        """Refuse a database where someone else's tables have the names of ours."""
        with self.reading() as connection:
            names = set(sa.inspect(connection).get_table_names())
        taken = sorted(names.intersection(metadata.tables)) if "alembic_version" not in names else []
        if taken:
            raise Conflict(
                f"the database has a table {taken[0]!r} already, which Kilter's migrations did not make",
                where=self.where,
                fix="give an empty database or schema; nothing was changed",
            )

    def _refuse_newer(self) -> None:
        revision = self._revision()
        if revision is not None and revision not in REVISIONS:
            raise Conflict(
                f"the store's schema is at {revision!r}, newer than this version of Kilter knows",
                where=self.where,
                allowed=f"up to {HEAD}",
                fix="install the newer version of Kilter; nothing was changed",
            )


def _open_sqlite(url: sa.URL, where: str, busy_seconds: float) -> tuple[sa.Engine, sa.Engine]:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise InvalidInput("an SQLite store needs a file", where=where, allowed=ALLOWED)
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whether it is a database at all only SQLite looks at: to close a file that was opened beside it would drop the locks that other
        # connections of this process hold on it (POSIX), and another process would take its log away from under them.
    except OSError as error:
        raise Unavailable(
            f"the store can't be opened: {error.strerror}", where=str(path), fix="check the folder and its rights"
        ) from error
    arguments = {"timeout": busy_seconds, "isolation_level": None, "check_same_thread": False}
    # Each transaction that writes ends by itself, whatever happens: rolling back once more when its connection is put away is idle.
    writing = sa.create_engine(url.set(drivername="sqlite+pysqlite"), connect_args=arguments, pool_reset_on_return=None)
    reading = sa.create_engine(url.set(drivername="sqlite+pysqlite"), connect_args=arguments)

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # WAL lets readers go on beside the one writer; FULL makes every commit survive a power cut.
        _turn_on_wal(connection, busy_seconds)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    def prepare_reader(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA query_only=ON")

    def begin_writing(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def begin_reading(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    sa.event.listen(writing, "connect", prepare)
    sa.event.listen(writing, "begin", begin_writing)
    sa.event.listen(reading, "connect", prepare)
    sa.event.listen(reading, "connect", prepare_reader)
    sa.event.listen(reading, "begin", begin_reading)
    # The first connection makes the file and turns on WAL.
    with translated(where), writing.connect():
        pass
    return writing, reading


def _turn_on_wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Turn on WAL, which SQLite does not wait for when another process is turning it on as well."""
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _open_postgresql(url: sa.URL, busy_seconds: float) -> tuple[sa.Engine, sa.Engine]:
    given = url.query.get("options", "")
    options = f"{given if isinstance(given, str) else ' '.join(given)} -clock_timeout={busy_seconds * 1000:.0f}"
    settings: dict[str, Any] = {"connect_timeout": 5, "application_name": "kilter", "options": options.strip()}
    try:
        writing = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args=settings,
            pool_pre_ping=True,
            pool_timeout=busy_seconds,
        )
    except ModuleNotFoundError as error:
        raise Unavailable(
            "PostgreSQL needs the driver psycopg", where="store", fix="pip install 'kilter[postgres]'"
        ) from error
    # The driver sends both words with BEGIN: a snapshot that reads costs no extra round trip.
    reading = writing.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return writing, reading
