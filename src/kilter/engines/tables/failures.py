"""What goes wrong with tables, in Kilter's own errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl

from kilter.core.errors import Damaged, KilterError, Unavailable

RESTORE = "restore the folder from a backup; nothing was changed"
_BROKEN = ("parquet", "not found", "no such file", "404", "snappy", "decompress", "thrift")


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
        raise Damaged("one of the table's files is missing", where=where, fix=RESTORE) from error
    except pl.exceptions.PanicException as error:  # the reader of Parquet gives up on a file that ends too early
        raise Damaged("one of the table's files is broken", where=where, fix=RESTORE) from error
    except (pl.exceptions.PolarsError, OSError) as error:
        text = str(error).lower()
        if any(word in text for word in _BROKEN):
            said = str(error).split("\n", 1)[0]
            raise Damaged(f"one of the table's files is broken: {said}", where=where, fix=RESTORE) from error
        raise translated(error, where) from error


def of_the_disk(error: BaseException, where: str) -> Unavailable | None:
    """Return what an error says of the disk, or ``None`` if it says nothing of it.

    Args:
        error: The error.
        where: The store or the table, for messages.
    """
    text = str(error).split("\n", 1)[0]
    if "No space left" in text:
        return Unavailable("the disk is full", where=where, fix="free some space; older versions are whole")
    if "Read-only file system" in text or "Permission denied" in text or isinstance(error, PermissionError):
        return Unavailable("the folder can't be written", where=where, fix="give this user the right to write there")
    return None


def translated(error: BaseException, where: str) -> KilterError:
    """Return what an error of the disk or of the network means.

    Args:
        error: The error.
        where: The store or the table, for messages.
    """
    said = str(error).split("\n", 1)[0]
    return of_the_disk(error, where) or Unavailable(
        f"the table store failed: {said}", where=where, fix="check the URL and the network"
    )
