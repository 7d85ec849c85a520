"""Versioned tables through delta-rs, in a folder or in S3."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import msgspec
import obstore
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from kilter.core.errors import Conflict, Damaged, InvalidInput, KilterError, NotFound, Unavailable
from kilter.engines.location import Bucket, Folder, locate, s3_store

_NAME = re.compile(r"^[a-z0-9_][a-z0-9_-]{0,99}$")
_TRIES = 5
_UTC_MICROSECONDS = pl.Datetime("us", "UTC")


class _Added(msgspec.Struct):
    """A file that a version has added, as the Delta protocol writes it."""

    path: str


class _Action(msgspec.Struct):
    """One line of a version's commit."""

    add: _Added | None = None


class TableStore:
    """Tables of rows, each with a history of versions.

    Open one with :meth:`open`; it is safe to use from several threads and processes at once.

    Args:
        url: What to call the store in messages.
        root: The folder or ``s3:`` URL below which each table has its own folder.
        options: What delta-rs needs to reach the root.
        engine: The store of obstore that lists the tables.
        folder: The folder to sync, when the root is one.
    """

    def __init__(
        self, url: str, root: str, options: Mapping[str, str], engine: LocalStore | S3Store, folder: Path | None = None
    ) -> None:
        self.url = url
        self._root = root
        self._options = dict(options)
        self._engine = engine
        self._folder = folder

    @classmethod
    def open(cls, url: str) -> TableStore:
        """Open the store at a folder, a ``file:`` URL or ``s3://bucket/prefix?endpoint=URL&region=NAME``.

        Args:
            url: Where the tables lie. Credentials for S3 come from the environment.

        Raises:
            InvalidInput: When the URL names no store.
            Unavailable: When the folder can't be made.
        """
        place = locate(url)
        if isinstance(place, Folder):
            try:
                place.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _translated(error, str(place.path)) from error
            return cls(url, str(place.path), {}, LocalStore(place.path), place.path)
        return cls(url, place.url, delta_options(place), s3_store(place))

    def append(self, name: str, frame: pl.DataFrame, part: tuple[str, int] | None = None) -> int:
        """Add rows as one new version and return its number.

        Columns that the table does not have yet are added to it, with nulls in the older rows. Categorical and
        enum columns are kept as strings, unsigned integers as signed ones, aware times in UTC microseconds; a
        column of the type Null says nothing and is left out.

        Args:
            name: The table; the first append makes it.
            frame: The rows; their order is not kept.
            part: Whose rows they are, and which of that writer's parts, counted upwards: a part that is there already is
                not added again, whatever crashed in between (the Delta protocol's transaction identifiers).

        Raises:
            InvalidInput: When the name is no table name, or a column has another type than the table's.
            Unavailable: When the store is full, read-only or unreachable; no part of the rows is then visible.
        """
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
                    raise _translated(error, f"table {name}") from error
            else:
                return version
        raise AssertionError

    def scan(self, name: str, version: int | None = None) -> pl.LazyFrame:
        """Return the rows of a version, lazily; filters and columns are pushed down into the files.

        Args:
            name: The table.
            version: Which version; the newest if not said.

        Raises:
            NotFound: When there is no such table or version.
        """
        try:
            table = self._table(self._uri(name), version)
            if table is not None:
                return pl.scan_delta(table, use_pyarrow=False)
        except (DeltaError, OSError) as error:
            newest = self.version(name)
            if version is not None and newest is not None and not 0 <= version <= newest:
                raise NotFound(
                    f"there is no version {version}", where=f"table {name}", allowed=f"0 to {newest}"
                ) from error
            raise _translated(error, f"table {name}") from error
        raise NotFound(f"there is no table {name!r}", where=self.url, allowed=", ".join(self.names()) or "none yet")

    def version(self, name: str) -> int | None:
        """Return the newest version of a table, or ``None`` if there is no such table."""
        table = self._newest(name)
        return None if table is None else table.version()

    def parts(self, name: str, writer: str) -> int:
        """Return the number of the last part that a writer has added to a table, or -1."""
        table = self._newest(name)
        return -1 if table is None else _reached(table, writer)

    def names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        try:
            found = obstore.list_with_delimiter(self._engine)["common_prefixes"]
        except (BaseError, OSError) as error:
            raise _translated(error, self.url) from error
        return sorted(
            name for name in (str(prefix).strip("/").rsplit("/", 1)[-1] for prefix in found) if _NAME.match(name)
        )

    def compact(self, name: str) -> int:
        """Rewrite many small files as few large ones and return the newest version; old versions stay readable.

        Raises:
            NotFound: When there is no such table.
        """
        table = self._newest(name)
        if table is None:
            raise NotFound(f"there is no table {name!r}", where=self.url)
        try:
            table.optimize.compact()
            table.create_checkpoint()
        except CommitFailedError as error:
            raise Conflict("another writer changed the files first", where=f"table {name}", fix="try again") from error
        except (DeltaError, OSError) as error:
            raise _translated(error, f"table {name}") from error
        return table.version()

    def _newest(self, name: str) -> DeltaTable | None:
        try:
            return self._table(self._uri(name), None)
        except (DeltaError, OSError) as error:
            raise _translated(error, f"table {name}") from error

    def _commit(self, name: str, table: DeltaTable | None, rows: pl.DataFrame, part: tuple[str, int] | None) -> int:
        """Write the rows as the version after ``table``'s, or after those that others commit meanwhile."""
        parts = [] if part is None else [Transaction(part[0], part[1])]
        if table is None:
            # Of two writers that make the table at once, one must fail here, or its schema would replace the other's.
            once = CommitProperties(max_commit_retries=0, app_transactions=parts)
            options = self._options or None
            write_deltalake(self._uri(name), rows, mode="error", storage_options=options, commit_properties=once)
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

    def _table(self, uri: str, version: int | None) -> DeltaTable | None:
        try:
            return DeltaTable(uri, version=version, storage_options=self._options or None)
        except TableNotFoundError:
            return None

    def _uri(self, name: str) -> str:
        if not _NAME.match(name):
            raise InvalidInput(
                f"{name[:120]!r} is not a table name", where="tables", allowed="1 to 100 of a-z, 0-9, '_' and '-'"
            )
        return f"{self._root}/{name}"


@contextmanager
def collecting(name: str) -> Iterator[None]:
    """Raise what goes wrong while scanned rows are read as Kilter's own errors.

    Args:
        name: The table, for messages.

    Raises:
        Damaged: When one of the table's files is missing or broken.
        Unavailable: When they can't be reached.
    """
    where = f"table {name}"
    try:
        yield
    except FileNotFoundError as error:
        raise Damaged("one of the table's files is missing", where=where, fix=_RESTORE) from error
    except pl.exceptions.PanicException as error:  # the reader of Parquet gives up on a file that ends too early
        raise Damaged("one of the table's files is broken", where=where, fix=_RESTORE) from error
    except (pl.exceptions.PolarsError, OSError) as error:
        text = str(error).lower()
        if any(word in text for word in _BROKEN):
            said = str(error).split("\n", 1)[0]
            raise Damaged(f"one of the table's files is broken: {said}", where=where, fix=_RESTORE) from error
        raise _translated(error, where) from error


_RESTORE = "restore the folder from a backup; nothing was changed"
_BROKEN = ("parquet", "not found", "no such file", "404", "snappy", "decompress", "thrift")


def delta_options(place: Bucket) -> dict[str, str]:
    """Return what delta-rs needs to reach a bucket."""
    options = {"AWS_REGION": place.region, "connect_timeout": "5s", "timeout": "60s"}
    if place.endpoint:
        options["AWS_ENDPOINT_URL"] = place.endpoint
        options["AWS_ALLOW_HTTP"] = str(place.endpoint.startswith("http://")).lower()
    options.update({name: value for name, value in os.environ.items() if name in _CREDENTIALS})
    return options


_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


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


def _translated(error: BaseException, where: str) -> KilterError:
    text = str(error).split("\n", 1)[0]
    if "No space left" in text:
        return Unavailable("the disk is full", where=where, fix="free some space; older versions are whole")
    if "Read-only file system" in text or "Permission denied" in text or isinstance(error, PermissionError):
        return Unavailable("the folder can't be written", where=where, fix="give this user the right to write there")
    if isinstance(error, DeltaError) and any(word in text.lower() for word in ("json", "parquet", "missingversion")):
        return Damaged(f"the table's files are damaged: {text}", where=where, fix="restore the folder from a backup")
    return Unavailable(f"the table store failed: {text}", where=where, fix="check the URL and the network")
