"""The buffer of one process of a run: a queue in memory, a thread that brings it to the disk, and the folder that survives both.

::

    FOLDER/start        which run it is and where it belongs (``records.Start``)
    FOLDER/log/         everything else, in order: framed and checksummed records
    FOLDER/files/       the bytes of files that were not sent yet
    FOLDER/sent         the position of the last record that was sent
    FOLDER/sender.lock  held by whoever sends
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import blake3
import msgspec

from kilter.core.errors import Unavailable
from kilter.engines.streams.begin import sync_folder
from kilter.tracking.columns import packed
from kilter.tracking.sdk.records import Points, Record, Start, encoded
from kilter.tracking.sdk.shelf import Shelf

START, SENT, FILES, LOCK = "start", "sent", "files", "sender.lock"

EVERY = 1.0
"""Seconds between two visits to the disk, at most."""

_MANY = 20_000
"""From how many points the writer is woken before its time."""

_MOST = 200_000
"""How many points wait in memory at most: whoever adds another then writes them himself."""

_BLOCK = 50_000
_PIECE = 1 << 20

Point = tuple[str, float, int, int]
"""Name, value, step, and the moment in nanoseconds since 1970."""


class Buffer:
    """What one process of a run has to say, on its way to the store.

    Args:
        folder: The buffer's own folder; made here.
        start: Which run it is.
        complain: Told once of each kind of trouble; never raises.
    """

    def __init__(self, folder: Path, start: Start, complain: Callable[[Exception], None]) -> None:
        self.folder = folder
        self.start = start
        self.waiting: deque[Point | bytes] = deque()
        self.news = threading.Event()
        self._complain = complain
        self._wake = threading.Event()
        self._over = False
        self._writing = threading.Lock()
        self._files = itertools.count(1)
        self._made = self._make()
        self.shelf = Shelf.open(folder) if self._made else Shelf(None)
        if self.shelf.problem is not None:
            complain(self.shelf.problem)
        self._complained_disk = False
        self._thread = threading.Thread(target=self._write, name="kilter-buffer", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ what the training calls

    def relieve(self) -> None:
        """See to a queue that has grown long; called by whoever adds to it."""
        waiting = len(self.waiting)
        if waiting >= _MOST:
            self._drain()  # the writer is behind: nothing may be lost, so the caller lends a hand
        elif waiting >= _MANY:
            self._wake.set()

    def put(self, record: Record) -> None:
        """Add a record.

        Raises:
            TypeError: When it holds something that can't be said.
        """
        self.waiting.append(encoded(record))
        if len(self.waiting) >= _MANY:
            self.relieve()

    def keep(self, source: Path | bytes) -> tuple[str, int, str]:
        """Keep bytes, or a copy of a file, until they are sent.

        Returns:
            Their digest, their length and the name of the copy.

        Raises:
            Unavailable: When the disk does not take them.
        """
        folder = self.folder / FILES
        name = f"{next(self._files):06d}"
        copy = folder / name
        taken = blake3.blake3()
        size = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with copy.open("wb") as file:
                for piece in _pieces(source):
                    taken.update(piece)
                    size += len(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                copy.unlink()
            raise Unavailable(
                f"the file can't be kept ({error.strerror})", where=str(folder), fix="make room, or set KILTER_BUFFER"
            ) from error
        return taken.hexdigest(), size, name

    def flush(self) -> None:
        """Bring everything that was said so far to the disk."""
        self._drain()
        self.shelf.sync()
        self.news.set()

    def close(self) -> None:
        """End the writing: everything is on the disk afterwards."""
        self._over = True
        self._wake.set()
        self._thread.join()

    # ------------------------------------------------------------ within

    def _make(self) -> bool:
        try:
            self.folder.mkdir(parents=True, exist_ok=False)
            self.folder.chmod(0o700)
            write_whole(self.folder / START, msgspec.msgpack.encode(self.start))
        except OSError as error:
            self._complain(
                Unavailable(
                    f"the buffer can't be made ({error.strerror})", where=str(self.folder), fix="set KILTER_BUFFER"
                )
            )
            return False
        return True

    def _write(self) -> None:
        while True:
            self._wake.wait(EVERY)
            self._wake.clear()
            over = self._over
            if self.waiting:
                self.flush()
            if over:
                return

    def _drain(self) -> None:
        with self._writing:
            while self.waiting:
                for record in _blocks(self.waiting):
                    taken = self.shelf.append(record)
                    if not taken and not self._complained_disk and self.shelf.problem is not None:
                        self._complained_disk = True
                        self._complain(self.shelf.problem)
        self.news.set()


def _blocks(waiting: deque[Any]) -> list[bytes]:
    """Take what waits and return it as records, points that follow each other as one."""
    taken: list[Any] = []
    with suppress(IndexError):
        for _ in range(min(len(waiting), _BLOCK)):
            taken.append(waiting.popleft())  # noqa: PERF401 - what was taken before the queue is empty must not be lost
    records: list[bytes] = []
    begin = 0
    if bytes in set(map(type, taken)):
        for place, found in enumerate(taken):
            if type(found) is bytes:
                if place > begin:
                    records.append(_points(taken[begin:place]))
                records.append(found)
                begin = place + 1
    if begin < len(taken):
        records.append(_points(taken[begin:]))
    return records


def _points(points: list[Point]) -> bytes:
    """Return points as one record, those of each metric together and in their order."""
    groups: dict[str, list[Point]] = {}
    if len({point[0] for point in points}) == 1:
        groups[points[0][0]] = points
    else:
        for point in points:
            own = groups.get(point[0])
            if own is None:
                groups[point[0]] = [point]
            else:
                own.append(point)
    ordered = points if len(groups) == 1 else list(itertools.chain.from_iterable(groups.values()))
    _, values, steps, times = zip(*ordered, strict=True)
    data = packed(steps, values, [at // 1000 for at in times])
    return encoded(Points(names=list(groups), counts=[len(own) for own in groups.values()], data=data))


def _pieces(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OSError: When the disk does not take it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def read_sent(folder: Path) -> int:
    """Return the position of the last record of a buffer that was sent, or -1."""
    try:
        return int((folder / SENT).read_bytes())
    except (OSError, ValueError):
        return -1  # sending again is safe: each record has its key


def read_start(folder: Path) -> Start | None:
    """Return which run a buffer is of, or None when it is none, or was made and never begun."""
    try:
        return msgspec.msgpack.decode((folder / START).read_bytes(), type=Start)
    except (OSError, msgspec.MsgspecError):
        return None


def remove(folder: Path) -> None:
    """Take away a buffer whose every record was sent."""
    with suppress(OSError):
        (folder / START).unlink()  # first: a removal that is cut short leaves no buffer behind
    shutil.rmtree(folder, ignore_errors=True)
