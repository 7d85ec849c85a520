"""Where the records of a buffer lie: a log on the disk, and memory for what the disk did not take."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kilter.core.errors import KilterError
from kilter.engines.streams.log import Log

MOST_HELD = 256 << 20
"""How many bytes are held in memory at most, when there is no disk to write to."""


class Kept(NamedTuple):
    """A record with the key under which it is sent.

    Args:
        key: The same whenever it is sent again, by whichever process.
        position: Its place in the log; -1 when it is held in memory.
        data: Its bytes.
    """

    key: str
    position: int
    data: bytes


class Shelf:
    """Records in order: those on the disk first, then those that it did not take.

    Args:
        log: The log, or None when the folder can't be written.
        problem: Why not.
    """

    def __init__(self, log: Log | None, problem: KilterError | None = None) -> None:
        self._log = log
        self._held: list[tuple[int, bytes]] = []
        self._held_bytes = 0
        self._count = 0
        self._boot = secrets.token_hex(4)
        self._guard = threading.Lock()
        self.problem = problem
        self.lost = 0

    @classmethod
    def open(cls, folder: Path) -> Shelf:
        """Open the log of a folder as its writer, or memory alone when that can't be."""
        try:
            return cls(Log.open(folder / "log"))
        except KilterError as error:
            return cls(None, error)

    def append(self, data: bytes) -> bool:
        """Keep a record; False when the disk did not take it, and it is only held in memory.

        Once one is held in memory, those after it are as well, so that they stay in order.
        """
        if self._log is not None and not self._held:
            try:
                self._log.append(data)
            except KilterError as error:
                self.problem = error
            else:
                return True
        with self._guard:
            if self._held_bytes + len(data) > MOST_HELD:
                self.lost += 1
                return False
            self._held.append((self._count, data))
            self._held_bytes += len(data)
            self._count += 1
        return False

    def sync(self) -> None:
        """Bring the log to the disk; what can't be is noted as the shelf's problem."""
        if self._log is not None:
            try:
                self._log.sync()
            except KilterError as error:
                self.problem = error

    def read(self, after: int) -> Iterator[Kept]:
        """Yield the records that were not sent.

        Args:
            after: The position of the last one of the log that was.
        """
        if self._log is not None:
            for position, data in self._log.read(after):
                yield Kept(str(position), position, data)
        while True:
            with self._guard:
                if not self._held:
                    return
                number, data = self._held[0]
            yield Kept(f"m{self._boot}-{number}", -1, data)

    def sent(self, kept: Kept) -> None:
        """Forget a record that was held in memory."""
        if kept.position >= 0:
            return
        with self._guard:
            if self._held and kept.key == f"m{self._boot}-{self._held[0][0]}":
                _, data = self._held.pop(0)
                self._held_bytes -= len(data)

    def free(self, position: int) -> None:
        """Remove the segments of the log that were sent whole."""
        if self._log is not None:
            closed = [segment.number for segment in self._log.segments() if segment.closed]
            before = [number for number in closed if number < position >> 32]
            if before:
                with suppress(KilterError):
                    self._log.remove(before[-1])

    @property
    def held(self) -> int:
        """How many records are in memory only, or were not even taken there."""
        return len(self._held) + self.lost

    @property
    def on_disk(self) -> bool:
        """Whether everything is on the disk."""
        return self._log is not None and not self.held

    def close(self) -> None:
        """Close the log; another process may then send what is left."""
        if self._log is not None:
            self._log.close()
