"""Bringing a buffer to its store: in order, with keys, again and again until the store is there."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from kilter.core.errors import Damaged, Forbidden, KilterError, Unauthorized, Unavailable
from kilter.tracking.liveness import LEASE_SECONDS
from kilter.tracking.sdk.buffer import LOCK, SENT, Buffer, read_sent
from kilter.tracking.sdk.places import connect
from kilter.tracking.sdk.records import Finish, Record, Start, decoded
from kilter.tracking.sdk.shelf import Kept, Shelf
from kilter.tracking.sdk.shipping import Shipping

REFUSED = "refused.jsonl"
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
_NOTED_EVERY = 1.0
_TOLD_EVERY = 3.0
_WORKING = 30.0
"""Seconds that one call to a store may take, as long as none has failed: a slow machine is no store that is away."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A record that the store did not want, kept beside the buffers.

    Args:
        run: The run.
        kind: What kind of record it is.
        said: What the store said.
        record: What was sent, without bytes.
    """

    run: str
    kind: str
    said: str
    record: str


class Shipper:
    """Sends the records of one buffer, and remembers how far it has come.

    Args:
        folder: The buffer.
        start: Which run it is of.
        shelf: Its records.
        complain: Told of records that the store refused.
    """

    def __init__(self, folder: Path, start: Start, shelf: Shelf, complain: Callable[[Exception], None]) -> None:
        self._folder = folder
        self._start = start
        self._shelf = shelf
        self._complain = complain
        self._shipping: Shipping | None = None
        self._close: Callable[[], None] = _nothing
        self._sent = read_sent(folder)
        self._noted = self._sent
        self._noted_at = time.monotonic()
        self.finished = False
        self.count = 0

    @property
    def sent(self) -> int:
        """The position of the last record of the log that was sent."""
        return self._sent

    def ship(self, told: Callable[[int], None] | None = None) -> int:
        """Send what is there and return how many records that were.

        Args:
            told: Called after each, with 1.

        Raises:
            Unavailable: When the store can't be reached: what was sent is remembered.
            KilterError: When the store does not want the run at all.
        """
        begun = self.count
        try:
            shipping = self._ready()
            for kept in self._shelf.read(self._sent):
                self._one(shipping, kept)
                self.count += 1
                if told is not None:
                    told(1)
                if time.monotonic() - self._noted_at >= _NOTED_EVERY:
                    self._note()
        finally:
            self._note()
        return self.count - begun

    def heartbeat(self) -> None:
        """Say that the run is alive."""
        self._ready().alive()

    def close(self) -> None:
        """Let go of the store."""
        with suppress(Exception):
            self._close()
        self._shipping = None

    def _ready(self) -> Shipping:
        if self._shipping is None:
            service, close = connect(self._start.store)
            shipping = Shipping(service, self._start, self._folder)
            try:
                if not (self._start.resumed and self._sent >= 0):
                    shipping.begin()
            except BaseException:
                close()
                raise
            self._shipping, self._close = shipping, close
        return self._shipping

    def _one(self, shipping: Shipping, kept: Kept) -> None:
        record: Record | None = None
        try:
            record = decoded(kept.data)
            shipping.tell(record, kept.key)
        except KilterError as error:
            if waits(error):
                raise
            self._refused(record, error)
        if record is not None:
            shipping.told(record)
            self.finished = self.finished or isinstance(record, Finish)
        self._shelf.sent(kept)
        if kept.position >= 0:
            self._sent = kept.position

    def _refused(self, record: Record | None, error: KilterError) -> None:
        self._complain(error)
        kind = type(record).__name__.lower()
        shown = "" if record is None else repr(record)[:2000]
        refusal = Refusal(run=self._start.run, kind=kind, said=str(error), record=shown)
        with suppress(OSError), (self._folder.parent / REFUSED).open("ab") as file:
            file.write(msgspec.json.encode(refusal) + b"\n")

    def _note(self) -> None:
        if self._sent == self._noted:
            return
        aside = self._folder / f".{SENT}.{os.getpid()}"
        with suppress(OSError):  # without the note they are sent again, which changes nothing
            aside.write_bytes(str(self._sent).encode())
            aside.replace(self._folder / SENT)
            self._shelf.free(self._sent)
        self._noted, self._noted_at = self._sent, time.monotonic()


class Sender:
    """Sends a live buffer from a thread of its own.

    Args:
        buffer: The buffer.
        complain: Told once of each kind of trouble.
    """

    def __init__(self, buffer: Buffer, complain: Callable[[Exception], None]) -> None:
        self._buffer = buffer
        self._complain = complain
        self._shipper = Shipper(buffer.folder, buffer.start, buffer.shelf, complain)
        self._ending = threading.Event()
        self._given_up = threading.Event()
        self._progress = time.monotonic()
        self._idle = threading.Condition()
        self._round = 0
        self._done = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="kilter-sender", daemon=True)
        self._thread.start()

    def settle(self, patience: float) -> bool:
        """Wait until everything that is in the buffer was sent.

        Args:
            patience: For how many seconds without any progress.

        Returns:
            Whether it was.
        """
        wanted = self._round + 2  # the round that goes on may have begun before the last record came
        self._progress = time.monotonic()
        self._buffer.news.set()
        with self._idle:
            while self._round < wanted and self._thread.is_alive():
                self._idle.wait(0.05)
                self._buffer.news.set()
                if self._stuck(patience):
                    return False
        return self._round >= wanted

    def close(self, patience: float, told: Callable[[int], object] | None = None) -> bool:
        """Send the rest and end.

        Args:
            patience: For how many seconds without any progress.
            told: Called every few seconds with how many records were sent, when it takes that long.

        Returns:
            Whether everything was sent.
        """
        self._progress = time.monotonic()
        self._ending.set()
        self._buffer.news.set()
        due = time.monotonic() + _TOLD_EVERY
        while self._thread.is_alive() and not self._stuck(patience):
            self._thread.join(0.02)
            if told is not None and time.monotonic() > due:
                told(self._shipper.count)
                due = time.monotonic() + _TOLD_EVERY
        self._given_up.set()
        self._buffer.news.set()
        self._thread.join(2.0)  # it may hang in a call: then it is left alone, and dies with the process
        return not self._thread.is_alive() and self._done

    def _stuck(self, patience: float) -> bool:
        limit = patience if self._failing else max(patience, _WORKING)
        return time.monotonic() - self._progress > limit

    def _run(self) -> None:
        lock = take(self._buffer.folder)
        pause = _FIRST_PAUSE
        beat = time.monotonic()
        try:
            while not self._given_up.is_set():
                ending = self._ending.is_set()
                self._buffer.news.clear()
                try:
                    if self._shipper.ship(self._advanced):
                        beat = time.monotonic()
                    elif time.monotonic() - beat > LEASE_SECONDS / 4:
                        self._shipper.heartbeat()
                        beat = time.monotonic()
                except Exception as error:  # noqa: BLE001 - the training goes on, whatever happens here
                    self._complain(error)
                    self._failing = True
                    self._pause(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    continue
                pause, self._failing = _FIRST_PAUSE, False
                self._progress = time.monotonic()
                with self._idle:
                    self._round += 1
                    self._idle.notify_all()
                if ending:
                    self._done = True
                    return
                self._buffer.news.wait(LEASE_SECONDS / 8)
        finally:
            self._shipper.close()
            if lock is not None:
                os.close(lock)

    def _advanced(self, _records: int) -> None:
        self._failing = False
        self._progress = time.monotonic()

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._given_up.is_set() and time.monotonic() < deadline:
            if self._ending.is_set():
                deadline = min(deadline, time.monotonic() + 0.3)
            self._given_up.wait(0.05)


def waits(error: Exception) -> bool:
    """Say whether a record stays in the buffer after an error, because it may be taken later."""
    if not isinstance(error, KilterError):
        return True
    if isinstance(error, Damaged):
        return False
    kinds = (Unavailable, Unauthorized, Forbidden)
    return error.retryable or isinstance(error, kinds) or error.where == "Idempotency-Key" or error.status >= 500


def take(folder: Path) -> int | None:
    """Become the only one that sends a buffer, and return the descriptor that holds it; None when that can't be."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _nothing() -> None:
    """Close nothing, because nothing was opened."""
