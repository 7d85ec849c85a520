"""The label join: predictions from the prediction logs, truths from the row log, kept together for the last weeks.

Nothing of it is stored. A restart reads the logs again and has the same pairs in the same order, however the reading is cut up.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.clock import utc
from kilter.core.errors import NotFound
from kilter.data.batch import Batch, micros, moment_of, parts_frame
from kilter.data.declare import Label, Table
from kilter.data.records import TableInfo
from kilter.monitoring.pairs import Maturity, Pairs, in_order_of_arrival, keep_from
from kilter.monitoring.truths import LabelBook
from kilter.serving.recording.predictions import PredictionLog, fronts, to_frame
from kilter.serving.records import PredictionBatch, Record, ShadowBatch

RETENTION = timedelta(days=60)

_FOLD = 1024
"""Records that are turned into one frame at a time: bounds the memory of a restart."""


class RowSource(Protocol):
    """Where parts of rows are read from: ``DataService``."""

    def info(self, table: str) -> TableInfo:
        """Return a table as declared, with the kinds of its columns."""
        ...

    def batches(self, table: str, after: int) -> Iterator[Batch]:
        """Yield the batches of a table after a position of the row log, in order; a bulk load comes as its size only."""
        ...

    def rows_since(self, table: str, position: int) -> pl.DataFrame:
        """Return the whole rows of which a part came after a position, with ``_at`` and ``_position``."""
        ...


class _Watched:
    """One loop's pairs, and how far its logs are read."""

    def __init__(self, table: Table, label: Label) -> None:
        self.table = table
        self.book = LabelBook(table.key, label)
        self.pairs = Pairs(self.book)
        self.rows_read = -1
        self.kinds: dict[str, str] = {}
        self.fronts_read: dict[str, int] = {}
        self.places: dict[tuple[str, int], NDArray[np.int64]] = {}
        self.newest: datetime | None = None


class LabelJoin:
    """Predictions with their late labels.

    Args:
        logs: The folder of the prediction logs, one folder per front.
        rows: Where the parts of rows come from.
        retention: How long pairs are kept after the prediction: the longest window and the longest release, together.
    """

    def __init__(self, logs: Path, rows: RowSource, retention: timedelta = RETENTION) -> None:
        self._logs = logs
        self._rows = rows
        self._retention = retention
        self._watched: dict[str, _Watched] = {}
        self._open: dict[str, PredictionLog] = {}

    def watch(self, loop: str, table: Table, label: Label) -> None:
        """Join a loop's predictions; another table or another expression than before starts its join anew.

        Args:
            loop: The loop.
            table: Whose rows carry the truth.
            label: The truth, as declared.
        """
        known = self._watched.get(loop)
        if known is None or known.table != table or not known.book.has(label):
            self._watched[loop] = _Watched(table, label)

    def catch_up(self, until: datetime | None = None) -> int:
        """Read what the logs have got since, and return how many predictions and parts of rows that was.

        Args:
            until: Stop before the first record that is later than this; None reads all there is.
        """
        read = sum(self._read_front(front, until) for front in fronts(self._logs))
        return read + sum(self._read_rows(watched, until) for watched in self._watched.values())

    def _read_front(self, front: str, until: datetime | None) -> int:
        log = self._open.get(front)
        if log is None:
            log = self._open[front] = PredictionLog.open(self._logs, front)
        read = 0
        # Loops that were watched from the start share one reading; a loop that came later first reads alone.
        for after in sorted({watched.fronts_read.get(front, -1) for watched in self._watched.values()}):
            readers = {n: w for n, w in self._watched.items() if w.fronts_read.get(front, -1) == after}
            for batch in _folded(log.read(after), until):
                for loop, watched in readers.items():
                    mine = [(position, record) for position, record in batch if record.loop == loop]
                    read += self._take(front, loop, watched, mine)
                    watched.fronts_read[front] = batch[-1][0]
        return read

    def _take(self, front: str, loop: str, watched: _Watched, records: list[tuple[int, Record]]) -> int:
        kept: list[tuple[int, Record]] = []
        sizes: list[tuple[int, NDArray[np.bool_]]] = []
        shadows: list[ShadowBatch] = []
        for position, record in records:
            if isinstance(record, ShadowBatch):
                shadows.append(record)
                continue
            kept.append((position, record))
            sizes.append((position, _first_times(watched.pairs, record)))
            watched.newest = record.at if watched.newest is None else max(watched.newest, record.at)
        if kept:
            frame = to_frame(kept, front, loop)
            mask = np.concatenate([first for _, first in sizes])
            start = watched.pairs.add(frame if mask.all() else frame.filter(pl.Series(mask)))
            where = np.where(mask, start + np.cumsum(mask) - 1, -1)
            offset = 0
            for position, first in sizes:
                watched.places[front, position] = where[offset : offset + first.size]
                offset += first.size
        for shadow in shadows:
            _place(watched, front, shadow)
        _forget(watched, self._retention)
        return sum(first.size for _, first in sizes)

    def _read_rows(self, watched: _Watched, until: datetime | None) -> int:
        read = 0
        lot: list[Batch] = []
        for batch in self._rows.batches(watched.table.name, watched.rows_read):
            if until is not None and batch.at > micros(until):
                break
            if batch.bulk:
                read += self._learn(watched, lot) + self._learn_bulk(watched, batch)
                lot = []
                continue
            lot.append(batch)
            if len(lot) == _FOLD:
                read += self._learn(watched, lot)
                lot = []
        return read + self._learn(watched, lot)

    def _learn(self, watched: _Watched, lot: list[Batch]) -> int:
        if not lot:
            return 0
        wanted = (watched.table.key, *watched.book.columns)
        if any(name not in watched.kinds for name in wanted):
            known = {column.name: column.kind for column in self._rows.info(watched.table.name).columns}
            watched.kinds = {name: known[name] for name in wanted if name in known}
        self._know(watched, parts_frame(lot, watched.kinds), lot[-1])
        return sum(map(len, lot))

    def _learn_bulk(self, watched: _Watched, batch: Batch) -> int:
        # The rows of a bulk load are in the table's files alone; they are taken in whole, as they are now.
        rows = self._rows.rows_since(watched.table.name, batch.position - 1)
        self._know(watched, rows, batch)
        return batch.bulk

    def _know(self, watched: _Watched, parts: pl.DataFrame, last: Batch) -> None:
        watched.pairs.learn(watched.book.add(parts))
        watched.rows_read = last.position
        arrived = moment_of(last.at)
        watched.newest = arrived if watched.newest is None else max(watched.newest, arrived)
        _forget(watched, self._retention)

    def passed(self, loop: str, now: datetime) -> dict[str, int]:
        """Return, per front, the position up to which a join that begins anew at this moment would need nothing.

        Args:
            loop: The loop.
            now: The moment: what is older than the retention before it is forgotten first.
        """
        watched = self._of(loop)
        watched.newest = now if watched.newest is None else max(watched.newest, utc(now))
        _forget(watched, self._retention)
        found = dict(watched.fronts_read)
        left = set(found)
        for front, position in watched.places:
            if front in left:  # the first that is kept: they are in the order of reading
                found[front] = position - 1
                left.discard(front)
                if not left:
                    break
        return found

    def predictions(
        self, loop: str, version: int | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> pl.DataFrame:
        """Return predictions with their labels where known, in the order of their log: what monitors look at.

        Args:
            loop: The loop.
            version: Only those that this version answered; None for all.
            since: From this time of prediction on.
            until: Up to this time of prediction, exclusive.

        Returns:
            ``id, loop, at, key, time, version, arm, share, generation, value, x_<input>..., label, label_at, position,
            shadow_version, shadow_value``.
        """
        found = self._of(loop).pairs.frame(since, until).drop("__rank")
        return found if version is None else found.filter(pl.col("version") == version)

    def joined(
        self, loop: str, version: int | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> pl.DataFrame:
        """Return the labelled predictions in the order in which their labels first arrived.

        Args:
            loop: The loop.
            version: Only those that this version answered; None for all.
            since: From this time of prediction on.
            until: Up to this time of prediction, exclusive.

        Returns:
            The columns of ``predictions``; ``label_at`` and ``position`` are those of the label's first arrival, ``label`` is the
            newest.
        """
        found = in_order_of_arrival(self._of(loop).pairs.frame(since, until))
        return found if version is None else found.filter(pl.col("version") == version)

    def maturity(self, loop: str, since: datetime | None = None, until: datetime | None = None) -> Maturity:
        """Return how many predictions of a stretch have their label, are censored, or are still open."""
        return self._of(loop).pairs.maturity(since, until)

    def _of(self, loop: str) -> _Watched:
        if loop not in self._watched:
            known = ", ".join(sorted(self._watched)) or "none"
            raise NotFound(
                f"no labels are joined for {loop!r}", where="loop", allowed=known, fix="apply the loop first"
            )
        return self._watched[loop]

    def close(self) -> None:
        """Close the logs."""
        for log in self._open.values():
            log.close()
        self._open.clear()


def _first_times(pairs: Pairs, batch: PredictionBatch) -> NDArray[np.bool_]:
    """Return which rows of a batch were routed, and are no retries: a version that was asked by name is on trial, not at work."""
    first = np.array([arm != "direct" for arm in batch.arms], dtype=np.bool_)
    at = round(utc(batch.at).timestamp() * 1e6)
    row = 0
    for item in batch.requests:
        if item.key:
            request = f"{item.key}/{item.body.hex()}"
            for place in range(row, row + item.rows):
                first[place] = first[place] and pairs.first_time(batch.keys[place], request, at)
        row += item.rows
    return first


def _place(watched: _Watched, front: str, shadow: ShadowBatch) -> None:
    """Write a shadow's answers beside the predictions; those of a batch that is forgotten, or was a retry, go nowhere."""
    where = watched.places.get((front, shadow.position))
    if where is not None:
        watched.pairs.shadow(
            where[np.asarray(shadow.rows, dtype=np.int64)], shadow.version, shadow.values[:: shadow.width]
        )


def _forget(watched: _Watched, retention: timedelta) -> None:
    if watched.newest is None:
        return
    before = keep_from(watched.newest, retention)
    watched.pairs.forget(before)
    watched.book.forget(before)
    while watched.places:
        name, where = next(iter(watched.places.items()))
        if where.size and int(where[-1]) >= watched.pairs.first:
            break
        del watched.places[name]


def _folded(records: Iterator[tuple[int, Record]], until: datetime | None) -> Iterator[list[tuple[int, Record]]]:
    """Yield records in lots, up to the first that is later than ``until``."""
    lot: list[tuple[int, Record]] = []
    for position, record in records:
        if until is not None and utc(record.at) > utc(until):
            break
        lot.append((position, record))
        if len(lot) == _FOLD:
            yield lot
            lot = []
    if lot:
        yield lot
