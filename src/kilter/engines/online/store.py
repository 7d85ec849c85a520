"""Keys and values in LMDB: readers in any number of processes, one writer at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb

from kilter.core.errors import Conflict, Damaged, InvalidInput, KilterError, Unavailable

_FIRST_MAP = 1 << 30
_MAX_KEY = 511
_READERS = 512

# LMDB allows one environment per file and process: all stores of one path share it, and the last one closes it.
_shared: dict[str, tuple[lmdb.Environment, int]] = {}
_sharing = threading.Lock()


class OnlineStore:
    """A map from bytes to bytes in memory-mapped files.

    Open one with :meth:`open`. A reader neither waits for the writer nor makes it wait; it sees the last put that
    was whole when its ``get`` began.

    Args:
        path: The folder, resolved.
        environment: LMDB's handle.
        readonly: Whether writes are refused.
    """

    def __init__(self, path: str, environment: lmdb.Environment, *, readonly: bool) -> None:
        self._path = path
        self._environment = environment
        self._readonly = readonly
        self._open = True

    @classmethod
    def open(cls, path: str | os.PathLike[str], readonly: bool = False, map_bytes: int = _FIRST_MAP) -> OnlineStore:
        """Open the store in a folder, and make it if it is not there.

        Args:
            path: The folder.
            readonly: Refuse writes through this handle.
            map_bytes: How much to map at first; the map doubles by itself when it is full.

        Raises:
            Unavailable: When the folder can't be made or written.
            Damaged: When the folder holds something else.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = str(folder.resolve())
            with _sharing:
                if name in _shared:
                    environment, users = _shared[name]
                else:
                    # Without syncing the meta page a power cut may undo the last put, but never breaks the files.
                    environment, users = (
                        lmdb.open(name, map_size=map_bytes, max_readers=_READERS, metasync=False, max_spare_txns=8),
                        0,
                    )
                _shared[name] = (environment, users + 1)
        except (lmdb.Error, OSError) as error:
            raise _translated(error, str(folder)) from error
        return cls(name, environment, readonly=readonly)

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

    def put(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Set keys to values, all or none; a later pair of the same key wins.

        Args:
            items: Pairs of a key of 1 to 511 bytes and a value of at most 2 GiB.

        Raises:
            Unavailable: When the disk is full; nothing is then changed.
            Conflict: When the store was opened for reading.
        """
        self._check_writable()
        for key, _ in items:
            _check(key)
        self._write([(key, value) for key, value in items])

    def delete(self, keys: Sequence[bytes]) -> None:
        """Remove keys, all or none; removing one that is not there is no error."""
        self._check_writable()
        self._write([(key, None) for key in keys])

    def close(self) -> None:
        """Close the store; closing it twice is no error."""
        if not self._open:
            return
        self._open = False
        with _sharing:
            environment, users = _shared[self._path]
            if users > 1:
                _shared[self._path] = (environment, users - 1)
            else:
                del _shared[self._path]
                environment.close()

    def _write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        while True:
            try:
                with self._transaction(write=True) as transaction:
                    for key, value in changes:
                        if value is None:
                            transaction.delete(key)
                        else:
                            transaction.put(key, value)
                    return
            except lmdb.MapFullError:
                self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
            except lmdb.Error as error:
                raise _translated(error, self._path) from error

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[lmdb.Transaction]:
        if not self._open:
            raise Conflict("the online store is closed", where=self._path)
        try:
            transaction = self._environment.begin(write=write)
        except lmdb.MapResizedError:
            # Another process has grown the map; zero means: as large as the file says.
            self._environment.set_mapsize(0)
            transaction = self._environment.begin(write=write)
        with transaction:
            yield transaction

    def _check_writable(self) -> None:
        if self._readonly:
            raise Conflict("this handle was opened for reading only", where=self._path)


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
