"""The truths of a table's rows, as their parts come in. Pure: frames in, truths out.

A row's parts are merged per key, the newest non-null value of each column; the label is the user's expression over the merged row; a row
without label, or without the time it became known, is censored and joins nothing. A correction changes the label and leaves its place in
the order, which is that of first arrival, so that evidence already counted keeps its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec
import numpy as np
import polars as pl

from kilter.data.declare import Label

Cell = float | int | str | bool | None


class Truth(msgspec.Struct, frozen=True, gc=False):
    """What is known of one key: its label now, and when and where a label first came."""

    label: float | None
    at: int
    position: int
    rank: int


class LabelBook:
    """The truths of a table's rows, by key.

    Args:
        key: The table's key column.
        label: As declared; its function is called once.
    """

    def __init__(self, key: str, label: Label) -> None:
        self._key = key
        expression = label.expression()
        self._source = (expression, label.known_at)
        self._expression = expression.cast(pl.Float64).alias("__label")
        self._known = pl.col(label.known_at).is_not_null().alias("__known")
        self._roots = tuple(dict.fromkeys((*expression.meta.root_names(), label.known_at)))
        self._types: dict[str, pl.DataType] = {}
        self._merged: dict[str, tuple[Cell, ...]] = {}
        self._truths: dict[str, Truth] = {}
        self._censored: set[str] = set()
        self._touched: deque[tuple[int, list[str]]] = deque()
        self._last: dict[str, int] = {}
        self._rank = 0

    def has(self, label: Label) -> bool:
        """Return whether a label is the same as this book's: the same expression, wherever its function was loaded from."""
        expression, known_at = self._source
        return known_at == label.known_at and label.expression().meta.eq(expression)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that the label needs."""
        return self._roots

    def get(self, key: str) -> Truth | None:
        """Return what is known of a key, if a label ever came."""
        return self._truths.get(key)

    def is_censored(self, key: str) -> bool:
        """Return whether the key's outcome is known and has no label."""
        return key in self._censored

    def add(self, rows: pl.DataFrame) -> dict[str, Truth]:
        """Take in parts of rows, in the order of their arrival, and return the truths that are new or have changed.

        Args:
            rows: The key, any columns of the table, ``_at`` (UTC) and ``_position``.
        """
        changed: dict[str, Truth] = {}
        # A part that says nothing about the label's columns (a plane is scheduled) can't change a label.
        said = np.zeros(rows.height, dtype=np.bool_)
        for name in self._roots:
            if name in rows.columns:
                said |= rows[name].is_not_null().to_numpy()
        if not said.any():
            return changed
        told = rows if said.all() else rows.filter(pl.Series(said))
        keys = _words(told[self._key])
        times: list[int] = told["_at"].to_physical().to_list()
        positions: list[int] = told["_position"].to_list()
        columns = {name: self._values(name, told[name]) for name in self._roots if name in told.columns}
        turns = _turns(keys)
        if len(turns) == 1 and len(turns[0]) == told.height:
            self._round([str(key) for key in keys], times, positions, columns, changed)
            return changed
        for turn in turns:
            self._round(
                [str(keys[row]) for row in turn],
                [times[row] for row in turn],
                [positions[row] for row in turn],
                {name: [held[row] for row in turn] for name, held in columns.items()},
                changed,
            )
        return changed

    def _values(self, name: str, series: pl.Series) -> list[Cell]:
        if series.null_count() < len(series):
            self._types[name] = _wider(self._types.get(name), series.dtype)
        return (series.to_physical() if series.dtype.is_temporal() else series).to_list()

    def _round(
        self,
        keys: list[str],
        times: list[int],
        positions: list[int],
        values: dict[str, list[Cell]],
        changed: dict[str, Truth],
    ) -> None:
        """Take in parts of which each key has one."""
        judged = self._merge(keys, values).select(self._expression, self._known)
        labels: list[float | None] = judged["__label"].to_list()
        known: list[bool] = judged["__known"].to_list()
        truths, censored, last = self._truths, self._censored, self._last
        last.update(zip(keys, times, strict=True))
        for key, at, position, label, there in zip(keys, times, positions, labels, known, strict=True):
            before = truths.get(key)
            # A label that is not a number is none.
            value = label if there and label == label else None  # noqa: PLR0124
            if there and value is None:
                censored.add(key)
            elif key in censored:
                censored.discard(key)
            if before is None:
                if value is None:
                    continue
                truth = Truth(value, at, position, self._rank)
                self._rank += 1
            elif before.label == value:
                continue
            else:
                truth = Truth(value, before.at, before.position, before.rank)
            truths[key] = changed[key] = truth
        self._touched.append((max(times), keys))

    def _merge(self, keys: list[str], values: dict[str, list[Cell]]) -> pl.DataFrame:
        """Merge the parts into the rows known so far, and return the merged rows of these keys."""
        empty = (None,) * len(self._roots)
        before = [self._merged.get(key, empty) for key in keys]
        columns: list[list[Cell]] = []
        for place, name in enumerate(self._roots):
            new = values.get(name)
            if new is None:
                columns.append([row[place] for row in before])
            else:
                columns.append([row[place] if value is None else value for row, value in zip(before, new, strict=True)])
        self._merged.update(zip(keys, zip(*columns, strict=True), strict=True))
        typed = [_typed(name, held, self._types.get(name)) for name, held in zip(self._roots, columns, strict=True)]
        return pl.DataFrame(typed)

    def forget(self, before: int) -> None:
        """Drop keys of which nothing was heard since ``before`` (microseconds since 1970)."""
        while self._touched and self._touched[0][0] < before:
            _, keys = self._touched.popleft()
            for key in keys:
                if self._last.get(key, before) < before:
                    for held in (self._merged, self._truths, self._last):
                        held.pop(key, None)
                    self._censored.discard(key)


def _words(keys: pl.Series) -> list[str | None]:
    return (keys if keys.dtype == pl.String else keys.cast(pl.String)).to_list()


def _turns(keys: Sequence[str | None]) -> list[list[int]]:
    """Return row numbers so that the k-th parts of all keys go together: a label and its correction are seen one after the other."""
    seen: dict[str, int] = {}
    turns: list[list[int]] = []
    for row, key in enumerate(keys):
        if key is None:
            continue
        turn = seen.get(key, 0)
        seen[key] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(row)
    return turns


def _wider(known: pl.DataType | None, found: pl.DataType) -> pl.DataType:
    if known is not None and known.is_float() and found.is_integer():
        return known
    return found


def _typed(name: str, values: Sequence[Cell], kind: pl.DataType | None) -> pl.Series:
    if kind is None:
        return pl.Series(name, values, dtype=pl.Null)
    if kind.is_temporal():
        return pl.Series(name, values, dtype=pl.Int64).cast(kind)
    return pl.Series(name, values, dtype=kind, strict=False)
