"""A query's rows as the input of a batch, and from where a batch that was killed reads on.

Rows of a database have no numbers that stay. What stays is the key: behind the last row of each part its key is noted before the
part is written, and reading goes on behind it, whatever was added or removed before it in between.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from kilter.core.digests import digest_json
from kilter.core.errors import Conflict, Damaged
from kilter.engines.files.reading import Piece
from kilter.engines.sql.places import Place
from kilter.engines.sql.reading import Query

_KINDS: dict[type[pl.DataType], Any] = {pl.Int64: int, pl.String: str, pl.Date: date, pl.Datetime: datetime}


class QueryRows:
    """The rows of a query, in the order of their key.

    Args:
        place: The database and the query.
        key: The column that identifies a row.
        part_rows: Rows per part.

    Raises:
        InvalidInput: When the query or the key can't be used.
    """

    def __init__(self, place: Place, key: str, part_rows: int) -> None:
        self._query = Query(place, key)
        self._part_rows = part_rows
        self._bounds: Bounds | None = None
        self.pieces = (Piece(f"query:{digest_json([place.where, place.query, key])}", "parquet", 0, ""),)

    def remember(self, note: Path) -> None:
        """Say where the keys behind the parts are noted: a file of this job alone."""
        self._bounds = Bounds(note, _KINDS[type(self._query.schema[self._query.key])])

    def batches(self, piece: Piece, rows: int, skip: int, kinds: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Yield the rows behind the part that ends at ``skip``, in frames of at most ``rows``.

        Raises:
            Conflict: When it isn't known with which key that part ended.
        """
        del piece, kinds
        bounds = self._bounds
        after = bounds.get(skip) if bounds is not None and skip else None
        done, last = skip, after
        for frame in self._query.batches(rows, after):
            rest = frame
            while rest.height:
                some = rest.head(self._part_rows - done % self._part_rows)
                rest = rest.slice(some.height)
                done += some.height
                last = some[self._query.key][-1]
                if bounds is not None and done % self._part_rows == 0:
                    bounds.put(done, last)
                yield some
        if bounds is not None and done % self._part_rows:
            bounds.put(done + self._part_rows - done % self._part_rows, last)

    def head(self, piece: Piece, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return the columns, without rows."""
        del piece, kinds
        return pl.DataFrame(schema=self._query.schema)

    def total(self) -> int | None:
        """Return how many rows there are now."""
        return self._query.count()


class Bounds:
    """The keys of the last rows of parts, in a file.

    Args:
        path: The file.
        kind: The type of a key.
    """

    def __init__(self, path: Path, kind: Any) -> None:
        self._path = path
        try:
            self._known: dict[int, Any] = (
                msgspec.json.decode(path.read_bytes(), type=dict[int, kind]) if path.exists() else {}
            )
        except msgspec.MsgspecError as error:
            raise Damaged(
                "the note of a batch can't be read", where=str(path), fix="remove it and the output"
            ) from error

    def get(self, rows: int) -> Any:
        """Return the key behind which reading goes on when so many rows are done.

        Raises:
            Conflict: When it isn't known.
        """
        if rows not in self._known:
            raise Conflict(
                "where the batch was is noted in another store or home",
                where=str(self._path),
                fix="go on where it began, or begin anew with --overwrite and another --run",
            )
        return self._known[rows]

    def put(self, rows: int, key: Any) -> None:
        """Note a key; when this returns it survives the death of the process and of the machine."""
        self._known[rows] = key
        write_note(self._path, msgspec.json.encode({str(place): known for place, known in self._known.items()}))


def write_note(path: Path, data: bytes) -> None:
    """Write a small file aside, bring it to the disk, and give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
