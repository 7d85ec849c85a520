"""Keys and values in LMDB: readers in any number of processes, one writer at a time.

A put survives the death of any process, and does not wait for the disk. What a power cut may have broken is thrown
away when the store is next opened: all that is kept here is made from the tables, and is filled again from them.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb

from kilter.core.errors import Conflict, Damaged, InvalidInput, KilterError, Unavailable

_FIRST_MAP = 16 << 30
_MAX_KEY = 511
_READERS = 512


class _Shared:
    """LMDB's environment of one path: a process may have only one, so all stores of the path share it.

    The map may only grow while no transaction is open in this process; ``active`` counts them.
    """

    def __init__(self, environment: lmdb.Environment) -> None:
        self.environment = environment
        self.users = 0
        self._active = 0
        self._growing = 0
        self._guard = threading.Condition()

    def begin(self, *, write: bool) -> lmdb.Transaction:
        """Open a transaction; whoever uses it calls :meth:`end` afterwards."""
        with self._guard:
            # Who wants to grow the map goes first, or readers that overlap would keep it waiting for ever.
            if self._growing:
                self._guard.wait_for(lambda: not self._growing)
            self._active += 1
        try:
            return self.environment.begin(write=write)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Count a transaction as over."""
        with self._guard:
            self._active -= 1
            if self._growing and not self._active:
                self._guard.notify_all()

    def grow(self, seen: int) -> None:
        """Double the map of ``seen`` bytes, or with 0 take over its size from the file."""
        with self._guard:
            self._growing += 1
            try:
                self._guard.wait_for(lambda: not self._active)
                if not seen:
                    self.environment.set_mapsize(0)
                elif self.size() == seen:
                    self.environment.set_mapsize(2 * seen)
            finally:
                self._growing -= 1
                self._guard.notify_all()

    def size(self) -> int:
        """Return how many bytes are mapped."""
        return int(self.environment.info()["map_size"])


_shared: dict[str, _Shared] = {}
_sharing = threading.Lock()


class OnlineStore:
    """A map from bytes to bytes in memory-mapped files.

    Open one with :meth:`open`. A reader neither waits for the writer nor makes it wait; it sees the last put that
    was whole when its ``get`` began.

    Args:
        path: The folder, resolved.
        shared: LMDB's environment.
        readonly: Whether writes are refused.
    """

    def __init__(self, path: str, shared: _Shared, *, readonly: bool) -> None:
        self._path = path
        self._shared = shared
        self._readonly = readonly
        self._open = True

    @classmethod
    def open(cls, path: str | os.PathLike[str], readonly: bool = False, map_bytes: int = _FIRST_MAP) -> OnlineStore:
        """Open the store in a folder, and make it if it is not there.

        Args:
            path: The folder.
            readonly: Refuse writes through this handle.
            map_bytes: How much address space to map at first; the map doubles by itself when it is full.

        Raises:
            Unavailable: When the folder can't be made or written.
            Damaged: When the folder holds something else.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = str(folder.resolve())
            with _sharing:
                shared = _shared.get(name)
                if shared is None:
                    _drop_after_reboot(folder)
                    environment = lmdb.open(name, map_size=map_bytes, max_readers=_READERS, sync=False, metasync=False)
                    # Readers that were killed would hold on to old pages, and to their places in the table, for ever.
                    environment.reader_check()
                    shared = _shared[name] = _Shared(environment)
                shared.users += 1
        except (lmdb.Error, OSError) as error:
            raise _translated(error, str(folder)) from error
        return cls(name, shared, readonly=readonly)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, or ``None`` where there is none; all from one moment.

        Args:
            keys: 1 to 511 bytes each.
        """
        try:
            with self._transaction(write=False) as transaction:
                values: list[bytes | None] = [transaction.get(key) for key in keys]  # type: ignore[misc]
                return values
        except lmdb.Error as error:
            raise _translated(error, self._path) from error

    def put(self, items: Sequence[tuple[bytes, bytes]], *, without: Sequence[bytes] = ()) -> None:
        """Set keys to values and remove others, all or none; a later pair of the same key wins.

        Args:
            items: Pairs of a key of 1 to 511 bytes and a value of at most 2 GiB.
            without: Keys to remove; one that is not there is no error.

        Raises:
            Unavailable: When the disk is full; nothing is then changed.
            Conflict: When the store was opened for reading.
        """
        self._check_writable()
        for key, _ in items:
            _check(key)
        self._write([*items, *((key, None) for key in without)])

    def close(self) -> None:
        """Close the store; closing it twice is no error."""
        if not self._open:
            return
        self._open = False
        with _sharing:
            self._shared.users -= 1
            if not self._shared.users:
                del _shared[self._path]
                self._shared.environment.close()

    def _write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        while True:
            seen = self._shared.size()
            try:
                with self._transaction(write=True) as transaction:
                    for key, value in changes:
                        if value is None:
                            transaction.delete(key)
                        else:
                            transaction.put(key, value)
                    return
            except lmdb.MapFullError:
                self._shared.grow(seen)
            except lmdb.Error as error:
                raise _translated(error, self._path) from error

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[lmdb.Transaction]:
        if not self._open:
            raise Conflict("the online store is closed", where=self._path)
        try:
            transaction = self._shared.begin(write=write)
        except lmdb.MapResizedError:
            self._shared.grow(0)  # another process has grown the map
            transaction = self._shared.begin(write=write)
        try:
            with transaction:
                yield transaction
        finally:
            self._shared.end()

    def _check_writable(self) -> None:
        if self._readonly:
            raise Conflict("this handle was opened for reading only", where=self._path)


def _drop_after_reboot(folder: Path) -> None:
    """Throw away what was written before the machine started last: without waiting for the disk it may be torn."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return  # elsewhere LMDB's own check on opening has to do
    with (folder / "boot").open("a+", encoding="ascii") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        mark.seek(0)
        written = mark.read()
        if written == boot:
            return
        if written:
            for name in ("data.mdb", "lock.mdb"):
                (folder / name).unlink(missing_ok=True)
        mark.truncate(0)
        mark.write(boot)


def _check(key: bytes) -> None:
    if not 1 <= len(key) <= _MAX_KEY:
        raise InvalidInput(f"a key of {len(key)} bytes", where="online store", allowed=f"1 to {_MAX_KEY} bytes")


def _translated(error: Exception, where: str) -> KilterError:
    text = str(error)
    if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.VersionMismatchError):
        return Damaged(
            f"the files are no online store: {text}", where=where, fix="move them away; features can be filled again"
        )
    if isinstance(error, lmdb.DiskError) or "No space left" in text:
        return Unavailable("the disk is full", where=where, fix="free some space; what was put before is whole")
    if "Permission denied" in text or "Read-only" in text:
        return Unavailable("the folder can't be written", where=where, fix="give this user the right to write there")
    return Unavailable(f"the online store failed: {text}", where=where)
