"""Databases of other people: their addresses, and the engines that reach them.

An address is a URL with options of ours beside those of the driver, such as ``postgresql://me@host/shop?table=scores``. A
password is never written in it: ``${NAME}`` is taken from the environment when the database is reached.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from kilter.core.errors import InvalidInput, KilterError, Unavailable
from kilter.engines.sql.failures import translated

SCHEMES = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "sqlite": "sqlite+pysqlite",
}
"""The databases that can be read and written, and the driver of each."""

_EXTRAS = {"psycopg": "postgres", "pymysql": "mysql"}
_OURS = ("query", "table", "key")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_ALLOWED = "postgresql://user@host/name, mysql://user@host/name, mariadb://user@host/name, sqlite:///path/to/file"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An address of a database.

    Args:
        url: The driver's own URL; variables are not filled in.
        query: A query to read, or empty.
        table: A table to write, or empty.
        key: The column that identifies a row; empty for the reader's or writer's own choice.
    """

    url: str
    query: str = ""
    table: str = ""
    key: str = ""

    @property
    def where(self) -> str:
        """The address without its password, for people."""
        return str(sa.make_url(self.url).render_as_string(hide_password=True))


def is_database(place: str) -> bool:
    """Say whether an address is one of a database."""
    return place.partition("://")[0].partition("+")[0] in SCHEMES and "://" in place


def parse_place(text: str) -> Place:
    """Read an address.

    Args:
        text: ``SCHEME://user@host/name?query=SELECT...&key=COLUMN`` or ``...?table=NAME&key=COLUMN``.

    Raises:
        InvalidInput: When the address names no database, or no database that is known.
    """
    parts = urlsplit(text)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in SCHEMES:
        raise InvalidInput(f"{parts.scheme}:// is no database", where="address", allowed=_ALLOWED)
    options = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in options if name in _OURS}
    rest = urlencode([(name, value) for name, value in options if name not in _OURS])
    # ``urlunsplit`` drops the empty host of ``sqlite:///``, which SQLAlchemy needs.
    path = f"//{parts.netloc}{parts.path}" if scheme == "sqlite" else ""
    url = f"{SCHEMES[scheme]}:{path}{'?' if rest else ''}{rest}" if path else urlunsplit(
        (SCHEMES[scheme], parts.netloc, parts.path, rest, "")
    )  # fmt: skip
    try:
        sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidInput("the address can't be read", where="address", allowed=_ALLOWED) from error
    return Place(url=url, query=ours.get("query", ""), table=ours.get("table", ""), key=ours.get("key", ""))


def has_password(text: str) -> bool:
    """Say whether an address has a password in it that is no reference to a variable."""
    try:
        password = urlsplit(text).password
    except ValueError:
        return False
    return bool(password) and not _VARIABLE.fullmatch(password or "")


def hidden(text: str) -> str:
    """Return a place as it may be shown: an address without its password; what is no address of a database as it is."""
    if not is_database(text):
        return text
    parts = urlsplit(text)
    if parts.password is None:
        return text
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"{parts.username}:***@{host}", parts.path, parts.query, parts.fragment))


def connected(place: Place) -> sa.Engine:
    """Return an engine that reaches a database, with a connection for each use.

    Raises:
        InvalidInput: When its driver is not installed or a variable of the address is not set.
    """
    url = _VARIABLE.sub(lambda found: _variable(found.group(1)), place.url)
    try:
        return sa.create_engine(url, poolclass=sa.NullPool)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", "")
        raise InvalidInput(
            f"{error.name} is not installed", where=place.where, fix=f"pip install 'kilter[{extra or error.name}]'"
        ) from error
    except (ArgumentError, TypeError) as error:
        raise InvalidInput(f"the address can't be used: {error}", where=place.where, allowed=_ALLOWED) from error


@contextmanager
def reaching(where: str) -> Iterator[None]:
    """Raise what a database says as Kilter's own errors: a wrong statement is the caller's, all else may pass.

    Args:
        where: The address, without its password.
    """
    try:
        with translated(where):
            yield
    except KilterError:
        raise
    except DBAPIError as error:
        said = str(error.orig).strip().split("\n", 1)[0]
        if error.connection_invalidated or _unreachable(error):
            raise Unavailable(f"the database can't be used: {said}", where=where, fix="try again") from error
        raise InvalidInput(f"the database refuses that: {said}", where=where) from error
    except SQLAlchemyError as error:
        said = str(error).split("\n", 1)[0]
        raise InvalidInput(f"the database can't do that: {said}", where=where) from error


_LOST = frozenset({1040, 1205, 1213, 2002, 2003, 2006, 2013})
"""What MySQL's errors call: too many connections, a lock that was waited for, a deadlock, a server that is away."""


def _unreachable(error: DBAPIError) -> bool:
    arguments: tuple[object, ...] = getattr(error.orig, "args", ())
    return bool(arguments) and arguments[0] in _LOST


def _variable(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise InvalidInput(f"the variable {name} is not set", where="address", fix=f"set {name}") from None
