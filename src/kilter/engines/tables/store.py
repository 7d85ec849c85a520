"""Versioned tables, in a folder or in S3: what they promise, and where they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import polars as pl
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.location import Bucket, Folder, locate, s3_store
from kilter.engines.tables.failures import translated

if TYPE_CHECKING:
    from kilter.engines.tables.delta import DeltaTables

_NAME = re.compile(r"^[a-z0-9_][a-z0-9_-]{0,99}$")


class TableStore:
    """Tables of rows, each with a history of versions.

    Open one with :meth:`open`; it is safe to use from several threads and processes at once. delta-rs is loaded when a table is
    first touched: a process that touches none goes without its 16 MB.

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
                raise translated(error, str(place.path)) from error
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
        return self._delta.append(_checked(name), frame, part)

    def scan(self, name: str, version: int | None = None) -> pl.LazyFrame:
        """Return the rows of a version, lazily; filters and columns are pushed down into the files.

        Args:
            name: The table.
            version: Which version; the newest if not said.

        Raises:
            NotFound: When there is no such table or version.
        """
        found = self._delta.scan(_checked(name), version)
        if found is None:
            raise NotFound(f"there is no table {name!r}", where=self.url, allowed=", ".join(self.names()) or "none yet")
        return found

    def version(self, name: str) -> int | None:
        """Return the newest version of a table, or ``None`` if there is no such table."""
        return self._delta.version(_checked(name))

    def parts(self, name: str, writer: str) -> int:
        """Return the number of the last part that a writer has added to a table, or -1."""
        return self._delta.parts(_checked(name), writer)

    def names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        try:
            found = obstore.list_with_delimiter(self._engine)["common_prefixes"]
        except (BaseError, OSError) as error:
            raise translated(error, self.url) from error
        return sorted(
            name for name in (str(prefix).strip("/").rsplit("/", 1)[-1] for prefix in found) if _NAME.match(name)
        )

    def compact(self, name: str) -> int:
        """Rewrite many small files as few large ones and return the newest version; old versions stay readable.

        Raises:
            NotFound: When there is no such table.
        """
        version = self._delta.compact(_checked(name))
        if version is None:
            raise NotFound(f"there is no table {name!r}", where=self.url)
        return version

    @cached_property
    def _delta(self) -> DeltaTables:
        from kilter.engines.tables.delta import DeltaTables  # noqa: PLC0415 - heavy: not every process touches a table

        return DeltaTables(self._root, self._options, self._folder)


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise InvalidInput(
            f"{name[:120]!r} is not a table name", where="tables", allowed="1 to 100 of a-z, 0-9, '_' and '-'"
        )
    return name


def delta_options(place: Bucket) -> dict[str, str]:
    """Return what delta-rs needs to reach a bucket."""
    options = {"AWS_REGION": place.region, "connect_timeout": "5s", "timeout": "60s"}
    if place.endpoint:
        options["AWS_ENDPOINT_URL"] = place.endpoint
        options["AWS_ALLOW_HTTP"] = str(place.endpoint.startswith("http://")).lower()
    options.update({name: value for name, value in os.environ.items() if name in _CREDENTIALS})
    return options


_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
