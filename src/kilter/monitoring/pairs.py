"""Predictions and the truths that come for them, in memory. Pure: frames in, frames out; who reads the logs is ``labels.py``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.clock import utc
from kilter.data.batch import micros
from kilter.monitoring.truths import LabelBook, Truth

UTC_TIME = pl.Datetime("us", "UTC")
CHUNK_ROWS = 4096

_COLUMNS = ("id", "at", "key", "time", "version", "arm", "share", "value")
_NEVER = np.iinfo(np.int64).min


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
