"""Named bytes in a folder or in S3 through obstore: what the object store is built of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from kilter.core.errors import Unavailable

Engine: TypeAlias = LocalStore | S3Store
_AT_ONCE = 2


class Entry(NamedTuple):
    """One name in a list."""

    path: str
    size: int
    changed: datetime


class Shelf:
    """Bytes by path; what is written is whole and on the disk, or not there.

    Args:
        url: What to call the store in messages.
        engine: The store of obstore that holds the bytes.
        folder: The folder to sync, when the engine is one.
    """

    def __init__(self, url: str, engine: Engine, folder: Path | None) -> None:
        self.url = url
        self._engine = engine
        self._folder = folder

    def put(self, path: str, data: bytes | Path) -> None:
        """Write bytes, or a file that is read in pieces.

        Raises:
            Unavailable: When the store is full, read-only or unreachable; nothing is half-written.
        """
        try:
            obstore.put(self._engine, path, data, max_concurrency=_AT_ONCE)
            self._sync(path)
        except (BaseError, OSError) as error:
            raise unavailable(error, self.url) from error

    async def put_stream(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        """Write bytes as they come; when their source fails, nothing is there.

        Raises:
            Unavailable: When the store is full, read-only or unreachable.
        """
        try:
            await obstore.put_async(self._engine, path, pieces, max_concurrency=_AT_ONCE)
            self._sync(path)
        except (BaseError, OSError) as error:
            raise unavailable(error, self.url) from error

    def get(self, path: str) -> bytes | None:
        """Return the bytes of a path, or None when there is nothing."""
        try:
            return bytes(obstore.get(self._engine, path).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise unavailable(error, self.url) from error

    def get_range(self, path: str, start: int, end: int) -> bytes:
        """Return some of the bytes of a path."""
        if start >= end:
            return b""
        try:
            return bytes(obstore.get_range(self._engine, path, start=start, end=end))
        except (BaseError, OSError) as error:
            raise unavailable(error, self.url) from error

    def head(self, path: str) -> Entry | None:
        """Return the size and the time of a path, or None when there is nothing."""
        try:
            found = obstore.head(self._engine, path)
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise unavailable(error, self.url) from error
        return Entry(path, int(found["size"]), found["last_modified"])

    def renew(self, path: str, data: bytes) -> None:
        """Make a path as young as if it had been written now."""
        if self._folder is None:
            self.put(path, data)
            return
        try:
            os.utime(self._folder / path)
        except FileNotFoundError:
            self.put(path, data)
        except OSError as error:
            raise unavailable(error, self.url) from error

    def delete(self, path: str) -> None:
        """Remove a path; removing one that is not there is no error."""
        try:
            obstore.delete(self._engine, path)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise unavailable(error, self.url) from error

    def tidy(self, path: str) -> None:
        """Remove an empty folder, where folders are something of their own."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / path).rmdir()

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield all paths below a folder, in no particular order."""
        try:
            for batch in obstore.list(self._engine, prefix or None):
                for found in batch:
                    yield Entry(str(found["path"]), int(found["size"]), found["last_modified"])
        except (BaseError, OSError) as error:
            raise unavailable(error, self.url) from error

    def _sync(self, path: str) -> None:
        """Bring a new file and its name to the disk: obstore renames it into place, but syncs neither."""
        if self._folder is None:
            return
        file = self._folder / path
        for target in (file, file.parent):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def age(entry: Entry) -> float:
    """Return for how many seconds an entry has been as it is."""
    return (datetime.now(UTC) - entry.changed).total_seconds()


def unavailable(error: BaseException, where: str) -> Unavailable:
    """Return what is said of a store that can't do what it was asked."""
    text = str(error).split("\n", 1)[0]
    if "No space left" in text:
        return Unavailable("the disk is full", where=where, fix="free some space; what was kept before is whole")
    if "Read-only file system" in text or "Permission denied" in text:
        return Unavailable("the folder can't be written", where=where, fix="give this user the right to write there")
    return Unavailable(f"the object store does not answer: {text}", where=where, fix="check the URL and the network")
