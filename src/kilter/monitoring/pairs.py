"""Predictions and the truths that come for them, in memory. Pure: frames in, frames out; who reads the logs is ``labels.py``.

The rules: a row's parts are merged per key, the newest non-null value of each column; the label is the user's expression over the merged
row; a row without label, or without the time it became known, is censored and joins nothing. A correction changes the label and
leaves its place in the order, which is that of first arrival, so that evidence already counted keeps its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.clock import utc
from kilter.data.declare import Label

UTC_TIME = pl.Datetime("us", "UTC")
DAY_US = 86_400_000_000
CHUNK_ROWS = 4096

_COLUMNS = ("id", "at", "key", "time", "version", "arm", "share", "value")
_NEVER = np.iinfo(np.int64).min

Cell = float | int | str | bool | None


class Truth(NamedTuple):
    """What is known of one key: its label now, and when and where a label first came."""

    label: float | None
    at: int
    position: int
    rank: int


class Maturity(msgspec.Struct, frozen=True, kw_only=True):
    """How far the truth has come for a stretch of predictions.

    Args:
        predictions: Predictions of the stretch.
        labelled: Those with a label.
        censored: Those whose outcome is known to have no label (the time is there, the label is not).
        open: All others: not known yet, or never.
    """

    predictions: int
    labelled: int
    censored: int
    open: int

    @property
    def share(self) -> float:
        """Labelled predictions as a share of all."""
        return self.labelled / self.predictions if self.predictions else 0.0


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
        if rows.height == 0:
            return {}
        words = rows.with_columns(pl.col(self._key).cast(pl.String).alias("__key")).filter(
            pl.col("__key").is_not_null()
        )
        changed: dict[str, Truth] = {}
        if words["__key"].n_unique() == words.height:
            self._round(words, changed)
            return changed
        # The k-th parts of all keys go together, so that a label and its correction in one batch are seen one after the other.
        turns = words.with_columns(pl.int_range(pl.len()).over("__key").alias("__turn"))
        turn_count = int(turns.select(pl.col("__turn").max()).item()) + 1
        for turn in range(turn_count):
            self._round(turns.filter(pl.col("__turn") == turn), changed)
        return changed

    def _round(self, rows: pl.DataFrame, changed: dict[str, Truth]) -> None:
        keys: list[str] = rows["__key"].to_list()
        merged = self._merge(keys, rows)
        judged = merged.select(self._expression, self._known)
        labels: list[float | None] = judged["__label"].fill_nan(None).to_list()
        known: list[bool] = judged["__known"].to_list()
        times: list[int] = rows["_at"].cast(UTC_TIME).dt.epoch("us").to_list()
        positions: list[int] = rows["_position"].to_list()
        truths, censored, last = self._truths, self._censored, self._last
        for key, label, there, at, position in zip(keys, labels, known, times, positions, strict=True):
            last[key] = at
            before = truths.get(key)
            value = label if there else None
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

    def _merge(self, keys: list[str], rows: pl.DataFrame) -> pl.DataFrame:
        """Merge the parts into the rows known so far, and return the merged rows of these keys."""
        empty = (None,) * len(self._roots)
        before = [self._merged.get(key, empty) for key in keys]
        columns: list[list[Cell]] = []
        for place, name in enumerate(self._roots):
            old = [row[place] for row in before]
            if name not in rows.columns or rows[name].null_count() == rows.height:
                columns.append(old)
                continue
            series = rows[name]
            self._types[name] = _wider(self._types.get(name), series.dtype)
            new = (series.cast(pl.Int64) if series.dtype.is_temporal() else series).to_list()
            columns.append([was if value is None else value for was, value in zip(old, new, strict=True)])
        self._merged.update(zip(keys, zip(*columns, strict=True), strict=True))
        data = [_typed(name, values, self._types.get(name)) for name, values in zip(self._roots, columns, strict=True)]
        return pl.DataFrame(data)

    def forget(self, before: int) -> None:
        """Drop keys of which nothing was heard since ``before`` (microseconds since 1970)."""
        while self._touched and self._touched[0][0] < before:
            _, keys = self._touched.popleft()
            for key in keys:
                if self._last.get(key, before) < before:
                    for held in (self._merged, self._truths, self._last):
                        held.pop(key, None)
                    self._censored.discard(key)


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


class Pairs:
    """Predictions of one loop with their truths.

    Args:
        book: Where truths are looked up when a prediction comes after its label.
    """

    def __init__(self, book: LabelBook) -> None:
        self._book = book
        self._frames: list[pl.DataFrame] = []
        self._starts: list[int] = []
        self._base = 0
        self._end = 0
        self._index: dict[str, list[int]] = {}
        self._label = np.full(CHUNK_ROWS, np.nan)
        self._at = np.zeros(CHUNK_ROWS, dtype=np.int64)
        self._position = np.zeros(CHUNK_ROWS, dtype=np.int64)
        self._rank = np.zeros(CHUNK_ROWS, dtype=np.int64)
        self._shadow_version = np.full(CHUNK_ROWS, _NEVER, dtype=np.int64)
        self._shadow_value = np.full(CHUNK_ROWS, np.nan)
        self._requests: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return self._end - self._base

    @property
    def first(self) -> int:
        """The global index of the oldest prediction that is kept."""
        return self._base

    def first_time(self, key: str, request: str, at: int) -> bool:
        """Return whether a request brings a key for the first time; a retry under the same request id is the same prediction.

        Args:
            key: The row's key.
            request: The request's idempotency key; without one, every request is a new one.
            at: When, microseconds since 1970.
        """
        if not request:
            return True
        if (key, request) in self._requests:
            return False
        self._requests[key, request] = at
        return True

    def add(self, predictions: pl.DataFrame) -> int:
        """Take in predictions, in the order of their log, and return the global index of the first.

        Args:
            predictions: ``id, at, key, time, version, arm, share, value`` and inputs.
        """
        first = self._end
        rows = predictions.height
        if rows == 0:
            return first
        self._reserve(first + rows - self._base)
        if self._frames and self._frames[-1].height + rows <= CHUNK_ROWS:
            self._frames[-1] = pl.concat([self._frames[-1], predictions], how="diagonal_relaxed")
        else:
            self._frames.append(predictions)
            self._starts.append(first)
        self._end += rows
        index, book = self._index, self._book
        for place, key in enumerate(predictions["key"].to_list(), first):
            index.setdefault(key, []).append(place)
            truth = book.get(key)
            if truth is not None:
                self._write(place, truth)
        return first

    def learn(self, truths: dict[str, Truth]) -> None:
        """Write truths that are new or have changed beside their predictions."""
        for key, truth in truths.items():
            for place in self._index.get(key, ()):
                self._write(place, truth)

    def shadow(self, places: NDArray[np.int64], version: int, values: Sequence[float]) -> None:
        """Write what a shadow answered beside the predictions it was copied from.

        Args:
            places: Global indices, as ``add`` counts them.
            version: The shadow.
            values: Its answers.
        """
        kept = places >= self._base
        self._shadow_version[places[kept] - self._base] = version
        self._shadow_value[places[kept] - self._base] = np.asarray(values, dtype=np.float64)[kept]

    def _write(self, place: int, truth: Truth) -> None:
        here = place - self._base
        self._label[here] = np.nan if truth.label is None else truth.label
        self._at[here], self._position[here], self._rank[here] = truth.at, truth.position, truth.rank

    def _reserve(self, rows: int) -> None:
        size = self._label.size
        if rows <= size:
            return
        more = max(rows, 2 * size) - size
        self._label = np.concatenate([self._label, np.full(more, np.nan)])
        self._shadow_value = np.concatenate([self._shadow_value, np.full(more, np.nan)])
        self._shadow_version = np.concatenate([self._shadow_version, np.full(more, _NEVER, dtype=np.int64)])
        zeros = np.zeros(more, dtype=np.int64)
        self._at, self._position, self._rank = (
            np.concatenate([a, zeros]) for a in (self._at, self._position, self._rank)
        )

    def frame(self, since: datetime | None = None, until: datetime | None = None) -> pl.DataFrame:
        """Return predictions of ``since <= at < until`` in the order of their log, with labels where known.

        Args:
            since: From when; None for all that is kept.
            until: To when, exclusive; None for no end.
        """
        parts: list[pl.DataFrame] = []
        for start, frame in zip(self._starts, self._frames, strict=True):
            times = frame["at"]
            low, high = times.min(), times.max()
            if isinstance(low, datetime) and until is not None and utc(low) >= utc(until):
                continue
            if isinstance(high, datetime) and since is not None and utc(high) < utc(since):
                continue
            parts.append(self._with_truth(start, frame))
        whole = pl.concat(parts, how="diagonal_relaxed") if parts else self._with_truth(self._end, _empty())
        if since is not None:
            whole = whole.filter(pl.col("at") >= utc(since))
        return whole if until is None else whole.filter(pl.col("at") < utc(until))

    def _with_truth(self, start: int, frame: pl.DataFrame) -> pl.DataFrame:
        here = slice(start - self._base, start - self._base + frame.height)
        label = pl.Series("label", self._label[here]).fill_nan(None)
        shadow_version = pl.Series("shadow_version", self._shadow_version[here])
        added = pl.DataFrame(
            [
                label,
                pl.Series("label_at", self._at[here]).cast(UTC_TIME),
                pl.Series("position", self._position[here]),
                pl.Series("__rank", self._rank[here]),
                shadow_version,
                pl.Series("shadow_value", self._shadow_value[here]).fill_nan(None),
            ]
        )
        unknown = pl.col("label").is_null()
        return frame.hstack(
            added.with_columns(
                pl.when(unknown).then(None).otherwise(pl.col("label_at")).alias("label_at"),
                pl.when(unknown).then(None).otherwise(pl.col("position")).alias("position"),
                pl.when(pl.col("shadow_version") == _NEVER)
                .then(None)
                .otherwise(pl.col("shadow_version"))
                .alias("shadow_version"),
            )
        )

    def forget(self, before: int) -> None:
        """Drop whole chunks of predictions made before a moment (microseconds since 1970)."""
        gone = 0
        for frame in self._frames[:-1]:
            newest = frame["at"].max()
            if not isinstance(newest, datetime) or round(utc(newest).timestamp() * 1e6) >= before:
                break
            gone += 1
        if not gone:
            return
        base = self._starts[gone]
        for frame in self._frames[:gone]:
            for key in frame["key"].to_list():
                kept = [place for place in self._index.get(key, ()) if place >= base]
                if kept:
                    self._index[key] = kept
                else:
                    self._index.pop(key, None)
        shift = base - self._base
        for name in ("_label", "_at", "_position", "_rank", "_shadow_version", "_shadow_value"):
            held = getattr(self, name)
            moved = np.concatenate(
                [held[shift:], np.full(shift, np.nan if held.dtype == np.float64 else 0, dtype=held.dtype)]
            )
            if name == "_shadow_version":
                moved[held.size - shift :] = _NEVER
            setattr(self, name, moved)
        self._frames, self._starts, self._base = self._frames[gone:], self._starts[gone:], base
        self._requests = {request: at for request, at in self._requests.items() if at >= before}

    def maturity(self, since: datetime | None = None, until: datetime | None = None) -> Maturity:
        """Return how far the truth has come for predictions of ``since <= at < until``."""
        found = self.frame(since, until)
        labelled = found.height - found["label"].null_count()
        missing = found.filter(pl.col("label").is_null())["key"].to_list()
        censored = sum(self._book.is_censored(key) for key in missing)
        return Maturity(
            predictions=found.height, labelled=labelled, censored=censored, open=found.height - labelled - censored
        )


def in_order_of_arrival(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the labelled rows in the order in which pairs became complete: by label arrival, or by a prediction that came later."""
    complete = pl.max_horizontal("at", "label_at")
    return frame.filter(pl.col("label").is_not_null()).sort(complete, "position", "__rank", "id").drop("__rank")


def _empty() -> pl.DataFrame:
    text, number = pl.String(), pl.Int64()
    kinds = (text, UTC_TIME, text, UTC_TIME, number, text, number, pl.Float64())
    return pl.DataFrame(schema=dict(zip(_COLUMNS, kinds, strict=True)))


def keep_from(now: datetime, retention: timedelta) -> int:
    """Return the moment before which things are forgotten, microseconds since 1970."""
    return round((utc(now) - retention).timestamp() * 1e6)
