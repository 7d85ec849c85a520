"""Predictions and the truths that come for them, in memory. Pure: frames in, frames out; who reads the logs is ``labels.py``.

The rules: a row's parts are merged per key, the newest non-null value of each column; the label is the user's expression over the merged
row; a row without label, or without the time it became known, is censored and joins nothing. A correction changes the label and
leaves its place in the order, which is that of first arrival, so that evidence already counted keeps its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.clock import utc
from kilter.data.batch import micros
from kilter.data.declare import Label

UTC_TIME = pl.Datetime("us", "UTC")
CHUNK_ROWS = 4096

_COLUMNS = ("id", "at", "key", "time", "version", "arm", "share", "value")
_NEVER = np.iinfo(np.int64).min

Cell = float | int | str | bool | None


class Truth(msgspec.Struct, frozen=True, gc=False):
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


class Pairs:
    """Predictions of one loop with their truths.

    Args:
        book: Where truths are looked up when a prediction comes after its label.
    """

    def __init__(self, book: LabelBook) -> None:
        self._book = book
        self._frames: list[pl.DataFrame] = []
        self._starts: list[int] = []
        self._spans: list[tuple[int, int]] = []
        self._base = 0
        self._end = 0
        # Most keys are predicted once: a list for each would be work for the garbage collector alone.
        self._index: dict[str, int] = {}
        self._again: dict[str, list[int]] = {}
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
        times = predictions["at"].to_physical().to_numpy()
        low, high = int(times.min()), int(times.max())
        if self._frames and self._frames[-1].height + rows <= CHUNK_ROWS:
            held = self._frames[-1]
            same = held.schema == predictions.schema
            self._frames[-1] = pl.concat([held, predictions], how="vertical" if same else "diagonal_relaxed")
            self._spans[-1] = (min(low, self._spans[-1][0]), max(high, self._spans[-1][1]))
        else:
            self._frames.append(predictions)
            self._starts.append(first)
            self._spans.append((low, high))
        self._end += rows
        index, truth_of = self._index, self._book.get
        for place, key in enumerate(predictions["key"].to_list(), first):
            if index.setdefault(key, place) != place:
                self._again.setdefault(key, []).append(place)
            truth = truth_of(key)
            if truth is not None:
                self._write(place, truth)
        return first

    def learn(self, truths: dict[str, Truth]) -> None:
        """Write truths that are new or have changed beside their predictions."""
        for key, truth in truths.items():
            place = self._index.get(key)
            if place is None:
                continue
            self._write(place, truth)
            for later in self._again.get(key, ()):
                self._write(later, truth)

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
        low = 0 if since is None else _micros(since)
        high = np.iinfo(np.int64).max if until is None else _micros(until)
        frames: list[pl.DataFrame] = []
        places: list[NDArray[np.int64]] = []
        for start, frame, (first, last) in zip(self._starts, self._frames, self._spans, strict=True):
            if first >= high or last < low:
                continue
            here = np.arange(start - self._base, start - self._base + frame.height)
            if first < low or last >= high:
                times = frame["at"].to_physical().to_numpy()
                inside = (times >= low) & (times < high)
                frame, here = frame.filter(pl.Series(inside)), here[inside]  # noqa: PLW2901
            frames.append(frame)
            places.append(here)
        if not frames:
            return self._with_truth(_empty(), np.zeros(0, dtype=np.int64))
        whole = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
        return self._with_truth(whole, np.concatenate(places))

    def _with_truth(self, frame: pl.DataFrame, here: NDArray[np.int64]) -> pl.DataFrame:
        label, shadow_value = self._label[here], self._shadow_value[here]
        known, shadowed = ~np.isnan(label), self._shadow_version[here] != _NEVER
        return frame.hstack(
            [
                _nullable("label", label, known),
                _nullable("label_at", self._at[here], known).cast(UTC_TIME),
                _nullable("position", self._position[here], known),
                pl.Series("__rank", self._rank[here]),
                _nullable("shadow_version", self._shadow_version[here], shadowed),
                _nullable("shadow_value", shadow_value, ~np.isnan(shadow_value)),
            ]
        )

    def forget(self, before: int) -> None:
        """Drop whole chunks of predictions made before a moment (microseconds since 1970)."""
        gone = 0
        while gone < len(self._frames) - 1 and self._spans[gone][1] < before:
            gone += 1
        if not gone:
            return
        base = self._starts[gone]
        for frame in self._frames[:gone]:
            for key in frame["key"].to_list():
                self._drop(key, base)
        shift = base - self._base
        for name in ("_label", "_at", "_position", "_rank", "_shadow_version", "_shadow_value"):
            held = getattr(self, name)
            moved = np.concatenate(
                [held[shift:], np.full(shift, np.nan if held.dtype == np.float64 else 0, dtype=held.dtype)]
            )
            if name == "_shadow_version":
                moved[held.size - shift :] = _NEVER
            setattr(self, name, moved)
        self._frames, self._starts, self._spans = self._frames[gone:], self._starts[gone:], self._spans[gone:]
        self._base = base
        self._requests = {request: at for request, at in self._requests.items() if at >= before}

    def _drop(self, key: str, base: int) -> None:
        """Forget the places of a key before ``base``."""
        if self._index.get(key, base) >= base:
            return
        kept = [place for place in self._again.pop(key, ()) if place >= base]
        if not kept:
            del self._index[key]
            return
        self._index[key] = kept[0]
        if kept[1:]:
            self._again[key] = kept[1:]

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
    return _micros(now - retention)


def _micros(moment: datetime) -> int:
    return micros(utc(moment))


def _nullable(name: str, values: NDArray[np.float64] | NDArray[np.int64], known: NDArray[np.bool_]) -> pl.Series:
    """Return values as a column, null where they are not known."""
    column = pl.Series(name, values)
    return column if known.all() else column.set(pl.Series(~known), None)
