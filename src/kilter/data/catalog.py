"""The tables' rows in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa

from kilter.core.errors import DeclarationError, NotFound
from kilter.data.batch import Batch, moment_of
from kilter.data.declare import Table
from kilter.data.records import Appended, Flush
from kilter.data.tables import data_requests, data_tables, data_versions
from kilter.engines.sql.database import Database
from kilter.journal.service import Journal


class Entry(msgspec.Struct, frozen=True):
    """A table as SQL has it.

    Args:
        name: The table.
        key: The column that identifies a row.
        time: The event-time column.
        kinds: The kind of each column, in the order of first appearance.
        flushed: The position of the row log up to which ``version`` of the files holds every part.
        version: The files' version, or None.
        parts: How many parts the files hold.
        flushed_at: When the newest of them arrived.
    """

    name: str
    key: str
    time: str
    kinds: dict[str, str]
    flushed: int
    version: int | None
    parts: int
    flushed_at: datetime | None

    @property
    def schema(self) -> dict[str, str]:
        """The kinds of all columns, the key first; a key that no row has yet is taken as a string."""
        return {self.key: self.kinds.get(self.key, "string"), **self.kinds}


_REQUEST = sa.select(data_requests.c.rows, data_requests.c.position, data_requests.c.at).where(
    data_requests.c.table == sa.bindparam("table"), data_requests.c.request == sa.bindparam("request")
)


class Catalog:
    """Which tables there are, what columns they have and how far they are flushed.

    Args:
        database: The store's metadata.
        journal: Where new versions of tables are noted.
    """

    def __init__(self, database: Database, journal: Journal | None = None) -> None:
        self._journal = journal
        self._database = database

    def entry(self, name: str) -> Entry | None:
        """Return a table, or None."""
        with self._database.reading() as connection:
            return _read(connection, name)

    def entries(self) -> list[Entry]:
        """Return all tables, by name."""
        with self._database.reading() as connection:
            return [_entry(row) for row in connection.execute(sa.select(data_tables).order_by(data_tables.c.name))]

    def declare(self, table: Table, times: Mapping[str, str], end: int, now: datetime) -> Entry:
        """Add a table, or time columns to a table that is there.

        Args:
            table: What was declared.
            times: The kinds of its time columns.
            end: The end of the row log: nothing of a new table can be before it.
            now: The time.

        Raises:
            DeclarationError: When it is there with another key, time or kind of a column.
        """
        where = f"Table({table.name!r})"
        with self._database.transaction() as connection:
            found = _read(connection, table.name, lock=True)
            if found is None:
                kinds = {table.key: "", **times}
                connection.execute(
                    sa.insert(data_tables).values(
                        name=table.name,
                        key=table.key,
                        time=table.time,
                        columns=[[name, kind] for name, kind in kinds.items() if kind],
                        flushed=end,
                        version=None,
                        parts=0,
                        declared_at=now,
                        flushed_at=None,
                    )
                )
                return Entry(table.name, table.key, table.time, dict(times), end, None, 0, None)
            if (found.key, found.time) != (table.key, table.time):
                raise DeclarationError(
                    f"key {table.key!r} and time {table.time!r} differ from what the store has",
                    where=where,
                    allowed=f"key={found.key!r}, time={found.time!r}",
                    fix="use these, or another name for the new table",
                )
            for name in times:
                if found.kinds.get(name, "time") != "time":
                    raise DeclarationError(
                        f"column {name!r} holds values of kind {found.kinds[name]}",
                        where=where,
                        allowed="a time column",
                        fix="send times as RFC 3339 with an offset, in a column of another name",
                    )
            return _add(connection, found, times)

    def add_columns(self, name: str, kinds: Mapping[str, str]) -> Entry:
        """Add columns to a table; one that another process has added meanwhile keeps its kind.

        Raises:
            NotFound: When there is no such table.
        """
        with self._database.transaction() as connection:
            found = _read(connection, name, lock=True)
            if found is None:
                raise NotFound(f"there is no table {name!r}", where="data")
            return _add(connection, found, kinds)

    def flushed(
        self,
        entry: Entry,
        position: int,
        *,
        version: int | None,
        parts: int,
        at: datetime,
        requests: Sequence[Batch] = (),
    ) -> Entry:
        """Move a table's cursor, unless another process has moved it as far meanwhile.

        Args:
            entry: The table as it was when the flush began.
            position: Where the cursor goes.
            version: The version of the files that holds everything up to there.
            parts: How many parts were added.
            at: When the newest of them arrived.
            requests: Batches that may have a caller's id, which is remembered.
        """
        with self._database.transaction() as connection:
            found = _read(connection, entry.name, lock=True) or entry
            if found.flushed >= position:
                return found
            total = entry.parts + parts
            connection.execute(
                sa.update(data_tables)
                .where(data_tables.c.name == entry.name)
                .values(flushed=position, version=version, parts=total, flushed_at=at)
            )
            if version is not None and parts:
                connection.execute(
                    sa.insert(data_versions).values(
                        table=entry.name, position=position, version=version, parts=parts, at=at
                    )
                )
                if self._journal is not None:
                    told = {"table": entry.name, "version": version, "position": position, "parts": parts}
                    self._journal.append(connection, "TableVersioned", f"table:{entry.name}", told, at=at)
            named = [
                {
                    "table": entry.name,
                    "request": one.request,
                    "position": one.position,
                    "rows": len(one),
                    "at": moment_of(one.at),
                }
                for one in requests
                if one.request and one.position > found.flushed
            ]
            if named:
                connection.execute(sa.insert(data_requests), named)
            return msgspec.structs.replace(found, flushed=position, version=version, parts=total, flushed_at=at)

    def request(self, table: str, request: str) -> Appended | None:
        """Return the acknowledgement of an earlier append with this id, if it was flushed since."""
        with self._database.reading() as connection:
            row = connection.execute(_REQUEST, {"table": table, "request": request}).one_or_none()
            if row is None:
                return None
            return Appended(table, row.rows, row.position, row.at)

    def requests(self, table: str, limit: int) -> list[str]:
        """Return the ids of the appends that were flushed, in no order."""
        query = sa.select(data_requests.c.request).where(data_requests.c.table == table).limit(limit)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def versions(self, table: str, limit: int) -> list[Flush]:
        """Return the versions of a table's files, newest first."""
        query = (
            sa.select(data_versions)
            .where(data_versions.c.table == table)
            .order_by(data_versions.c.position.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [Flush(row.table, row.position, row.version, row.parts, row.at) for row in connection.execute(query)]


def _read(connection: sa.Connection, name: str, *, lock: bool = False) -> Entry | None:
    query = sa.select(data_tables).where(data_tables.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else _entry(row)


def _entry(row: sa.Row[tuple[object, ...]]) -> Entry:
    found = row._mapping  # noqa: SLF001 - the public way to read a row by name
    return Entry(
        name=found["name"],
        key=found["key"],
        time=found["time"],
        kinds=dict(found["columns"]),
        flushed=found["flushed"],
        version=found["version"],
        parts=found["parts"],
        flushed_at=found["flushed_at"],
    )


def _add(connection: sa.Connection, found: Entry, kinds: Mapping[str, str]) -> Entry:
    merged = {**found.kinds, **{name: kind for name, kind in kinds.items() if name not in found.kinds}}
    if merged != found.kinds:
        connection.execute(
            sa.update(data_tables)
            .where(data_tables.c.name == found.name)
            .values(columns=[[name, kind] for name, kind in merged.items()])
        )
    return msgspec.structs.replace(found, kinds=merged)
