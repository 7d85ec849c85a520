"""Delta tables that lie anywhere, not only in the store: read at a version, and appended to exactly once."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from kilter.core.errors import KilterError, NotFound, Unavailable
from kilter.engines.location import Bucket, Folder
from kilter.engines.tables.store import delta_options


def version_of(where: Folder | Bucket) -> int | None:
    """Return the newest version of the Delta table at a place, or None when there is none."""
    table = _table(where, None)
    return None if table is None else table.version()


def scan_path(where: Folder | Bucket, version: int) -> pl.LazyFrame:
    """Return the rows of a version, lazily.

    Raises:
        NotFound: When there is no such table.
    """
    table = _table(where, version)
    if table is None:
        raise NotFound("there is no Delta table", where=_uri(where))
    return pl.scan_delta(table, use_pyarrow=False)


def appended(where: Folder | Bucket, writer: str) -> int:
    """Return the number of the last part that a writer has appended, or -1.

    Args:
        where: The table.
        writer: Who appends: the ``appId`` of the Delta protocol's ``txn`` action.
    """
    table = _table(where, None)
    found = None if table is None else table.transaction_version(writer)
    return -1 if found is None else found


def append_once(where: Folder | Bucket, frame: pl.DataFrame, writer: str, number: int) -> None:
    """Append rows in one commit that says which part of which writer they are.

    Source: the Delta protocol's transaction identifiers (``txn``): the commit holds the rows and the number, so that a writer
    that was killed finds out which of its parts are there.

    Raises:
        Unavailable: When the table can't be written.
    """
    once = CommitProperties(app_transactions=[Transaction(app_id=writer, version=number)])
    options = _options(where)
    try:
        write_deltalake(_uri(where), frame, mode="append", storage_options=options, commit_properties=once)
    except (DeltaError, OSError) as error:
        raise _failed(error, where) from error


def _table(where: Folder | Bucket, version: int | None) -> DeltaTable | None:
    if isinstance(where, Folder) and not Path(where.path, "_delta_log").is_dir():
        return None
    try:
        return DeltaTable(_uri(where), version=version, storage_options=_options(where))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise _failed(error, where) from error


def _uri(where: Folder | Bucket) -> str:
    return where.url if isinstance(where, Bucket) else str(where.path)


def _options(where: Folder | Bucket) -> dict[str, str] | None:
    return delta_options(where) if isinstance(where, Bucket) else None


def _failed(error: BaseException, where: Folder | Bucket) -> KilterError:
    said = str(error).split("\n", 1)[0]
    return Unavailable(
        f"the Delta table failed: {said}", where=_uri(where), fix="check the path, the rights and the schema"
    )
