"""What a database's errors mean, in Kilter's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from kilter.core.errors import Damaged, InvalidInput, KilterError, Unavailable

_WHOLE = "what was committed before is whole"


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise operational errors of the database as ``Unavailable`` or ``Damaged``.

    Errors of the statement itself (a broken constraint, a missing table) pass through: they are the caller's.

    Args:
        where: The store's URL, without its password.
    """
    try:
        yield
    except (IntegrityError, ProgrammingError) as error:
        if "invalid connection option" in str(error.orig):
            raise InvalidInput(str(error.orig).strip(), where=where, allowed="the options of libpq") from error
        raise
    except DBAPIError as error:
        meaning = _sqlite(error.orig, where) if isinstance(error.orig, sqlite3.Error) else _postgresql(error, where)
        if meaning is None:
            raise
        raise meaning from error
    except sqlite3.Error as error:
        # Raised while a connection is prepared, before SQLAlchemy wraps it.
        raise (_sqlite(error, where) or Unavailable(str(error), where=where)) from error
    except sa.exc.TimeoutError as error:
        raise Unavailable("all connections are in use", where=where, fix="try again, or use fewer threads") from error
    except UnicodeDecodeError as error:
        raise Damaged("the store holds text that is not UTF-8", where=where, fix="restore it from a backup") from error


# Words in SQLite's messages, and what they mean.
_SQLITE: tuple[tuple[str, type[KilterError], str, str], ...] = (
    ("not a database", Damaged, "the file is no SQLite database", "give the path of a Kilter store, or of a new file"),
    ("malformed", Damaged, "the store is damaged", "restore it from a backup; nothing was changed"),
    ("could not decode to utf-8", Damaged, "the store is damaged", "restore it from a backup; nothing was changed"),
    ("locked", Unavailable, "another process is writing and did not finish in time", "try again"),
    ("readonly", Unavailable, "the store can't be written", "give this user the right to write to its folder"),
    ("disk is full", Unavailable, "the disk is full", f"free some space; {_WHOLE}"),
    ("unable to open", Unavailable, "the store can't be opened", "check that its folder exists and can be written"),
    ("disk i/o error", Unavailable, "the disk failed to read or write", f"check the disk; {_WHOLE}"),
)


def _sqlite(error: sqlite3.Error, where: str) -> KilterError | None:
    text = str(error).lower()
    for words, kind, message, fix in _SQLITE:
        if words in text:
            return kind(message, where=where, fix=fix)
    return None


def _postgresql(error: DBAPIError, where: str) -> KilterError | None:
    state = getattr(error.orig, "sqlstate", None)
    text = str(error.orig).strip().split("\n", 1)[0]
    if state is None:
        if error.connection_invalidated or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
            return Unavailable(
                f"the server can't be reached: {text}", where=where, fix="check the address and the server"
            )
        return None
    known = {
        "25006": ("the server is read-only", "point the store at the primary"),
        "28000": ("the server refuses this user", "check the user and its rights"),
        "28P01": ("the server refuses the password", "check the password"),
        "3D000": ("there is no such database", "create it, or correct the URL"),
        "53100": ("the server's disk is full", f"free some space; {_WHOLE}"),
        "53300": ("the server has no connection left", "try again, or raise max_connections"),
        "40001": ("another transaction was faster", "try again"),
        "40P01": ("two transactions waited for each other", "try again"),
        "55P03": ("another transaction holds the lock", "try again"),
        "57014": ("the statement took too long", "try again"),
        "XX001": ("the server reports damaged data", "restore it from a backup"),
    }
    if state in known:
        message, fix = known[state]
        return (Damaged if state == "XX001" else Unavailable)(message, where=where, fix=fix)
    if state[:2] in ("08", "57") or error.connection_invalidated:
        return Unavailable(f"the server broke the connection: {text}", where=where, fix="try again")
    return None
