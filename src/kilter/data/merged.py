"""A table's rows made of their parts: per key and column the newest value that is not null.

Parts are applied in the order of the row log. The state is one array per column, so that a small batch costs
microseconds and a whole table's frame a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from kilter.data.batch import TYPES, Batch, Scalar

_NONE = -(2**63)


class Merged:
    """The rows of one table up to a position of the row log.

    Args:
        key: The column that identifies a row.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._index: dict[Scalar, int] = {}
        self._keys: list[Scalar] = []
        self._columns: dict[str, _Column] = {}
        self._written = _Column("integer")
        self._arrived = _Column("integer")
        self._frame: pl.DataFrame | None = None
        self.position = -1
        self.at = _NONE

    def __len__(self) -> int:
        return len(self._index)

    def apply(self, batch: Batch, schema: dict[str, str]) -> None:
        """Apply an append; one that was applied before changes nothing.

        Args:
            batch: With one part per key.
            schema: The kinds of the table's columns.
        """
        if batch.position <= self.position:
            return
        rows = self._rows(batch.columns[self._key])
        for name, values in batch.columns.items():
            if name != self._key:
                column = self._column(name, schema[name])
                column.put(rows, column.read(values))
        count = len(rows)
        self._finish(rows, np.full(count, batch.position), np.full(count, batch.at), batch.position, batch.at)

    def apply_parts(self, parts: pl.DataFrame, schema: dict[str, str], *, position: int, at: int) -> None:
        """Apply many parts at once, with their hidden columns.

        Args:
            parts: Sorted by ``_position``.
            schema: The kinds of the table's columns.
            position: The position of the row log that is reached by this.
            at: The newest arrival that is reached by this, in microseconds.
        """
        if parts.height:
            rows = self._rows_of(parts[self._key])
            ranks = _ranks(rows)
            arrays = {
                name: self._column(name, kind).encode(parts[name])
                for name, kind in schema.items()
                if name != self._key and name in parts.columns
            }
            written, arrived = parts["_position"].to_numpy(), parts["_at"].dt.epoch("us").to_numpy()
            for rank in range(int(ranks.max()) + 1):
                # Each pass has every row at most once, so the order of assignments can't matter.
                here = slice(None) if rank == 0 and not ranks.any() else np.flatnonzero(ranks == rank)
                for name, values in arrays.items():
                    self._column(name, schema[name]).put(rows[here], values[here])
                self._finish(rows[here], written[here], arrived[here], position, at)
        self.position, self.at = max(self.position, position), max(self.at, at)

    def frame(self, schema: dict[str, str]) -> pl.DataFrame:
        """Return one row per key, in order of first appearance, with the schema's columns."""
        if self._frame is None or list(self._frame.columns) != list(schema):
            self._frame = self._gather(schema, None)
        return self._frame

    def since(self, position: int, schema: dict[str, str]) -> pl.DataFrame:
        """Return the whole rows of which a part has a greater position, with ``_at`` and ``_position`` of the newest.

        They come in the order in which they were written last.
        """
        written = self._written.values[: len(self)]
        rows = np.flatnonzero(written > position)
        rows = rows[np.argsort(written[rows], kind="stable")]
        frame = self._gather(schema, rows)
        arrived = pl.Series("_at", self._arrived.values[rows]).cast(TYPES["time"])
        return frame.with_columns(arrived, pl.Series("_position", written[rows]))

    def _rows(self, keys: Sequence[Scalar]) -> np.ndarray:
        index = self._index
        found: list[int] = []
        for key in keys:
            row = index.get(key)
            if row is None:
                row = index[key] = len(index)
                self._keys.append(key)
            found.append(row)
        self._grow()
        return np.array(found, dtype=np.int64)

    def _grow(self) -> None:
        for column in (*self._columns.values(), self._written, self._arrived):
            column.grow(len(self._index))

    def _rows_of(self, keys: pl.Series) -> np.ndarray:
        """Return the rows of many keys: each distinct key goes through the index once."""
        distinct = keys.unique(maintain_order=True)
        if self._index:
            places = self._rows(distinct.to_list())
        else:
            self._keys = distinct.to_list()
            self._index = dict(zip(self._keys, range(len(self._keys)), strict=True))
            self._grow()
            places = np.arange(len(self._keys))
        if len(distinct) == len(keys):
            return places
        return keys.replace_strict(distinct, pl.Series(places), return_dtype=pl.Int64).to_numpy()

    def _column(self, name: str, kind: str) -> _Column:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _Column(kind)
            column.grow(len(self._index))
        return column

    def _finish(self, rows: np.ndarray, written: np.ndarray, arrived: np.ndarray, position: int, at: int) -> None:
        self._written.values[rows] = written
        self._arrived.values[rows] = arrived
        self.position, self.at = max(self.position, position), max(self.at, at)
        self._frame = None

    def _gather(self, schema: dict[str, str], rows: np.ndarray | None) -> pl.DataFrame:
        count = len(self)
        found: list[pl.Series] = []
        for name, kind in schema.items():
            if name == self._key:
                keys = self._keys if rows is None else [self._keys[row] for row in rows.tolist()]
                found.append(pl.Series(name, keys, dtype=TYPES[kind]))
            elif name in self._columns:
                found.append(self._columns[name].series(name, count, rows))
            else:
                found.append(pl.Series(name, [None] * (count if rows is None else len(rows)), dtype=TYPES[kind]))
        return pl.DataFrame(found)


class _Column:
    """The values of one column: numbers and times as they are, text and booleans as codes."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.values = np.empty(0, dtype=np.float64 if kind == "float" else np.int64)
        self._vocabulary: list[str] = []
        self._codes: dict[str, int] = {}
        self._texts: pl.Series | None = None

    def grow(self, count: int) -> None:
        """Make room for so many rows; a new one has no value."""
        have = len(self.values)
        if count <= have:
            return
        room = max(count, 2 * have, 64)
        grown = np.full(room, np.nan if self.kind == "float" else _NONE, dtype=self.values.dtype)
        grown[:have] = self.values
        self.values = grown

    def read(self, values: Sequence[Scalar]) -> np.ndarray:
        """Return a few stored values (times in microseconds) as the array keeps them."""
        if self.kind == "string":
            return np.array([_NONE if text is None else self._code(str(text)) for text in values], dtype=np.int64)
        missing = float("nan") if self.kind == "float" else _NONE
        return np.array([missing if value is None else value for value in values], dtype=self.values.dtype)

    def encode(self, values: pl.Series) -> np.ndarray:
        """Return a typed column as the array keeps it."""
        if self.kind == "float":
            return values.cast(pl.Float64).to_numpy()
        if self.kind != "string":
            return values.to_physical().cast(pl.Int64).fill_null(_NONE).to_numpy()
        texts = values.drop_nulls().unique()
        codes = pl.Series([self._code(text) for text in texts.to_list()], dtype=pl.Int64)
        if not texts.len():
            return np.full(values.len(), _NONE)
        return values.replace_strict(texts, codes, default=None, return_dtype=pl.Int64).fill_null(_NONE).to_numpy()

    def put(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Set the rows whose new value is not missing; each row at most once."""
        there = ~np.isnan(values) if self.kind == "float" else values != _NONE
        if there.all():
            self.values[rows] = values
        else:
            self.values[rows[there]] = values[there]

    def _code(self, text: str) -> int:
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self._vocabulary)
            self._vocabulary.append(text)
        return code

    def series(self, name: str, count: int, rows: np.ndarray | None) -> pl.Series:
        """Return the values of all rows, or of some, as a typed column."""
        values = self.values[:count].copy() if rows is None else self.values[rows]
        if self.kind == "float":
            return pl.Series(name, values).fill_nan(None)
        column = pl.Series(name, values)
        known = column.to_frame().select(pl.when(pl.col(name) != _NONE).then(pl.col(name)))[name]
        if self.kind == "string":
            if self._texts is None or len(self._texts) != len(self._vocabulary):
                self._texts = pl.Series(self._vocabulary, dtype=pl.String)
            return self._texts.gather(known.cast(pl.UInt32)).alias(name)
        return known.cast(TYPES[self.kind])


def _ranks(rows: np.ndarray) -> np.ndarray:
    """Return for each entry how many earlier ones have the same row."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    lengths = np.diff(np.append(starts, len(rows)))
    ranks = np.empty(len(rows), dtype=np.int64)
    ranks[order] = np.arange(len(rows)) - np.repeat(starts, lengths)
    return ranks
