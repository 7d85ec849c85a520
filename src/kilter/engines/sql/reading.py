"""The rows of a query, in the order of a key, through a cursor on the server: any number of them in bounded memory.

The query is read as it is, inside one that orders it: ``SELECT ... FROM (query) WHERE key >= :from ORDER BY key``. The types of
its columns come from the database and not from the values, so that all batches agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import sqlalchemy as sa

from kilter.core.errors import InvalidInput
from kilter.engines.sql.places import Place, connected, reaching

_UTC = pl.Datetime("us", "UTC")
_POSTGRESQL: dict[int, pl.DataType] = {
    16: pl.Boolean(), 20: pl.Int64(), 21: pl.Int64(), 23: pl.Int64(), 26: pl.Int64(), 700: pl.Float64(), 701: pl.Float64(),
    1700: pl.Float64(), 25: pl.String(), 1042: pl.String(), 1043: pl.String(), 19: pl.String(), 2950: pl.String(),
    114: pl.String(), 3802: pl.String(), 1082: pl.Date(), 1114: pl.Datetime("us"), 1184: _UTC,
}  # fmt: skip
_MYSQL: dict[int, pl.DataType] = {
    0: pl.Float64(), 246: pl.Float64(), 4: pl.Float64(), 5: pl.Float64(), 1: pl.Int64(), 2: pl.Int64(), 3: pl.Int64(),
    8: pl.Int64(), 9: pl.Int64(), 13: pl.Int64(), 7: pl.Datetime("us"), 12: pl.Datetime("us"), 10: pl.Date(), 15: pl.String(),
    252: pl.String(), 253: pl.String(), 254: pl.String(),
}  # fmt: skip
_SQLITE: tuple[tuple[str, pl.DataType], ...] = (
    ("BOOL", pl.Boolean()), ("INT", pl.Int64()), ("CHAR", pl.String()), ("TEXT", pl.String()), ("CLOB", pl.String()),
    ("DATE", pl.String()), ("TIME", pl.String()), ("REAL", pl.Float64()), ("FLOA", pl.Float64()), ("DOUB", pl.Float64()),
    ("NUMERIC", pl.Float64()), ("DECIMAL", pl.Float64()),
)  # fmt: skip
"""SQLite's rule of affinity: a part of the declared type's name."""

_CASTS = {1700: sa.Double(), 2950: sa.Text(), 114: sa.Text(), 3802: sa.Text()}
_DECIMALS = (0, 246)
KEYS = (pl.Int64, pl.String, pl.Date, pl.Datetime)
"""The types that a key may have: those with an order that is the same on both sides."""


class Query:
    """A query's rows.

    Args:
        place: Where, with the query.
        key: The column that identifies a row and gives the order.

    Raises:
        InvalidInput: When the query can't be run, or the key is not among its columns or can't order them.
        Unavailable: When the database can't be reached.
    """

    def __init__(self, place: Place, key: str) -> None:
        self.where = place.where
        self.key = key
        # A colon would begin a parameter, and has to be said otherwise; a comment at the end must not swallow the bracket.
        self._text = place.query.strip().rstrip(";").strip().replace(":", "\\:") + "\n"
        self._engine = connected(place)
        self._dialect = self._engine.dialect.name
        self._mysql = self._dialect in ("mysql", "mariadb")
        with reaching(self.where):
            self.schema, self._columns = self._described()
        self._check_key()

    def count(self) -> int:
        """Return how many rows there are now.

        Raises:
            InvalidInput: When the key of a row is null.
        """
        rows = self._rows([self.key])
        statement = sa.select(sa.func.count(), sa.func.count(rows.c[self.key])).select_from(rows)
        with reaching(self.where), self._connection() as connection:
            every, keyed = connection.execute(statement).one()
        if keyed < every:
            raise InvalidInput(
                f"the key is null in {every - keyed} rows", where=self.key, fix="leave them out in the query, or give another key"
            )  # fmt: skip
        return int(every)

    def batches(self, rows: int, after: Any = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in the order of the key, in frames of at most ``rows``.

        Args:
            rows: Rows per frame.
            after: The key of the last row that is done; None for all.

        Raises:
            InvalidInput: When two rows have the same key, which leaves no order to go on in.
        """
        last, first = after, True
        for frame in self._pages(rows, after) if self._dialect == "sqlite" else self._stream(rows, after):
            known = frame[self.key].to_list()
            if last is not None and known[0] == last and (first or self._dialect == "sqlite"):
                frame, known = frame.slice(1), known[1:]  # noqa: PLW2901 - the row behind which to go on
            first = False
            self._check(known, last)
            if known:
                last = known[-1]
                yield frame

    def _stream(self, rows: int, start: Any) -> Iterator[pl.DataFrame]:
        """Yield the rows from a key on, itself among them, through one cursor."""
        with reaching(self.where), self._connection() as connection:
            result = connection.execution_options(stream_results=True, yield_per=rows).execute(self._statement(start))
            try:
                for part in result.partitions(rows):
                    yield self._frame(part)
            finally:
                result.close()  # before the connection, which drivers don't like to give back in the middle of rows

    def _pages(self, rows: int, start: Any) -> Iterator[pl.DataFrame]:
        """Yield the same, page by page: a reader of SQLite that does not let go keeps every writer of the file waiting."""
        while True:
            most = rows if start is None else rows + 1
            with reaching(self.where), self._connection() as connection:
                found = connection.execute(self._statement(start).limit(most)).all()
            if found:
                frame = self._frame(found)
                start = frame[self.key][-1]
                yield frame
            if len(found) < most:
                return

    def _statement(self, start: Any) -> sa.Select[Any]:
        source = self._rows(list(self.schema))
        order = self._ordered(source.c[self.key])
        statement = sa.select(*(self._cast(source.c[name], code) for name, code in self._columns)).order_by(order)
        return statement if start is None else statement.where(order >= self._ordered(sa.literal(start)))

    # ---------------------------------------------------------------- statements

    def _rows(self, names: list[str]) -> sa.Subquery:
        return sa.text(self._text).columns(*(sa.column(name) for name in names)).subquery("kilter_rows")

    def _ordered(self, column: Any) -> Any:
        """Return a key so that the database tells apart and orders what Python does."""
        if self.schema[self.key] != pl.String():
            return column
        if self._mysql:
            return sa.cast(column, sa.BINARY())
        return sa.collate(column, "BINARY") if self._dialect == "sqlite" else column

    def _cast(self, column: Any, code: int) -> Any:
        if self._mysql and code in _DECIMALS:
            return (column + sa.literal_column("0e0")).label(column.name)
        kind = _CASTS.get(code) if self._dialect == "postgresql" else None
        return column if kind is None else sa.cast(column, kind).label(column.name)

    def _connection(self) -> sa.Connection:
        connection = self._engine.connect()
        if self._dialect == "postgresql":
            return connection.execution_options(postgresql_readonly=True)
        if self._mysql:
            connection.exec_driver_sql("SET time_zone = '+00:00'")
        connection.exec_driver_sql("SET TRANSACTION READ ONLY" if self._mysql else "PRAGMA query_only=1")
        return connection

    # ---------------------------------------------------------------- types

    def _described(self) -> tuple[dict[str, pl.DataType], list[tuple[str, int]]]:
        if not self._text.strip():
            raise InvalidInput("there is no query", where="query", allowed="SELECT ...")
        statement = sa.text(f"SELECT * FROM ({self._text}) AS kilter_rows LIMIT 0")
        with self._connection() as connection:
            cursor: Any = connection.execute(statement).cursor
            described = [] if cursor is None else list(cursor.description)
        names = [str(one[0]) for one in described]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidInput(
                f"two columns are called {twice!r}", where="query", fix="name one of them otherwise: AS ..."
            )
        if self._dialect == "sqlite":
            return self._sqlite_types(names), [(name, 0) for name in names]
        known = _MYSQL if self._mysql else _POSTGRESQL
        found: dict[str, pl.DataType] = {}
        for name, one in zip(names, described, strict=True):
            if one[1] not in known:
                raise InvalidInput(
                    f"the column is of a type that can't be read ({one[1]})", where=f"query: {name}", fix="cast it in the query"
                )  # fmt: skip
            found[name] = known[one[1]]
        return found, [(name, int(one[1])) for name, one in zip(names, described, strict=True)]

    def _sqlite_types(self, names: list[str]) -> dict[str, pl.DataType]:
        """Return the declared types; SQLite knows them of a view, and has none for what is calculated."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only=0")
            connection.execute(sa.text(f"CREATE TEMP VIEW kilter_types AS {self._text}"))
            try:
                declared = [
                    str(row[2]).upper() for row in connection.exec_driver_sql("PRAGMA table_info(kilter_types)")
                ]
            finally:
                connection.exec_driver_sql("DROP VIEW temp.kilter_types")
            found = {
                name: next((kind for part, kind in _SQLITE if part in text), None)
                for name, text in zip(names, declared, strict=True)
            }
            for name in [name for name, kind in found.items() if kind is None]:
                found[name] = self._seen_type(connection, name)
        return {name: kind for name, kind in found.items() if kind is not None}

    def _seen_type(self, connection: sa.Connection, name: str) -> pl.DataType:
        column: sa.ColumnClause[Any] = sa.column(name)
        kinds = sa.select(sa.func.typeof(column)).select_from(
            sa.text(self._text).columns(column).subquery("kilter_rows")
        )  # fmt: skip
        seen = set(connection.execute(kinds.distinct()).scalars()) - {"null"}
        if seen <= {"integer"} and seen:
            return pl.Int64()
        if seen <= {"integer", "real"} and seen:
            return pl.Float64()
        if seen <= {"text"}:
            return pl.String()
        raise InvalidInput(
            f"the column holds {' and '.join(sorted(seen))}", where=f"query: {name}", fix="cast it in the query"
        )

    def _check_key(self) -> None:
        kind = self.schema.get(self.key)
        if kind is None:
            raise InvalidInput(
                f"the query has no column {self.key!r}", where="key", allowed=", ".join(self.schema), fix="give --key COLUMN"
            )  # fmt: skip
        if not isinstance(kind, KEYS):
            raise InvalidInput(
                f"the key is {kind}", where=self.key, allowed="whole numbers, text, dates or times", fix="give another key"
            )  # fmt: skip

    # ---------------------------------------------------------------- rows

    def _frame(self, part: Any) -> pl.DataFrame:
        columns = zip(*part, strict=True)
        return pl.DataFrame(
            [_series(name, kind, values) for (name, kind), values in zip(self.schema.items(), columns, strict=True)]
        )

    def _check(self, known: list[Any], last: Any) -> None:
        if any(one is None for one in known):
            raise InvalidInput(
                "the key is null", where=self.key, fix="leave such rows out in the query, or give another key"
            )
        for one in known:
            if one == last:
                raise InvalidInput(
                    "two rows have the same key", where=self.key, fix="give a key that is unique in the query's rows"
                )
            last = one


def _series(name: str, kind: pl.DataType, values: Any) -> pl.Series:
    try:
        if isinstance(kind, pl.Boolean):
            values = [None if one is None else bool(one) for one in values]
        return pl.Series(name, values, dtype=kind, strict=True)
    except (TypeError, pl.exceptions.PolarsError, OverflowError) as error:
        raise InvalidInput(f"a value is no {kind}", where=f"query: {name}", fix="cast it in the query") from error
