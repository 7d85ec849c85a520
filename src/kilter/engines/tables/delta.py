"""Tables through delta-rs: appended to exactly once, read at a version, brought to the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import msgspec
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import BaseError

from kilter.core.errors import Conflict, Damaged, InvalidInput, KilterError, NotFound
from kilter.engines.tables.failures import of_the_disk, translated

_TRIES = 5
_DAMAGE = ("json", "parquet", "missingversion")
_UTC_MICROSECONDS = pl.Datetime("us", "UTC")


class _Added(msgspec.Struct):
    """A file that a version has added, as the Delta protocol writes it."""

    path: str


class _Action(msgspec.Struct):
    """One line of a version's commit."""

    add: _Added | None = None


class DeltaTables:
    """What a table store does with delta-rs; the store says what each call promises.

    Args:
        root: The folder or ``s3:`` URL below which each table has its own folder.
        options: What delta-rs needs to reach the root.
        folder: The folder to sync, when the root is one.
    """

    def __init__(self, root: str, options: Mapping[str, str], folder: Path | None) -> None:
        self._root = root
        self._options = dict(options)
        self._folder = folder

    def append(self, name: str, frame: pl.DataFrame, part: tuple[str, int] | None) -> int:
        """Add rows as one new version and return its number."""
        rows = _storable(frame, name)
        for left in range(_TRIES, 0, -1):
            table = self._newest(name)
            if table is not None:
                if part is not None and _reached(table, part[0]) >= part[1]:
                    return table.version()
                _same_types(table, rows, name)
            try:
                version = self._commit(name, table, rows, part)
            except CommitFailedError as error:
                if left == 1:
                    raise Conflict("other writers kept committing first", where=f"table {name}") from error
            except (DeltaError, OSError, BaseError) as error:
                # Two writers may both make a new table: the slower one finds it made, and appends to it.
                if table is not None or left == 1 or self._newest(name) is None:
                    raise _failed(error, name) from error
            else:
                return version
        raise AssertionError

    def scan(self, name: str, version: int | None) -> pl.LazyFrame | None:
        """Return the rows of a version, or ``None`` if there is no such table."""
        try:
            table = self._table(name, version)
            return None if table is None else pl.scan_delta(table, use_pyarrow=False)
        except (DeltaError, OSError) as error:
            newest = self.version(name)
            if version is not None and newest is not None and not 0 <= version <= newest:
                raise NotFound(
                    f"there is no version {version}", where=f"table {name}", allowed=f"0 to {newest}"
                ) from error
            raise _failed(error, name) from error

    def version(self, name: str) -> int | None:
        """Return the newest version of a table, or ``None`` if there is no such table."""
        table = self._newest(name)
        return None if table is None else table.version()

    def parts(self, name: str, writer: str) -> int:
        """Return the number of the last part that a writer has added, or -1."""
        table = self._newest(name)
        return -1 if table is None else _reached(table, writer)

    def compact(self, name: str) -> int | None:
        """Rewrite many small files as few large ones; return the newest version, or ``None`` if there is no such table."""
        table = self._newest(name)
        if table is None:
            return None
        try:
            table.optimize.compact()
            table.create_checkpoint()
        except CommitFailedError as error:
            raise Conflict("another writer changed the files first", where=f"table {name}", fix="try again") from error
        except (DeltaError, OSError) as error:
            raise _failed(error, name) from error
        return table.version()

    def _newest(self, name: str) -> DeltaTable | None:
        try:
            return self._table(name, None)
        except (DeltaError, OSError) as error:
            raise _failed(error, name) from error

    def _commit(self, name: str, table: DeltaTable | None, rows: pl.DataFrame, part: tuple[str, int] | None) -> int:
        """Write the rows as the version after ``table``'s, or after those that others commit meanwhile."""
        parts = [] if part is None else [Transaction(part[0], part[1])]
        if table is None:
            # Of two writers that make the table at once, one must fail here, or its schema would replace the other's.
            once = CommitProperties(max_commit_retries=0, app_transactions=parts)
            options = self._options or None
            write_deltalake(f"{self._root}/{name}", rows, mode="error", storage_options=options, commit_properties=once)
            version = 0
        else:
            properties = CommitProperties(app_transactions=parts)
            write_deltalake(table, rows, mode="append", schema_mode="merge", commit_properties=properties)
            version = table.version()
        self._sync(name, version)
        return version

    def _sync(self, name: str, version: int) -> None:
        """Bring the files of a version to the disk: delta-rs renames them into place, but syncs none."""
        if self._folder is None:
            return
        folder = self._folder / name
        commit = folder / "_delta_log" / f"{version:020d}.json"
        actions = [msgspec.json.decode(line, type=_Action) for line in commit.read_bytes().splitlines()]
        files = [folder / unquote(action.add.path) for action in actions if action.add is not None]
        for target in (*files, commit, *{file.parent for file in files}, commit.parent, folder):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _table(self, name: str, version: int | None) -> DeltaTable | None:
        try:
            return DeltaTable(f"{self._root}/{name}", version=version, storage_options=self._options or None)
        except TableNotFoundError:
            return None


def _storable(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the frame in the types that Delta tables have."""
    casts: list[pl.Expr] = []
    for column, kind in frame.schema.items():
        if isinstance(kind, pl.Categorical | pl.Enum):
            casts.append(pl.col(column).cast(pl.String))
        elif kind.is_unsigned_integer():
            casts.append(pl.col(column).cast(pl.Int64))
        elif isinstance(kind, pl.Datetime) and kind.time_zone is not None and kind != _UTC_MICROSECONDS:
            casts.append(pl.col(column).dt.convert_time_zone("UTC").dt.cast_time_unit("us"))
        elif isinstance(kind, pl.Object):
            raise InvalidInput(
                f"column {column!r} holds Python objects", where=f"table {name}", allowed="typed columns"
            )
    try:
        rows = frame.with_columns(casts) if casts else frame
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(str(error), where=f"table {name}") from error
    return rows.drop([column for column, kind in rows.schema.items() if kind == pl.Null])


def _same_types(table: DeltaTable, rows: pl.DataFrame, name: str) -> None:
    """Refuse a column whose type is not the table's, before the engine casts it or half-explains why not."""
    known = pl.scan_delta(table, use_pyarrow=False).collect_schema()
    for column, kind in rows.schema.items():
        if column in known and known[column] != kind:
            raise InvalidInput(
                f"column {column!r} comes as {kind}",
                where=f"table {name}",
                allowed=str(known[column]),
                fix="cast the column, or give it another name",
            )


def _reached(table: DeltaTable, writer: str) -> int:
    found = table.transaction_version(writer)
    return -1 if found is None else found


def _failed(error: BaseException, name: str) -> KilterError:
    where, said = f"table {name}", str(error).split("\n", 1)[0]
    damaged = isinstance(error, DeltaError) and any(word in said.lower() for word in _DAMAGE)
    if damaged and of_the_disk(error, where) is None:
        return Damaged(f"the table's files are damaged: {said}", where=where, fix="restore the folder from a backup")
    return translated(error, where)
