"""What the data room answers with."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Appended(msgspec.Struct, frozen=True):
    """The acknowledgement of an append: the rows are on disk.

    Args:
        table: The table.
        rows: How many parts of rows were taken.
        position: Where the row log has them; later appends have greater positions.
        at: When they arrived.
        repeated: The same request id had been acknowledged before, and nothing was written again.
    """

    table: str
    rows: int
    position: int
    at: datetime
    repeated: bool = False


class ColumnInfo(msgspec.Struct, frozen=True):
    """A column: its kind is ``boolean``, ``integer``, ``float``, ``string`` or ``time``."""

    name: str
    kind: str


class TableInfo(msgspec.Struct, frozen=True):
    """A table as declared, and how much of its row log is in its files.

    Args:
        name: The table.
        key: The column that identifies a row.
        time: The event-time column.
        columns: All columns seen so far, in the order of their first appearance.
        parts: How many parts of rows the files hold.
        flushed: The position of the row log up to which the files hold them.
        version: The files' version, or None before the first flush.
    """

    name: str
    key: str
    time: str
    columns: tuple[ColumnInfo, ...]
    parts: int
    flushed: int
    version: int | None


class TableDescription(msgspec.Struct, frozen=True):
    """A table and its rows.

    Args:
        table: The table.
        rows: How many rows there are, each made of its parts.
        untimed: How many of them have no event time (yet); no window can use them.
        first: The least event time.
        last: The greatest event time.
        nulls: Missing values by column.
        position: Of the newest part.
        at: When the newest part arrived, or None for an empty table.
    """

    table: TableInfo
    rows: int
    untimed: int
    first: datetime | None
    last: datetime | None
    nulls: dict[str, int]
    position: int
    at: datetime | None


class Flush(msgspec.Struct, frozen=True):
    """A version of a table's files.

    Args:
        table: The table.
        position: The position of the row log up to which the version holds every part.
        version: Its number.
        parts: How many parts it added.
        at: When it was written.
    """

    table: str
    position: int
    version: int
    parts: int
    at: datetime


class TableVersion(msgspec.Struct, frozen=True):
    """The rows of a table as known at a moment, named by their content.

    Args:
        table: The table.
        known_by: The moment; None for everything that has arrived.
        position: The position of the newest part among them.
        rows: How many rows.
        digest: Of all rows and columns: the same rows have the same digest on every engine.
    """

    table: str
    known_by: datetime | None
    position: int
    rows: int
    digest: str
