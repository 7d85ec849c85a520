"""Tables: rows come in and are on disk at once; frames as known at a moment go out.

A batch of rows is one record of the row log, and that is its acknowledgement. Flushing copies batches into the table's
files and then moves a cursor in SQL. A crash between the two leaves files that hold more than the cursor says: readers
look at the version that the cursor names, and the next flush finds the positions there and moves the cursor only.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import polars as pl

from kilter.core.clock import Clock
from kilter.core.errors import Damaged, DeclarationError, Expired, KilterError, NotFound
from kilter.data.batch import TYPES, Batch, decode, encode, micros, moment_of, parts_frame
from kilter.data.canonical import frame_digest
from kilter.data.catalog import Catalog, Entry
from kilter.data.declare import Table
from kilter.data.history import batches_of
from kilter.data.merged import Merged
from kilter.data.records import Appended, ColumnInfo, Flush, TableDescription, TableInfo, TableVersion
from kilter.data.requests import Requests
from kilter.data.schema import Given, nearest, read_frame, read_rows
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.engines.tables.failures import collecting
from kilter.engines.tables.store import TableStore
from kilter.journal.service import Journal
from kilter.operations.table import operation

_LOG = logging.getLogger(__name__)
_FLUSH_ROWS = 50_000
_TOGETHER = 4
"""From so many batches on it is quicker to make one frame of them."""
_SPAN = 86_400_000_000
"""Microseconds for which a segment of the row log is written to."""


class DataService:
    """The tables of a store.

    One process has the row log open for writing and appends; any number of others read beside it.

    Args:
        database: Where the tables' schema and cursors are.
        tables: Where their files are.
        log: The row log.
        clock: Tells when rows arrive; arrivals never go back in time.
        flush_rows: So many parts of rows wait in the log before an append flushes them.
        journal: Where new versions of tables are noted, or None.
    """

    def __init__(
        self,
        database: Database,
        tables: TableStore,
        log: Log,
        clock: Clock,
        *,
        flush_rows: int = _FLUSH_ROWS,
        journal: Journal | None = None,
    ) -> None:
        self.on_append: list[Callable[[Batch], None]] = []
        """Called with each batch after it is on disk, in order, before the append returns."""
        self._catalog = Catalog(database, journal)
        self._files = tables
        self._log = log
        self._clock = clock
        self._flush_rows = flush_rows
        self._lock = threading.RLock()
        self._seen = -1
        self._started = False
        self._latest = 0
        self._until: int | None = None
        self._tails: dict[str, list[Batch]] = {}
        self._waiting: dict[str, int] = {}
        self._live: dict[str, Merged] = {}
        self._past: dict[str, Merged] = {}
        self._entries: dict[str, Entry] = {}
        self._requests = Requests(self._catalog)
        self._versions: dict[tuple[str, int], TableVersion] = {}

    # ------------------------------------------------------------ declaring

    @operation(writes=True, repeatable=True)
    def declare(self, table: Table, times: Sequence[str] = ()) -> TableInfo:
        """Make a table known; declaring it again the same way changes nothing.

        Args:
            table: Its name, its key and its event time.
            times: Further columns that hold times, so that numbers in them are read as seconds since 1970.

        Raises:
            DeclarationError: When the table is known with another key or time, or a column of ``times`` has another kind.
        """
        with self._lock:
            kinds = dict.fromkeys((table.time, *times), "time")
            if table.key in kinds:
                raise DeclarationError(
                    f"{table.key!r} can't be both key and time", where=f"Table({table.name!r})", fix="use two columns"
                )
            self._files.version(table.name)  # refuses a name that can't be one
            entry = self._catalog.declare(table, kinds, self._log.end(), self._clock.now())
            self._entries[table.name] = entry
            return _info(entry)

    @operation
    def tables(self) -> list[TableInfo]:
        """List the tables, by name."""
        return [_info(entry) for entry in self._catalog.entries()]

    @operation
    def describe(self, table: str) -> TableDescription:
        """Describe a table and its rows as they are now.

        Raises:
            NotFound: When there is no such table.
        """
        with self._lock:
            frame = self.frame(table)
            entry, live = self._entries[table], self._live[table]
            times = frame[entry.time]
            first, last = times.min(), times.max()
            return TableDescription(
                table=_info(entry),
                rows=frame.height,
                untimed=times.null_count(),
                first=first if isinstance(first, datetime) else None,
                last=last if isinstance(last, datetime) else None,
                nulls={name: frame[name].null_count() for name in frame.columns},
                position=live.position,
                at=moment_of(live.at) if frame.height else None,
            )

    # ------------------------------------------------------------ writing

    @operation(writes=True, key="request_id")
    def append(
        self, table: str, rows: Sequence[Mapping[str, bool | int | float | str | None]], request_id: str | None = None
    ) -> Appended:
        """Take in rows or parts of rows; when this returns they survive the death of the process.

        Parts of a row carry its key; per column the newest value that is not null counts. Sending the newest part twice
        is harmless by itself; a ``request_id`` makes any retry harmless, however late it comes.

        Args:
            table: A declared table.
            rows: Values by column; times are RFC 3339 with an offset, or seconds since 1970. Unknown columns are added.
            request_id: The caller's own id of this append, at most 200 characters.

        Raises:
            NotFound: When there is no such table.
            InvalidInput: When any row can't be taken; it names row, column, kind and value, and nothing was written.
            Conflict: When another process writes the row log.
        """
        return self.take(table, rows, request_id=request_id)

    def take(self, table: str, rows: Sequence[Mapping[str, Given]], *, request_id: str | None = None) -> Appended:
        """Take in rows as :meth:`append` does; times may be aware datetimes too."""
        with self._lock:
            self._log.claim()
            self._catch_up()
            entry = self._entry(table)
            if request_id is not None:
                repeated = self._requests.find(table, request_id)
                if repeated is not None:
                    return repeated
            columns, added = read_rows(table, rows, entry.key, entry.time, entry.kinds)
            if added:
                entry = self._entries[table] = self._catalog.add_columns(table, added)
            batch = self._write(Batch(table, self._arrival(), columns, request_id or ""))
            self._keep(batch)
            if self._waiting[table] >= self._flush_rows:
                self.flush(table)
            return _appended(batch)

    def ingest(self, table: str, frame: pl.DataFrame) -> Appended:
        """Take in a frame of whole rows or parts directly into the table's files.

        Args:
            table: A declared table.
            frame: One row per key; a float NaN counts as missing.

        Raises:
            NotFound: When there is no such table.
            InvalidInput: When a column has another kind than the table's, a key or time is null, or a key is there twice.
        """
        with self._lock:
            self._log.claim()
            self.flush(table)
            entry = self._entry(table)
            parts, added = read_frame(table, frame, entry.key, entry.time, entry.kinds)
            if added:
                entry = self._entries[table] = self._catalog.add_columns(table, added)
            marker = Batch(table, self._arrival(), {}, bulk=parts.height)
            position = self._log.append(encode(marker), fresh=self._lasted(marker.at))
            stamps = (
                pl.lit(marker.at).cast(TYPES["time"]).alias("_at"),
                pl.lit(position, dtype=pl.Int64).alias("_position"),
            )
            version = self._files.append(table, parts.with_columns(stamps))
            self._log.sync()  # see flush
            self._entries[table] = self._catalog.flushed(
                entry, position, version=version, parts=parts.height, at=moment_of(marker.at)
            )
            self._seen = position
            batch = Batch(table, marker.at, {}, bulk=parts.height, position=position)
            self._keep(batch)
            self._tell(batch)
            return _appended(batch)

    @operation(writes=True, repeatable=True)
    def flush(self, table: str) -> TableInfo:
        """Copy what waits in the row log into the table's files, each batch once whatever crashes between.

        Raises:
            NotFound: When there is no such table.
            Unavailable: When the files can't be written; the rows stay in the log.
        """
        with self._lock:
            self._catch_up()
            entry = self._adopt(self._refreshed(table))
            waiting = [batch for batch in self._tails.get(table, []) if batch.position > entry.flushed]
            if waiting:
                self._log.sync()  # the cursor survives a power cut, and must never point behind the log's end
                parts = [batch for batch in waiting if not batch.bulk]
                version = entry.version
                if parts:
                    version = self._files.append(table, parts_frame(parts, entry.kinds))
                entry = self._catalog.flushed(
                    entry,
                    waiting[-1].position,
                    version=version,
                    parts=sum(map(len, parts)),
                    at=moment_of(waiting[-1].at),
                    requests=parts,
                )
            self._entries[table] = entry
            self._trim(table)
            return _info(entry)

    def flush_all(self) -> None:
        """Copy all that waits in the row log into the tables' files.

        Raises:
            Unavailable: When the files can't be written; the rows stay in the log.
        """
        for entry in self._catalog.entries():
            self.flush(entry.name)

    # ------------------------------------------------------------ reading

    def frame(self, table: str, known_by: datetime | None = None) -> pl.DataFrame:
        """Return the table's rows as known at a moment, one per key, in no particular order.

        Args:
            table: A declared table.
            known_by: Only parts that had arrived by then; None for everything. Flushed or not makes no difference.

        Raises:
            NotFound: When there is no such table.
        """
        with self._lock:
            self._catch_up()
            return self._known(table, known_by).frame(self._entries[table].schema)

    def rows_since(self, table: str, position: int) -> pl.DataFrame:
        """Return the whole rows of which a part came after a position, in the order in which they were written last.

        Args:
            table: A declared table.
            position: Of the row log; the greatest ``_position`` of an earlier answer, or -1.

        Returns:
            The table's columns, and of the newest part ``_at`` (when it arrived) and ``_position``.
        """
        with self._lock:
            self._catch_up()
            return self._current(table).since(position, self._entries[table].schema)

    def batches(self, table: str, after: int) -> Iterator[Batch]:
        """Yield the batches of a table after a position, in order; a bulk load comes as its size only.

        Those that were removed from the row log come from the table's files, which hold them all.
        """
        removed = self._log.begin().removed
        if after < removed:
            with self._lock:
                entry = self._refreshed(table)
                older = self._parts(entry, (pl.col("_position") > after) & (pl.col("_position") <= removed))
            yield from batches_of(table, older)
            after = removed
        for position, payload in self._log.read(after):
            batch = decode(position, payload)
            if batch.table == table:
                yield batch

    def floor(self) -> int:
        """Return the position up to which every table's files hold the row log: what lies before is there twice."""
        with self._lock:
            self._catch_up()
            waiting = [
                batch.position
                for entry in self._catalog.entries()
                for batch in self._tails.get(entry.name, [])
                if batch.position > entry.flushed
            ]
            return min(waiting) - 1 if waiting else self._seen

    @operation
    def versions(self, table: str, limit: int = 100) -> list[Flush]:
        """List the versions of a table's files, newest first.

        Raises:
            NotFound: When there is no such table.
        """
        self._refreshed(table)
        return self._catalog.versions(table, limit)

    @operation
    def version(self, table: str, known_by: datetime | None = None) -> TableVersion:
        """Name the rows of a table as known at a moment by the digest of their content.

        Raises:
            NotFound: When there is no such table.
        """
        with self._lock:
            self._catch_up()
            known = self._known(table, known_by)
            entry = self._entries[table]
            name = (table, known.position)
            found = self._versions.get(name)
            if found is None:
                frame = known.frame(entry.schema)
                # A column that no row has (yet) is no content: it must not change the digest.
                present = [column for column in frame.columns if frame[column].null_count() < frame.height]
                digest = (
                    frame_digest(frame.select(present), entry.key) if frame.height else frame_digest(frame, entry.key)
                )
                found = TableVersion(table, known_by, known.position, frame.height, digest)
                self._versions[name] = found
            return TableVersion(table, known_by, found.position, found.rows, found.digest)

    def info(self, table: str) -> TableInfo:
        """Return a table as declared.

        Raises:
            NotFound: When there is no such table.
        """
        return _info(self._refreshed(table))

    # ------------------------------------------------------------ inside

    def _entry(self, table: str) -> Entry:
        return self._entries.get(table) or self._refreshed(table)

    def _refreshed(self, table: str) -> Entry:
        entry = self._catalog.entry(table)
        if entry is None:
            known = [found.name for found in self._catalog.entries()]
            raise NotFound(
                f"there is no table {table!r}",
                where="data",
                allowed=", ".join(known) or "none yet",
                fix=nearest(table, known) or "declare the table, or apply a loop that uses it",
            )
        self._entries[table] = entry
        return entry

    def _arrival(self) -> int:
        self._latest = max(self._latest, micros(self._clock.now()))
        return self._latest

    def _write(self, batch: Batch) -> Batch:
        position = self._log.append(encode(batch), fresh=self._lasted(batch.at))
        self._seen = position
        written = Batch(batch.table, batch.at, batch.columns, batch.request, 0, position)
        if batch.request:
            self._requests.keep(batch.request, _appended(written))
        self._tell(written)
        return written

    def _lasted(self, at: int) -> bool:
        """Say whether the newest segment of the log has lasted a day: a quiet one could not be removed for years."""
        if self._until is None:
            self._until = at + _SPAN
            newest = next((one.number for one in reversed(self._log.segments()) if one.size), None)
            if newest is not None:
                self._until = decode(*self._log.first(newest)).at + _SPAN
        if at < self._until:
            return False
        self._until = at + _SPAN
        return True

    def _keep(self, batch: Batch) -> None:
        self._tails.setdefault(batch.table, []).append(batch)
        self._waiting[batch.table] = self._waiting.get(batch.table, 0) + len(batch)

    def _tell(self, batch: Batch) -> None:
        for listener in self.on_append:
            try:
                listener(batch)
            except KilterError:
                # The rows are acknowledged already; a listener reads the log again from where it was.
                _LOG.exception("a listener could not take in the rows at %d of %s", batch.position, batch.table)

    def _catch_up(self) -> None:
        """Read what came to the log since; the writer itself has seen everything it wrote."""
        if not self._started:
            entries = self._catalog.entries()
            self._same_log(entries)
            self._entries = {entry.name: entry for entry in entries}
            self._latest = max((micros(entry.flushed_at) for entry in entries if entry.flushed_at), default=0)
            flushed = min((entry.flushed for entry in entries), default=self._log.end())
            # Only what every table's files hold is ever removed from the log.
            self._seen = max(flushed, self._log.begin().removed)
            self._started = True
        elif self._seen == self._log.end():
            return
        try:
            self._read_on()
        except Expired:
            # This process has not looked for long: the files hold what was removed from the log meanwhile.
            self._live, self._past, self._tails, self._waiting = {}, {}, {}, {}
            self._requests = Requests(self._catalog)
            self._seen = self._log.begin().removed
            self._read_on()

    def _read_on(self) -> None:
        for position, payload in self._log.read(self._seen):
            batch = decode(position, payload)
            self._seen = position
            self._latest = max(self._latest, batch.at)
            if batch.position <= self._entry(batch.table).flushed and batch.table not in self._live:
                self._requests.passed_over(batch.table)
                continue
            self._keep(batch)
            if batch.request:
                self._requests.keep(batch.request, _appended(batch))

    def _same_log(self, entries: Sequence[Entry]) -> None:
        """Refuse a row log that ends before the tables' cursors: what is appended to it would count as copied already."""
        ahead = next((entry for entry in entries if entry.flushed > self._log.end()), None)
        if ahead is not None:
            raise Damaged(
                f"the row log ends before what table {ahead.name!r} has taken from it: it is another store's, or a part is missing",
                where=str(self._log.folder),
                fix="use the --home that the store was filled from, or restore the folder from a backup; nothing was changed",
            )

    def _adopt(self, entry: Entry) -> Entry:
        """Move the cursor over positions that a flush wrote to the files before it crashed."""
        version = self._files.version(entry.name)
        if version == entry.version or (version is None and not entry.parts):
            return entry
        if version is None or (entry.version is not None and version < entry.version):
            raise self._lost(entry)
        scanned = self._files.scan(entry.name, version).select(pl.col("_position").max(), pl.len())
        with collecting(entry.name):
            found = scanned.collect()
        held = found["_position"].item()
        if held is None or held <= entry.flushed:
            return entry
        tail = [batch for batch in self._tails.get(entry.name, []) if entry.flushed < batch.position <= held]
        at = moment_of(tail[-1].at) if tail else self._clock.now()
        added = found["len"].item() - entry.parts
        return self._catalog.flushed(entry, held, version=version, parts=added, at=at, requests=tail)

    def _lost(self, entry: Entry) -> Damaged:
        return Damaged(
            f"version {entry.version} of the files of table {entry.name!r} is missing, and {entry.parts:,} parts of rows rest on it",
            where=f"{self._files.url}/{entry.name}",
            fix="restore the folder from a backup that is as new as the database; nothing was changed",
        )

    def _trim(self, table: str) -> None:
        """Forget batches that the files hold, once the merged rows (if any) have taken them in."""
        live = self._live.get(table)
        held = self._entries[table].flushed
        if live is not None:
            self._current(table)
            held = min(held, live.position)
        self._drop(table, held)
        self._requests.flushed(table, self._entries[table].flushed)

    def _drop(self, table: str, held: int) -> None:
        self._tails[table] = [batch for batch in self._tails.get(table, []) if batch.position > held]
        self._waiting[table] = sum(map(len, self._tails[table]))

    def _known(self, table: str, known_by: datetime | None) -> Merged:
        if known_by is None or micros(known_by) >= self._latest:
            return self._current(table)
        return self._as_of(table, micros(known_by))

    def _current(self, table: str) -> Merged:
        """Return the rows made of every part that has arrived."""
        live = self._live.get(table)
        entry = self._refreshed(table)
        if live is None:
            live = Merged(entry.key)
            self._from_files(live, entry, None)
            self._live[table] = live
        fresh: list[Batch] = []
        for batch in self._tails.get(table, []):
            if batch.position <= live.position:
                continue
            if not batch.bulk:
                fresh.append(batch)
                continue
            if batch.position > entry.flushed:
                break  # its rows are not in the files yet
            self._merge(live, fresh)
            self._from_files(live, entry, None, until=batch.position)
            fresh = []
        self._merge(live, fresh)
        held = min(entry.flushed, live.position)
        if self._tails.get(table) and self._tails[table][0].position <= held:
            self._drop(table, held)
        return live

    def _as_of(self, table: str, stamp: int) -> Merged:
        """Return the rows as known at a moment in the past; moments that go forward are cheap."""
        entry = self._refreshed(table)
        past = self._past.get(table)
        if past is None or past.at > stamp:
            past = self._past[table] = Merged(entry.key)
        self._from_files(past, entry, stamp)
        held = max(past.position, entry.flushed)
        known = itertools.takewhile(lambda batch: batch.at <= stamp, self._tails.get(table, []))
        self._merge(past, [batch for batch in known if batch.position > held and not batch.bulk])
        if table not in self._live:
            self._drop(table, entry.flushed)  # from now on they come from the files
        return past

    def _from_files(self, merged: Merged, entry: Entry, known_by: int | None, until: int | None = None) -> None:
        """Apply the parts in the files that ``merged`` does not have yet."""
        last = entry.flushed if until is None else until
        if entry.version is None or merged.position >= last:
            return
        wanted = (pl.col("_position") > merged.position) & (pl.col("_position") <= last)
        if known_by is not None:
            wanted &= pl.col("_at") <= pl.lit(known_by).cast(TYPES["time"])
        parts = self._parts(entry, wanted)
        arrived, held = parts.select(pl.col("_at").dt.epoch("us").max(), pl.col("_position").max()).row(0)
        if known_by is None:
            merged.apply_parts(parts, entry.kinds, position=last, at=merged.at if arrived is None else arrived)
        elif parts.height:
            merged.apply_parts(parts, entry.kinds, position=held, at=arrived)

    def _parts(self, entry: Entry, wanted: pl.Expr) -> pl.DataFrame:
        """Return parts from the files, in the order of the log."""
        if entry.version is None:
            return pl.DataFrame(schema={"_at": TYPES["time"], "_position": TYPES["integer"]})
        try:
            scanned = self._files.scan(entry.name, entry.version)
        except NotFound as error:
            raise self._lost(entry) from error
        with collecting(entry.name):
            return scanned.filter(wanted).collect().sort("_position", maintain_order=True)

    def _merge(self, merged: Merged, batches: Sequence[Batch]) -> None:
        """Apply batches of one table, all that there are at once: a small one costs nearly as much as a day of them."""
        if not batches:
            return
        kinds = self._entries[batches[0].table].kinds
        if any(batch.columns.keys() - kinds.keys() for batch in batches):
            kinds = self._refreshed(batches[0].table).kinds
        if len(batches) < _TOGETHER:
            for batch in batches:
                merged.apply(batch, kinds)
        else:
            newest = batches[-1]
            merged.apply_parts(parts_frame(batches, kinds), kinds, position=newest.position, at=newest.at)


def _info(entry: Entry) -> TableInfo:
    columns = tuple(ColumnInfo(name, kind) for name, kind in entry.kinds.items())
    return TableInfo(entry.name, entry.key, entry.time, columns, entry.parts, entry.flushed, entry.version)


def _appended(batch: Batch) -> Appended:
    return Appended(batch.table, batch.bulk or len(batch), batch.position, moment_of(batch.at))
