"""Brings a file that is being written to the disk while it grows, so that little is left to wait for when it ends."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

_STEP = 4 << 20


class Behind:
    """Follows a writer at some distance.

    Args:
        step: How many bytes may be written before they are brought to the disk.
    """

    def __init__(self, step: int = _STEP) -> None:
        self._step = step
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
        self._at = 0

    def wrote(self, descriptor: int, offset: int) -> None:
        """Follow, when the writer is a step ahead; the writer does not wait, and what fails is said when it settles.

        Args:
            descriptor: The file.
            offset: How far it has been written.
        """
        running = self._running
        if offset - self._at < self._step or (running is not None and (not running.done() or running.exception())):
            return
        try:
            # Its own descriptor: the writer may close its one meanwhile, and the number be another file's.
            mine = os.dup(descriptor)
        except OSError:  # there are too many open files: what is there stays to be done at the end
            return
        self._at = offset
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "kilter-log-behind")
        self._running = self._thread.submit(_sync, mine)

    def settle(self) -> None:
        """Wait for what is under way.

        Raises:
            OSError: When it failed. The system tells that once: who asks the file itself afterwards hears nothing of it.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def begin(self) -> None:
        """Follow the next file, from its beginning."""
        self._at = 0

    def close(self) -> None:
        """Wait for what is under way, whatever comes of it, and end."""
        with suppress(OSError):
            self.settle()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _sync(descriptor: int) -> None:
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
