"""Brings files that are written one after the other to the disk while they grow, and out of memory when they have ended.

The writer of a file that ends goes on in the next one at once. It waits only where a whole file is not on the disk yet: what a power
cut can take is bounded. And a log that is written fast takes no more memory from everything else than its newest
files: their pages are used again. (In a virtual machine whose host takes free memory back, that is also what makes writing fast: a
page that is new to the machine costs several microseconds.)
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from kilter.engines.streams.begin import sync_folder

T = TypeVar("T")

_STEP = 4 << 20
_KEPT = 2
"""How many files stay in memory after their end: whoever follows the log closely reads them there."""


class Behind:
    """Follows a writer at some distance.

    Args:
        step: How many bytes may be written before they are brought to the disk.
    """

    def __init__(self, step: int = _STEP) -> None:
        self._step = step
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
        self._ending: Future[None] | None = None
        self._at = 0
        self._ended: deque[Path] = deque()

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
        self._running = self._submit(_sync, mine)

    def settle(self) -> None:
        """Wait for what is under way.

        Raises:
            OSError: When it failed. The system tells that once: who asks the file itself afterwards hears nothing of it.
        """
        ending, self._ending = self._ending, None
        running, self._running = self._running, None
        for one in (ending, running):
            if one is not None:
                one.result()

    def end(self, descriptor: int, path: Path) -> None:
        """Bring a file that has ended to the disk, and its folder with the next one; the writer does not wait for it.

        It waits until the file that ended before is there.

        Args:
            descriptor: The file.
            path: Where it lies.

        Raises:
            OSError: When something failed that was under way; said once.
        """
        ending, self._ending = self._ending, None
        if ending is not None:
            ending.result()
        running, self._running = self._running, None
        if running is not None and running.done():
            running.result()
            running = None
        mine = os.dup(descriptor)
        self._ending = self._submit(_end, (mine, path.parent, running))

    def begin(self, ended: Path) -> None:
        """Follow the next file, from its beginning.

        Args:
            ended: The file before.
        """
        self._at = 0
        self._ended.append(ended)
        if len(self._ended) > _KEPT:
            self._submit(_forget, self._ended.popleft())

    def close(self) -> None:
        """Wait for what is under way, whatever comes of it, and end."""
        with suppress(OSError):
            self.settle()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _submit(self, do: Callable[[T], None], what: T) -> Future[None]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "kilter-log-behind")
        return self._thread.submit(do, what)


def _sync(descriptor: int) -> None:
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _end(what: tuple[int, Path, Future[None] | None]) -> None:
    descriptor, folder, running = what
    try:
        if running is not None:  # it came before this one, to the same thread: it is done
            running.result()
        os.fdatasync(descriptor)
        sync_folder(folder)
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    """Have a file's pages leave memory."""
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    with suppress(OSError):  # it was removed meanwhile
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
