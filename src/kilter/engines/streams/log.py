"""A durable, segmented log of records on the local disk.

A position is ``segment << 32 | offset`` and stays below 2**53, so that it survives JSON. One ``writev`` call per record
(``segments.py`` says how it is framed) makes it survive the death of the process once ``append`` has returned;
``fsync=True`` makes it survive a power cut as well.

The oldest segments can be removed whole (``begin.py``). Positions stay what they were: a removed one has expired, and a reader
that had read everything before the log's beginning goes on there.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kilter.core.errors import Conflict, Damaged, Expired, InvalidInput, KilterError, NotFound, Unavailable
from kilter.engines.streams.begin import Begin, read_begin, removing, sync_folder, write_begin
from kilter.engines.streams.behind import Behind
from kilter.engines.streams.segments import HEADER, LARGEST, Segment, header, record, records

_SHIFT = 32
_OFFSET = (1 << _SHIFT) - 1
_SEGMENT_BYTES = 16 << 20
_SUFFIX = ".log"
_LOCK = "writer.lock"


class Log:
    """A log of records with one writer and any number of readers, in this process or in others.

    Open one with :meth:`open`. ``append`` may be called from several threads.

    Args:
        folder: Where the segments lie.
        segment_bytes: When to begin a new segment.
        fsync: Whether each append waits for the disk.
        lock: The descriptor that holds the writer's lock, or ``None`` for a reader.
    """

    def __init__(self, folder: Path, *, segment_bytes: int, fsync: bool, lock: int | None) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._lock = lock
        self._guard = threading.Lock()
        self._tail = -1
        self._behind = Behind()
        self._segment = 0
        self._offset = 0
        self._last = -1
        self._scanned: tuple[int, int, int] | None = None

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        segment_bytes: int = _SEGMENT_BYTES,
        fsync: bool = False,
        readonly: bool = False,
    ) -> Log:
        """Open the log in a folder, and make it if it is not there.

        The writer cuts off a record that a dying predecessor left half-written.

        Args:
            folder: Where the segments lie.
            segment_bytes: When to begin a new segment.
            fsync: Whether each append waits for the disk; without it a record survives the death of the process,
                and with it a power cut as well.
            readonly: Open for reading beside the writer.

        Raises:
            Conflict: When another writer has the log open.
            Damaged: When a record before the last one is broken; nothing is changed then.
            Unavailable: When the folder can't be made or written.
        """
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if readonly:
                return cls(path, segment_bytes=segment_bytes, fsync=fsync, lock=None)
            log = cls(path, segment_bytes=segment_bytes, fsync=fsync, lock=_take_lock(path))
        except OSError as error:
            raise _translated(error, path) from error
        try:
            log._recover()
        except BaseException:
            log.close()
            raise
        return log

    @property
    def folder(self) -> Path:
        """Where the segments lie."""
        return self._folder

    def claim(self) -> None:
        """Become the writer of a log that was opened for reading; nothing happens when this one is the writer already.

        Raises:
            Conflict: When another writer has the log open.
            Damaged: When a record before the last one is broken; nothing is changed then.
            Unavailable: When the folder can't be written.
        """
        with self._guard:
            if self._tail >= 0:
                return
            self._lock = _take_lock(self._folder)
            try:
                self._recover()
            except BaseException:
                os.close(self._lock)
                self._lock = None
                raise

    def append(self, payload: bytes | bytearray, *, fresh: bool = False) -> int:
        """Write a record and return its position; when this returns, the record survives ``kill -9``.

        Args:
            payload: At most 1 GiB.
            fresh: Begin a new segment with it, so that those before can be removed whole when their time has come.

        Raises:
            Unavailable: When the disk is full or gone; the log is then as it was before.
            Conflict: When the log was opened for reading, or is closed.
        """
        if len(payload) > LARGEST:
            raise InvalidInput(f"a record of {len(payload):,} bytes", where=str(self._folder), allowed="at most 1 GiB")
        head = header(payload)
        size = len(head) + len(payload)
        with self._guard:
            if self._tail < 0:
                raise Conflict("the log is closed or was opened for reading", where=str(self._folder))
            try:
                if self._offset and (fresh or self._offset + size > self._segment_bytes):
                    self._roll()
                written = os.writev(self._tail, (head, payload))
                while written < size:
                    written += os.write(self._tail, (head + payload)[written:])
                if self._fsync:
                    os.fdatasync(self._tail)
            except OSError as error:
                self._undo()
                raise _translated(error, self._folder) from error
            self._last = self._segment << _SHIFT | self._offset
            self._offset += size
            if not self._fsync:
                self._behind.wrote(self._tail, self._offset)
            return self._last

    def read(self, after: int = -1, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield records in order, up to the end as it is when the reading gets there.

        Args:
            after: The position of the last record that is already known; ``-1`` for all that are kept.
            limit: At most so many records.

        Raises:
            Damaged: When a record is broken and whole ones follow it.
            NotFound: When ``after`` is no position of this log.
            Expired: When records that come after ``after`` were removed.
        """
        if limit is not None and limit <= 0:
            return
        left = limit
        segment, offset = self._start(after)
        while True:
            # The order matters: if a next segment exists now, then this one is complete when it is read below.
            following = self._path(segment + 1).exists()
            for place, payload in self._records(segment, offset, final=not following):
                yield segment << _SHIFT | place, payload
                if left is not None:
                    left -= 1
                    if left <= 0:
                        return
            if not following:
                return
            segment, offset = segment + 1, 0

    def get(self, position: int) -> bytes:
        """Return the record at a position.

        Raises:
            NotFound: When no record begins there.
            Expired: When there was one, and it was removed.
            Damaged: When its checksum does not fit.
        """
        segment, offset = _place(position)
        begin = read_begin(self._folder)
        if position >= 0 and segment < begin.segment:  # also while its file is still there
            raise self._expired(position)
        if position < 0:
            raise NotFound(f"there is no record at {position}", where=str(self._folder))
        try:
            return record(self._path(segment), offset)
        except FileNotFoundError as error:
            if position <= read_begin(self._folder).removed:
                raise self._expired(position) from error
            raise NotFound(f"there is no record at {position}", where=str(self._folder)) from error

    def end(self) -> int:
        """Return the position of the last record, or ``-1`` if there is none: a reader there has read everything."""
        if self._tail >= 0:
            return self._last
        with self._guard:
            begin = read_begin(self._folder)
            if self._scanned is None or self._scanned[0] < begin.segment:
                self._scanned = (max(begin.segment, self._newest() - 1), 0, begin.removed)
            segment, offset, last = self._scanned
            while True:
                following = self._path(segment + 1).exists()
                for place, payload in self._records(segment, offset, final=not following):
                    last = segment << _SHIFT | place
                    offset = place + HEADER.size + len(payload)
                self._scanned = (segment, offset, last)
                if not following:
                    return last
                segment, offset = segment + 1, 0

    # ------------------------------------------------------------ removal

    def begin(self) -> Begin:
        """Return where the log begins: what lies before was removed."""
        return read_begin(self._folder)

    def segments(self) -> list[Segment]:
        """Return the segments that are kept, oldest first."""
        first = read_begin(self._folder).segment
        found: list[tuple[int, int]] = []
        for number in self._segments():
            with suppress(FileNotFoundError):  # removed meanwhile
                if number >= first:
                    found.append((number, self._path(number).stat().st_size))
        # A segment that holds no whole record yet may be cut to nothing: it closes none.
        filled = [number for number, size in found[-2:] if size and self._first(number) is not None]
        newest = max(filled, default=-1)
        return [Segment(number, size, number < newest) for number, size in found]

    def first(self, segment: int) -> tuple[int, bytes]:
        """Return the first record of a segment.

        Raises:
            NotFound: When it has none.
        """
        found = self._first(segment)
        if found is None:
            raise NotFound("the segment holds no record", where=str(self._path(segment)))
        return segment << _SHIFT, found

    def records(self, segment: int) -> Iterator[tuple[int, bytes]]:
        """Yield the records of one closed segment.

        Raises:
            Damaged: When one is broken.
            Expired: When the segment was removed.
        """
        for place, payload in self._records(segment, 0, final=False):
            yield segment << _SHIFT | place, payload

    def remove(self, through: int) -> int:
        """Remove the oldest segments; the records of later ones keep their positions.

        Args:
            through: The last segment to remove; it must be closed.

        Returns:
            How many bytes became free.

        Raises:
            Conflict: When the segment is still written to.
            Damaged: When its records can't all be read: nothing is removed then.
            Unavailable: When the folder can't be written.
        """
        try:
            with removing(self._folder):
                begin = read_begin(self._folder)
                if through >= begin.segment:
                    if not any(one.number == through and one.closed for one in self.segments()):
                        raise Conflict("the segment is not closed", where=str(self._path(through)))
                    last = max((position for position, _ in self.records(through)), default=begin.removed)
                    write_begin(self._folder, Begin(through + 1, last))
                return self._sweep()
        except OSError as error:
            raise _translated(error, self._folder) from error

    def _sweep(self) -> int:
        """Unlink what lies before the beginning; a removal that was cut short is finished so."""
        first = read_begin(self._folder).segment
        free = 0
        for number in self._segments():
            if number < first:
                with suppress(FileNotFoundError):
                    size = self._path(number).stat().st_size
                    self._path(number).unlink()
                    free += size
        if free:
            sync_folder(self._folder)
        return free

    def _first(self, segment: int) -> bytes | None:
        for _, payload in self._records(segment, 0, final=True):
            return payload
        return None

    def _start(self, after: int) -> tuple[int, int]:
        """Return segment and offset of the first record that is not known yet."""
        begin = read_begin(self._folder)
        segment, offset = _place(after)
        if after >= begin.removed and segment < begin.segment:
            return begin.segment, 0
        if after < 0:
            return begin.segment, 0
        return segment, self._after(segment, offset)

    def _expired(self, position: int) -> Expired:
        return Expired(
            f"the record at {position} has expired: the log keeps what came later",
            where=str(self._folder),
            fix="look into the archive, if the store keeps one",
        )

    # ------------------------------------------------------------ ending

    def sync(self) -> None:
        """Wait until everything appended so far is on the disk, whoever appended it.

        Raises:
            Unavailable: When the disk fails.
        """
        with self._guard:
            try:
                if self._tail >= 0:
                    self._behind.settle()
                    os.fdatasync(self._tail)
                    return
                # Those before the newest two were there before the newest began.
                for number in self._segments()[-2:]:
                    with suppress(FileNotFoundError), self._path(number).open("rb") as file:  # removed meanwhile
                        os.fdatasync(file.fileno())
                if self._folder.exists():
                    sync_folder(self._folder)
            except OSError as error:
                raise _translated(error, self._folder) from error

    def close(self) -> None:
        """Close the log and let another writer have it; closing it twice is no error."""
        with self._guard:
            self._behind.close()
            if self._tail >= 0:
                os.close(self._tail)
                self._tail = -1
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}{_SUFFIX}"

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())

    def _newest(self) -> int:
        return max(self._segments(), default=0)

    def _after(self, segment: int, offset: int) -> int:
        """Return the offset of the record that follows the one at ``offset``."""
        return offset + HEADER.size + len(self.get(segment << _SHIFT | offset))

    def _roll(self) -> None:
        """Begin the next segment; the one before is brought to the disk, whatever ``fsync`` says."""
        ended, following = self._path(self._segment), self._path(self._segment + 1)
        descriptor = os.open(following, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        try:
            if self._fsync:
                os.fdatasync(self._tail)
                sync_folder(self._folder)
            else:
                self._behind.end(self._tail, ended)
        except BaseException:
            os.close(descriptor)
            following.unlink()
            raise
        os.close(self._tail)
        self._tail, self._segment, self._offset = descriptor, self._segment + 1, 0
        self._behind.begin(ended)

    def _undo(self) -> None:
        """Take back a record that was written in part; if even that fails, take no more records."""
        try:
            os.ftruncate(self._tail, self._offset)
        except OSError:
            os.close(self._tail)
            self._tail = -1

    def _recover(self) -> None:
        """Find the end of the last segment, cut off a torn record, and make ready to append.

        The segment before may have been on its way to the disk still when the power went: it ends with its last whole record, too.
        """
        begin = read_begin(self._folder)
        segments = [number for number in self._segments() if number >= begin.segment]
        newest = max(segments, default=begin.segment or -1)
        missing = set(range(begin.segment, newest + 1)) - set(segments)
        if missing:
            raise Damaged("a segment is missing", where=str(self._path(min(missing))), fix="restore it from a backup")
        self._segment = max(newest, 0)
        self._last = begin.removed
        ends = [(number, *self._ends(number)) for number in segments[-2:]] or [(self._segment, -1, 0)]
        for number, last, _ in ends:
            if last >= 0:
                self._last = number << _SHIFT | last
        try:
            self._tail = os.open(self._path(self._segment), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            for number, _, end in ends:
                self._cut(number, end)
            self._offset = ends[-1][2]
            sync_folder(self._folder)
            with removing(self._folder):
                self._sweep()
        except OSError as error:
            raise _translated(error, self._folder) from error

    def _ends(self, segment: int) -> tuple[int, int]:
        """Return where the last whole record of a segment begins, -1 where there is none, and where it ends."""
        last, end = -1, 0
        for place, payload in self._records(segment, 0, final=True):
            last, end = place, place + HEADER.size + len(payload)
        return last, end

    def _cut(self, segment: int, end: int) -> None:
        """Have a segment end where its last whole record does, and all of it on the disk: its writer may have died before that."""
        with self._path(segment).open("r+b") as file:
            if os.fstat(file.fileno()).st_size != end:
                file.truncate(end)
            os.fdatasync(file.fileno())

    def _records(self, segment: int, offset: int, *, final: bool) -> Iterator[tuple[int, bytes]]:
        """Yield the whole records of one segment from an offset on; none when it isn't there yet."""
        try:
            yield from records(self._path(segment), offset, final=final)
        except FileNotFoundError as error:
            if segment < read_begin(self._folder).segment:
                raise self._expired(segment << _SHIFT | offset) from error


def _place(position: int) -> tuple[int, int]:
    return (position >> _SHIFT, position & _OFFSET) if position >= 0 else (0, 0)


def _take_lock(folder: Path) -> int:
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(
            "another writer has the log open", where=str(folder), fix="stop it, or open the log with readonly=True"
        ) from error
    return descriptor


def _translated(error: OSError, folder: Path) -> KilterError:
    if isinstance(error, PermissionError) or error.errno == 30:  # EROFS
        return Unavailable(
            "the folder can't be written", where=str(folder), fix="give this user the right to write there"
        )
    return Unavailable(f"the log can't be written: {error.strerror}", where=str(folder), fix="free some space")
