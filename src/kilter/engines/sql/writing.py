"""Parts of a long job as rows of a database's table: each row once by its key, each part once, whatever is killed between.

A part's rows and the note that it is there are one transaction. A row whose key is there already is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from kilter.core.errors import InvalidInput
from kilter.engines.files.writing import NOWHERE, THE_END, Job
from kilter.engines.sql.places import Place, connected, reaching

_AT_ONCE = 2_000
_MYSQL = ("mysql", "mariadb")
_KEY_LETTERS = 255
_NOTES = sa.Table(
    "kilter_batches",
    sa.MetaData(),
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("piece", sa.BigInteger, nullable=False),
    sa.Column("part", sa.BigInteger, nullable=False),
)
"""How far each job is; it lies beside the table that the job writes."""


class DatabaseOutput:
    """Parts that go into a table of a database.

    Args:
        place: Where, with the table.
        job: The job.
        key: The column that identifies a row.

    Raises:
        InvalidInput: When the address names no table, or there is no key.
        Unavailable: When the database can't be reached.
    """

    def __init__(self, place: Place, job: Job, key: str) -> None:
        self._key = place.key or key
        self._where = place.where
        self._name = place.table
        self._job = job.digest
        if not self._name:
            raise InvalidInput("the address names no table", where="output", allowed="...?table=NAME")
        if not self._key:
            raise InvalidInput("a table's rows need a key", where="output", fix="add &key=COLUMN to the address")
        self._engine = connected(place)
        self._mysql = self._engine.dialect.name in _MYSQL
        self._table: sa.Table | None = None
        with reaching(self._where):
            _NOTES.create(self._engine, checkfirst=True)

    def last(self) -> tuple[int, int]:
        """Return the piece and the number of the last part that is there."""
        asked = sa.select(_NOTES.c.piece, _NOTES.c.part).where(_NOTES.c.job == self._job)
        with reaching(self._where), self._engine.connect() as connection:
            found = connection.execute(asked).one_or_none()
        return NOWHERE if found is None else (int(found.piece), int(found.part))

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Put a part's rows into the table, and note that they are there, in one transaction."""
        if self._key not in frame.columns:
            raise InvalidInput(
                f"the rows have no column {self._key!r}", where="output", allowed=", ".join(frame.columns), fix="keep it: --keep"
            )  # fmt: skip
        with reaching(self._where):
            table = self._opened(frame)
            with self._engine.begin() as connection:
                for some in frame.iter_slices(_AT_ONCE):
                    if some.height:
                        connection.execute(self._upsert(table, some.columns), _rows(some, self._engine.dialect.name))
                self._note(connection, piece, number)

    def finish(self) -> None:
        """Note that the job is done."""
        with reaching(self._where), self._engine.begin() as connection:
            self._note(connection, *THE_END)

    def _note(self, connection: sa.Connection, piece: int, number: int) -> None:
        connection.execute(
            self._upsert(_NOTES, ["job", "piece", "part"]), {"job": self._job, "piece": piece, "part": number}
        )

    def _upsert(self, table: sa.Table, names: list[str]) -> Any:
        """Return the statement that adds a row, or replaces the columns of the one that has its key."""
        keys = [column.name for column in table.primary_key] if table is _NOTES else [self._key]
        others = [name for name in names if name not in keys]
        if self._mysql:
            statement = mysql.insert(table)
            return statement.on_duplicate_key_update({name: statement.inserted[name] for name in others or keys})
        insert = postgresql.insert(table) if self._engine.dialect.name == "postgresql" else sqlite.insert(table)
        if not others:
            return insert.on_conflict_do_nothing(index_elements=keys)
        return insert.on_conflict_do_update(index_elements=keys, set_={name: insert.excluded[name] for name in others})

    # ---------------------------------------------------------------- the table

    def _opened(self, frame: pl.DataFrame) -> sa.Table:
        if self._table is None:
            schema, _, name = self._name.rpartition(".")
            inspector = sa.inspect(self._engine)
            if not inspector.has_table(name, schema=schema or None):
                made = sa.Table(name, sa.MetaData(), *self._made(frame.schema), schema=schema or None)
                made.create(self._engine, checkfirst=True)
            self._table = sa.Table(name, sa.MetaData(), schema=schema or None, autoload_with=self._engine)
            self._suits(self._table, frame)
        return self._table

    def _made(self, columns: Mapping[str, pl.DataType]) -> list[sa.Column[Any]]:
        return [
            sa.Column(name, self._kind(name, kind), primary_key=name == self._key, autoincrement=False)
            for name, kind in columns.items()
        ]

    def _kind(self, name: str, kind: pl.DataType) -> Any:
        if kind.is_integer():
            return sa.BigInteger()
        if kind.is_numeric():
            return sa.Double()
        if isinstance(kind, pl.Boolean):
            return sa.Boolean()
        if isinstance(kind, pl.Date):
            return sa.Date()
        if isinstance(kind, pl.Datetime):
            return mysql.DATETIME(fsp=6) if self._mysql else sa.DateTime(timezone=kind.time_zone is not None)
        if isinstance(kind, pl.String | pl.Categorical | pl.Enum | pl.Null):
            return sa.String(_KEY_LETTERS) if self._mysql and name == self._key else sa.Text()
        raise InvalidInput(f"a column of {kind} has no place in a table", where=name, fix="keep other columns")

    def _suits(self, table: sa.Table, frame: pl.DataFrame) -> None:
        """Refuse a table of somebody else before any row is in it."""
        missing = [name for name in frame.columns if name not in table.c]
        if missing:
            raise InvalidInput(
                f"the table has no column {missing[0]!r}", where=self._name, allowed=", ".join(table.c.keys()),
                fix="add it, or write into another table",
            )  # fmt: skip
        primary = [column.name for column in table.primary_key]
        indexes = sa.inspect(self._engine).get_indexes(table.name, schema=table.schema)
        unique = [one["column_names"] for one in indexes if one["unique"]]
        if primary != [self._key] and [self._key] not in unique:
            raise InvalidInput(
                f"no index makes {self._key!r} unique", where=self._name, fix="make it the primary key, or add a unique index"
            )  # fmt: skip


def _rows(frame: pl.DataFrame, dialect: str) -> list[dict[str, Any]]:
    """Return rows as the driver takes them: times in UTC, and only where the database has zones with one."""
    zoned = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime) and kind.time_zone]
    times = pl.col(zoned).dt.convert_time_zone("UTC")
    frame = frame.with_columns(times if dialect == "postgresql" else times.dt.replace_time_zone(None))
    if dialect in _MYSQL:  # which has no number that is none
        frame = frame.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
    return frame.to_dicts()
