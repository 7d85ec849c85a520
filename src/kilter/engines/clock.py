"""One clock for all processes of a simulated world."""

from __future__ import annotations

import math
import mmap
import os
import struct
from datetime import UTC, datetime
from pathlib import Path

from kilter.core.clock import utc
from kilter.core.errors import Damaged, NotFound

_BYTES = 8


class SharedClock:
    """A clock that reads the time from an eight-byte file mapped into memory.

    The time is a float64 of seconds since 1970, which keeps microseconds until the year 2242. It is stored and
    loaded as one aligned machine word, so no reader ever sees half of a new time.

    Args:
        path: The file. ``set`` makes it; ``now`` before the first ``set`` is an error.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._words: memoryview[float] | None = None

    def now(self) -> datetime:
        """Return the time that was last set, in any process.

        Raises:
            NotFound: When no process has set a time yet.
            Damaged: When the file holds no time.
        """
        words = self._words if self._words is not None else self._map()
        seconds = words[0]
        if not math.isfinite(seconds) or seconds == 0.0:
            raise Damaged("the file of the simulated clock holds no time", where=str(self._path))
        return datetime.fromtimestamp(seconds, UTC)

    def set(self, moment: datetime) -> None:
        """Move the clock of every process to ``moment``."""
        if self._words is None:
            self._make(moment)
        words = self._words if self._words is not None else self._map()
        words[0] = utc(moment).timestamp()

    def _make(self, moment: datetime) -> None:
        """Make the file with a time already in it, aside, so that no reader meets an empty one."""
        if self._path.exists():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        aside.write_bytes(struct.pack("d", utc(moment).timestamp()))
        aside.replace(self._path)

    def _map(self) -> memoryview[float]:
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError as error:
            raise NotFound("the simulated clock has not been started", where=str(self._path)) from error
        try:
            if os.fstat(descriptor).st_size != _BYTES:
                raise Damaged("the file of the simulated clock has the wrong size", where=str(self._path))
            self._words = memoryview(mmap.mmap(descriptor, _BYTES)).cast("d")
        finally:
            os.close(descriptor)
        return self._words
