"""Features for a request, from events kept in a key-value store, with the same bits as offline.

Three kinds of entries per view, all under its digest, so that two definitions never meet:

- a *row*: what is known of one row of the table (entity, time, values), because rows arrive in parts and get corrected;
- a *bucket*: the events of one entity in one stretch of time, sorted by (time, key), as packed arrays;
- a *chapter*: the rows and buckets that one batch made, so that old ones can be found and forgotten.

A batch is applied in one transaction with its position, therefore exactly once, whatever crashes between.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from kilter.core.durations import parse_duration
from kilter.core.errors import NotFound
from kilter.data.batch import Batch, Scalar, micros
from kilter.engines.online.store import OnlineStore
from kilter.features.declare import FeatureView
from kilter.features.layout import Bucket, Keys, Row, State
from kilter.features.offline import sorted_events
from kilter.features.plan import Plan, plan_of
from kilter.features.windows import Events

_MICROS = 1_000_000
_CHAPTERS_PER_BATCH = 4
_BACKFILL_CHAPTER = 5_000
_WIDEST = 512


class OnlineFeatures:
    """The online side of feature views.

    Args:
        store: Where rows and buckets are kept; may be open for reading only, for lookups.
        lateness: How long after its event (or, without one, its arrival) a row may still change. Rows and events older
            than the longest window, the lag and this together are forgotten.
    """

    def __init__(self, store: OnlineStore, *, lateness: str = "30d") -> None:
        self._store = store
        self._lateness = int(parse_duration(lateness, where="lateness").total_seconds() * _MICROS)
        self._writing = threading.Lock()
        self._compiled: dict[FeatureView, tuple[Plan, Keys]] = {}

    def observe(self, view: FeatureView, batch: Batch) -> int:
        """Take in rows that arrived, in one transaction; a batch seen before changes nothing.

        Args:
            view: The definition; it must have been filled by :meth:`backfill` once (a frame without rows will do).
            batch: Parts of rows of the view's table, times in microseconds.

        Returns:
            How many events were added, moved, changed or removed.

        Raises:
            NotFound: When the view was never filled.
        """
        plan, keys = self._compile(view)
        columns = batch.columns
        if view.table.key not in columns or not any(
            name in columns for name in (view.entity, view.time, *plan.columns)
        ):
            return 0
        with self._writing:
            state = self.state(view)
            if batch.position <= state.position:
                return 0
            return self._apply(plan, keys, state, batch)

    def backfill(self, view: FeatureView, frame: pl.DataFrame, *, position: int, at: datetime) -> int:
        """Fill a view from the table's merged rows as of a position of the row log; returns the number of events kept.

        Args:
            view: The definition; what an earlier filling kept is replaced, in the same transaction.
            frame: One row per key; only what windows at or after ``at`` can still reach is kept.
            position: The position up to which ``frame`` holds every row; later batches are then observed.
            at: The present moment.
        """
        plan, keys = self._compile(view)
        now = micros(at)
        horizon = now - plan.longest - plan.lag - self._lateness
        with self._writing:
            return self._fill(plan, keys, frame, self._emptied(keys, position, now), horizon)

    def state(self, view: FeatureView) -> State:
        """Return how far a view has read its table.

        Raises:
            NotFound: When the view was never filled.
        """
        packed = self._store.get([self._compile(view)[1].state])[0]
        if packed is None:
            raise NotFound(
                f"features of {view.table.name!r} by {view.entity!r} have no online state",
                where="online features",
                fix="register the view, which fills it from the table",
            )
        return State.unpack(packed)

    def lookup(
        self, view: FeatureView, entities: Sequence[str | int | None], at: Sequence[datetime]
    ) -> list[tuple[float | None, ...]]:
        """Return the view's features of each entity as of its moment; ``None`` where a window has no value.

        Args:
            view: The definition.
            entities: One per row.
            at: The moments, one per row.
        """
        matrix = self.matrix(view, entities, [micros(moment) for moment in at])
        return [tuple(None if value != value else value for value in row) for row in matrix.tolist()]  # noqa: PLR0124

    def matrix(self, view: FeatureView, entities: Sequence[str | int | None], at: Sequence[int]) -> np.ndarray:
        """Return the features as float64 (rows, features); NaN where a window has no value.

        Args:
            view: The definition.
            entities: One per row; None and an unknown entity have no events.
            at: The moments in microseconds since 1970, one per row.
        """
        plan, keys = self._compile(view)
        places: dict[str, list[int]] = {}
        for place, entity in enumerate(entities):
            if entity is not None:
                places.setdefault(str(entity), []).append(place)
        ends = np.asarray(at, dtype=np.int64) - plan.lag
        wanted: list[bytes] = []
        spans: list[tuple[str, list[int], int]] = []
        for entity, rows in places.items():
            stretch = _stretch(keys.width, plan.longest, ends[rows])
            spans.append((entity, rows, len(stretch)))
            prefix = keys.entity(entity)
            wanted.extend(keys.bucket(prefix, number) for number in stretch)
        found = self._store.get(wanted)
        result = np.full((len(entities), len(plan.features)), np.nan)
        for column, feature in enumerate(plan.features):
            if feature.operation == "count":
                result[:, column] = 0.0
        start = 0
        for _, rows, count in spans:
            blobs = [blob for blob in found[start : start + count] if blob is not None]
            start += count
            if blobs:
                result[rows] = _evaluate(plan, blobs, ends[rows])
        return result

    # ------------------------------------------------------------ writing

    def _compile(self, view: FeatureView) -> tuple[Plan, Keys]:
        found = self._compiled.get(view)
        if found is None:
            plan = plan_of(view)
            found = self._compiled[view] = (plan, Keys(plan))
        return found

    def _apply(self, plan: Plan, keys: Keys, state: State, batch: Batch) -> int:
        horizon = batch.at - plan.longest - plan.lag - self._lateness
        rows = self._merge(plan, keys, batch)
        if not rows:
            return 0
        written = [(address, after.pack()) for address, _, _, after in rows]
        fresh = [address for address, _, before, _ in rows if before.new]
        changes: dict[tuple[str, int], dict[Scalar, tuple[int, ...] | None]] = {}
        for _, name, before, after in rows:
            was, now = before.event(keys.width), after.event(keys.width)
            if was is not None and was != now:
                changes.setdefault(was, {})[name] = None
            if now is not None and after.time > horizon:
                changes.setdefault(now, {})[name] = after.fields(plan)
        buckets = {place: keys.bucket(keys.entity(place[0]), place[1]) for place in changes}
        for (place, address), blob in zip(buckets.items(), self._store.get(list(buckets.values())), strict=True):
            written.append((address, Bucket.changed(plan, blob, changes[place])))
            if blob is None:
                fresh.append(address)
        newest = max((number + 1) * keys.width for _, number in changes) if changes else None
        kept, old, chapters = self._forget(keys, state, horizon, {address for address, _ in written})
        fresh.extend(kept)
        following = state.advanced(batch.position, batch.at, newest, read=chapters)
        if fresh:
            written.append((keys.chapter(following.head), keys.pack_chapter(max(newest or 0, batch.at), fresh)))
            following = following.opened()
        written.append((keys.state, following.pack()))
        self._store.put(written, without=old)
        return sum(len(events) for events in changes.values())

    def _merge(self, plan: Plan, keys: Keys, batch: Batch) -> list[tuple[bytes, Scalar, Row, Row]]:
        """Return the rows that a batch changes: the entry's key, the row's key, and the row before and after."""
        wanted = (plan.view.entity, plan.view.time, *plan.columns)
        every = batch.columns[plan.view.table.key]
        given = [batch.columns.get(name) or [None] * len(every) for name in wanted]
        # Parts that say nothing of what the view is made of are not looked up.
        silent = (None,) * len(wanted)
        parts = [(name, part) for name, part in zip(every, zip(*given, strict=True), strict=True) if part != silent]
        addresses = [keys.row(name) for name, _ in parts]
        stored = [Row.unpack(packed, len(wanted)) for packed in self._store.get(addresses)]
        found = []
        for address, row, (name, part) in zip(addresses, stored, parts, strict=True):
            after = row.merged(part)
            if after is not row:
                found.append((address, name, row, after))
        return found

    def _forget(
        self, keys: Keys, state: State, horizon: int, touched: set[bytes]
    ) -> tuple[list[bytes], list[bytes], int]:
        """Find what no window can reach any more.

        Returns:
            The entries of old chapters that live on, those to delete, and how many chapters are done with.
        """
        kept: list[bytes] = []
        old: list[bytes] = []
        last = min(state.head, state.tail + _CHAPTERS_PER_BATCH)
        for number in range(state.tail, last):
            address = keys.chapter(number)
            packed = self._store.get([address])[0]
            if packed is not None and keys.newest_of(packed) > horizon:
                return kept, old, number - state.tail
            entries = keys.unpack_chapter(packed)[1] if packed is not None else []
            rows = [entry for entry in entries if keys.is_row(entry)]
            for entry, blob in zip(rows, self._store.get(rows), strict=True):
                row = Row.unpack(blob, 2)
                (kept if entry in touched or (row.has_time and row.time > horizon) else old).append(entry)
            old.extend(entry for entry in entries if not keys.is_row(entry))
            old.append(address)
        return kept, old, last - state.tail

    def _emptied(self, keys: Keys, position: int, now: int) -> tuple[State, list[tuple[bytes, bytes]]]:
        """Return the state with which a filling begins, and what empties the entries of an earlier one."""
        packed = self._store.get([keys.state])[0]
        if packed is None:
            return State(position, now), []
        old = State.unpack(packed)
        chapters = self._store.get([keys.chapter(number) for number in range(old.tail, old.head)])
        entries = {entry for chapter in chapters if chapter is not None for entry in keys.unpack_chapter(chapter)[1]}
        empty = [(entry, Row.EMPTY if keys.is_row(entry) else Bucket.EMPTY) for entry in sorted(entries)]
        return State(position, now, 0, old.head, old.tail), empty

    def _fill(
        self,
        plan: Plan,
        keys: Keys,
        frame: pl.DataFrame,
        beginning: tuple[State, list[tuple[bytes, bytes]]],
        horizon: int,
    ) -> int:
        state, written = beginning
        view, now = plan.view, state.at
        table_time = view.table.time if view.table.time in frame.columns else view.time
        stamp = pl.coalesce(view.time, table_time).dt.epoch("us")
        recent = frame.filter(stamp.fill_null(now) > horizon)
        events = sorted_events(plan, recent)
        fresh: list[bytes] = []
        columns = [view.table.key, view.entity, view.time, *plan.columns]
        raw = recent.select(
            [pl.col(name).dt.epoch("us").alias(name) if name == view.time else pl.col(name) for name in columns]
        )
        for name, entity, time, *values in raw.iter_rows():
            address = keys.row(name)
            row = Row([None if entity is None else str(entity), time, *(_number(value) for value in values)], new=False)
            written.append((address, row.pack()))
            fresh.append(address)
        for entity, number, blob in Bucket.all_of(plan, events, keys.width):
            address = keys.bucket(keys.entity(entity), number)
            written.append((address, blob))
            fresh.append(address)
        newest = int(events[view.time].dt.epoch("us").to_numpy().max()) if events.height else 0
        state = state.advanced(state.position, now, newest, read=0)
        until = max(now, newest + keys.width)
        for start in range(0, len(fresh), _BACKFILL_CHAPTER):
            written.append(
                (keys.chapter(state.head), keys.pack_chapter(until, fresh[start : start + _BACKFILL_CHAPTER]))
            )
            state = state.opened()
        written.append((keys.state, state.pack()))
        self._store.put(written)
        return events.height


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, bool | int | float) else None


def _stretch(width: int, longest: int, ends: np.ndarray) -> Sequence[int]:
    """Return the numbers of the buckets that windows ending at ``ends`` can touch."""
    first, last = int(ends.min() - longest) // width, int(ends.max() - 1) // width
    if last - first <= _WIDEST:
        return range(first, last + 1)
    spans = {number for end in ends.tolist() for number in range((end - longest) // width, (end - 1) // width + 1)}
    return sorted(spans)


def _evaluate(plan: Plan, blobs: list[bytes], ends: np.ndarray) -> np.ndarray:
    """Return the features of one entity from its buckets, in order of time."""
    stamps, fields = Bucket.columns(plan, blobs)
    events = Events(plan, fields, len(stamps))
    last = np.searchsorted(stamps, ends)
    firsts: dict[int, np.ndarray] = {}
    result = np.empty((len(ends), len(plan.features)))
    for column, feature in enumerate(plan.features):
        if feature.over not in firsts:
            firsts[feature.over] = np.searchsorted(stamps, ends - feature.over)
        result[:, column] = events.value(feature, firsts[feature.over], last)
    return result
