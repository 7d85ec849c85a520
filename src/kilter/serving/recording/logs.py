"""The logs of a store: how large they are, who still reads them, what goes to the archive, and what is removed.

Order is the safety: a segment is archived, then its removal is written down, then it is unlinked. Whoever is killed in between
is followed by one who sees how far it came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import InvalidInput, KilterError, NotFound
from kilter.data.batch import decode, moment_of
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.engines.streams.segments import Segment
from kilter.operations.table import operation
from kilter.serving.recording.archive import Archive
from kilter.serving.recording.predictions import PredictionLog, fronts, record_of
from kilter.serving.recording.retention import NOTHING, Due, Keep, Retention, check_keep, due
from kilter.serving.tables import log_readers

ROWS = "rows"
_PREDICTIONS = "predictions/"
_ARCHIVE = "archive"
_TABLES = "tables"


class RowTables(Protocol):
    """What the row log is flushed into: ``DataService``."""

    def floor(self) -> int:
        """Return the position up to which every table's files hold the row log."""
        ...

    def flush_all(self) -> None:
        """Copy all that waits into the tables' files."""
        ...


class LogReader(msgspec.Struct, frozen=True, kw_only=True):
    """How far a reader of a log is.

    Args:
        log: The log.
        reader: ``labels:<loop>`` (the join of predictions with labels), ``archive``, ``tables``.
        position: It will never again ask for a record up to here.
        at: When it said so; None where it is looked up.
    """

    log: str
    reader: str
    position: int
    at: datetime | None = None


class LogInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One log.

    Args:
        log: ``rows``, or ``predictions/<front>``.
        segments: Its files.
        size: Their bytes.
        oldest: When the last record of the oldest file was written; None for an empty log.
        removed: The position of the last record that was removed; -1 when none was.
        end: The position of the last record; -1 when there is none.
        readers: How far its readers are.
    """

    log: str
    segments: int
    size: int
    oldest: datetime | None
    removed: int
    end: int
    readers: tuple[LogReader, ...]


class Trimmed(msgspec.Struct, frozen=True, kw_only=True):
    """What retention did to a log, or would do.

    Args:
        log: The log.
        segments: How many segments go.
        size: Their bytes.
        archived: How many predictions went to the archive before.
        held: The readers because of which others stay that have outlived their rule.
        error: Why it could not be done, or empty.
    """

    log: str
    segments: int = 0
    size: int = 0
    archived: int = 0
    held: tuple[str, ...] = ()
    error: str = ""


class LogService:
    """The logs of a store.

    Args:
        database: The store's metadata.
        clock: The time.
        folder: The folder with ``rows`` and ``predictions``.
        tables: What the row log is flushed into.
        archive: The URL of the archive of predictions.
    """

    def __init__(
        self, database: Database, clock: Clock, folder: Path, tables: Callable[[], RowTables], archive: str
    ) -> None:
        self._database = database
        self._clock = clock
        self._folder = folder
        self._tables = tables
        self._archive = archive
        self._ends: dict[tuple[str, int], tuple[int, datetime]] = {}

    # ------------------------------------------------------------ looking

    @operation
    def overview(self) -> list[LogInfo]:
        """Return the logs of the store on this machine, by name, with their sizes and readers."""
        return [self._info(name) for name in self._names()]

    def _info(self, name: str) -> LogInfo:
        with self._opened(name) as log:
            segments = log.segments()
            oldest = self._end_of(name, log, segments[0].number)[1] if segments and segments[0].closed else None
            marks = [LogReader(log=name, reader=reader, position=mark) for reader, mark in self._marks(name).items()]
            return LogInfo(
                log=name,
                segments=len(segments),
                size=sum(one.size for one in segments),
                oldest=oldest,
                removed=log.begin().removed,
                end=log.end(),
                readers=tuple(marks),
            )

    # ------------------------------------------------------------ readers

    def mark(self, reader: str, positions: Mapping[str, int]) -> None:
        """Say how far a reader is; it never goes back.

        Args:
            reader: The reader.
            positions: Per log the position up to which it needs nothing more, not even after a restart.
        """
        now = self._clock.now()
        with self._database.transaction() as connection:
            for log, position in sorted(positions.items()):
                same = (log_readers.c.log == log) & (log_readers.c.reader == reader)
                known = connection.execute(sa.select(log_readers.c.position).where(same)).scalar()
                if known is None:
                    values = {"log": log, "reader": reader, "position": position, "at": now}
                    connection.execute(sa.insert(log_readers).values(**values))
                elif known < position:
                    connection.execute(sa.update(log_readers).where(same).values(position=position, at=now))

    @operation(writes=True, repeatable=True)
    def forget(self, reader: str) -> int:
        """Wait no longer for a reader that won't come back.

        Args:
            reader: Its name, as the list of logs shows it.

        Returns:
            How many logs it was known to read.
        """
        with self._database.transaction() as connection:
            return connection.execute(sa.delete(log_readers).where(log_readers.c.reader == reader)).rowcount

    def _marks(self, name: str) -> dict[str, int]:
        """Return how far the readers of a log are; one that has said nothing of it yet may want all of it."""
        if name == ROWS:
            return {_TABLES: self._tables().floor()}
        with self._database.reading() as connection:
            found = list(connection.execute(sa.select(log_readers)))
        marks = {row.reader: -1 for row in found if row.reader != _ARCHIVE}
        return marks | {row.reader: row.position for row in found if row.log == name and row.reader != _ARCHIVE}

    # ------------------------------------------------------------ retention

    @operation(writes=True, repeatable=True, role="admin")
    def trim(self, keep: Retention, dry_run: bool = False) -> list[Trimmed]:
        """Archive and remove what has outlived a rule and was passed by every reader.

        Args:
            keep: The rule.
            dry_run: Only say what would be done.

        Returns:
            One entry per log.

        Raises:
            InvalidInput: When the rule's ages or sizes can't be read.
        """
        check_keep(keep.predictions, "predictions")
        check_keep(keep.rows, "rows")
        return [self._trim(name, keep.of(name), dry_run=dry_run, archive=keep.archive) for name in self._names()]

    def _trim(self, name: str, keep: Keep, *, dry_run: bool, archive: bool) -> Trimmed:
        try:
            with self._opened(name) as log:
                found = self._due(name, log, keep)
                if name == ROWS and found.held and not dry_run:
                    self._tables().flush_all()
                    found = self._due(name, log, keep)
                going = [one for one in log.segments() if one.number <= found.allowed]
                archived = 0
                if not dry_run and going:
                    if archive and name != ROWS:
                        archived = self._to_archive(name, log, going)
                    log.remove(found.allowed)
                size = sum(one.size for one in going)
                return Trimmed(log=name, segments=len(going), size=size, archived=archived, held=found.held)
        except KilterError as error:  # one log's damage doesn't keep the others
            return Trimmed(log=name, error=str(error))

    def _due(self, name: str, log: Log, keep: Keep) -> Due:
        if keep.forever:
            return NOTHING
        now = self._clock.now()
        return due(
            log.segments(), keep, now, lambda number: self._end_of(name, log, number), self._marks(name), where=name
        )

    @operation(writes=True, repeatable=True)
    def archive(self) -> list[Trimmed]:
        """Copy every closed segment of the prediction logs to the archive, and remove nothing.

        Returns:
            One entry per prediction log, with the number of predictions that were added.
        """
        found = []
        for name in self._names():
            if name != ROWS:
                with self._opened(name) as log:
                    closed = [one for one in log.segments() if one.closed]
                    found.append(Trimmed(log=name, archived=self._to_archive(name, log, closed)))
        return found

    def _to_archive(self, name: str, log: Log, segments: list[Segment]) -> int:
        front = name.removeprefix(_PREDICTIONS)
        with self._database.reading() as connection:
            same = (log_readers.c.log == name) & (log_readers.c.reader == _ARCHIVE)
            done = connection.execute(sa.select(log_readers.c.position).where(same)).scalar()
        archive: Archive | None = None
        added = 0
        for one in segments:
            position = self._end_of(name, log, one.number)[0]
            if done is not None and position <= done:
                continue
            archive = archive or Archive(self._archive)
            added += archive.add(front, one.number, ((at, record_of(data, at)) for at, data in log.records(one.number)))
            self.mark(_ARCHIVE, {name: position})
        return added

    # ------------------------------------------------------------ inside

    def _names(self) -> list[str]:
        found = [f"{_PREDICTIONS}{front}" for front in fronts(self._folder / "predictions")]
        return [*found, ROWS] if (self._folder / ROWS).is_dir() else found

    def _opened(self, name: str) -> _Opened:
        if not (self._folder / name).is_dir():
            raise NotFound("there is no such log", where=name, allowed=", ".join(self._names()) or "none yet")
        return _Opened(self._folder / name)

    def _end_of(self, name: str, log: Log, number: int) -> tuple[int, datetime]:
        """Return the position and the time of a closed segment's last record."""
        known = self._ends.get((name, number))
        if known is None:
            position, payload = -1, b""
            for position, payload in log.records(number):  # noqa: B007 - the last one counts
                pass
            if position < 0:
                raise InvalidInput("the segment holds no record", where=f"{name}/{number:08d}")
            at = moment_of(decode(position, payload).at) if name == ROWS else record_of(payload, position).at
            known = self._ends[name, number] = (position, at)
        return known


class _Opened:
    """A log that is open for reading as long as it is looked at."""

    def __init__(self, folder: Path) -> None:
        self._log = Log.open(folder, readonly=True)

    def __enter__(self) -> Log:
        return self._log

    def __exit__(self, *_error: object) -> None:
        self._log.close()


def ends(folder: Path) -> dict[str, int]:
    """Return the end of every prediction log in a folder, by the log's name."""
    found: dict[str, int] = {}
    for front in fronts(folder):
        log = PredictionLog.open(folder, front)
        found[f"{_PREDICTIONS}{front}"] = log.end()
        log.close()
    return found
