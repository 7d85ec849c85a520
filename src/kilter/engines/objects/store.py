"""Content-addressed objects through obstore, in a folder or in S3."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from kilter.core.digests import digest, short
from kilter.core.errors import Damaged, InvalidInput, NotFound, Unavailable
from kilter.engines.location import Folder, locate, s3_store

_COMPARED = 64 << 10
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_Engine: TypeAlias = LocalStore | S3Store


class ObjectStore:
    """Bytes under the BLAKE3 digest of their content.

    Open one with :meth:`open`; it is safe to use from several threads and processes at once.

    Args:
        url: What to call the store in messages.
        engine: The store of obstore that holds the bytes.
        folder: The folder to sync, when the engine is one.
    """

    def __init__(self, url: str, engine: _Engine, folder: Path | None) -> None:
        self.url = url
        self._engine = engine
        self._folder = folder

    @classmethod
    def open(cls, url: str) -> ObjectStore:
        """Open the store at a folder, a ``file:`` URL or ``s3://bucket/prefix?endpoint=URL&region=NAME``.

        Args:
            url: Where the bytes lie. Credentials for S3 come from the environment.

        Raises:
            InvalidInput: When the URL names no store.
            Unavailable: When the folder can't be made.
        """
        place = locate(url)
        if isinstance(place, Folder):
            try:
                place.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _unavailable(error, str(place.path)) from error
            return cls(url, LocalStore(place.path), place.path)
        return cls(url, s3_store(place), None)

    def put(self, data: bytes | bytearray | memoryview) -> str:
        """Keep bytes and return their digest; keeping the same bytes again costs one look-up.

        Small ones that are there already are read and compared, which costs no more and heals damage.

        Raises:
            Unavailable: When the store is full, read-only or unreachable; nothing is half-written.
        """
        name = digest(data)
        path = _path(name)
        try:
            if not self._has_same(path, data):
                obstore.put(self._engine, path, bytes(data))
                self._sync(path)
        except (BaseError, OSError) as error:
            raise _unavailable(error, self.url) from error
        return name

    def put_file(self, file: Path, name: str, size: int) -> None:
        """Keep a file's bytes, which are read in pieces.

        Args:
            file: The file.
            name: Its digest, which the caller took while writing it.
            size: Its length in bytes.

        Raises:
            Unavailable: When the store is full, read-only or unreachable; nothing is half-written.
        """
        path = _path(name)
        try:
            if self._size(path) != size:
                obstore.put(self._engine, path, file)
                self._sync(path)
        except (BaseError, OSError) as error:
            raise _unavailable(error, self.url) from error

    def get(self, name: str) -> bytes:
        """Return the bytes of a digest.

        Raises:
            NotFound: When the store has no such object.
            Damaged: When the stored bytes have another digest.
            Unavailable: When the store can't be reached.
        """
        path = _path(name)
        try:
            data = bytes(obstore.get(self._engine, path).bytes())
        except FileNotFoundError as error:
            raise NotFound(f"there is no object {short(name)}", where=self.url) from error
        except (BaseError, OSError) as error:
            raise _unavailable(error, self.url) from error
        if digest(data) != name:
            raise Damaged(
                f"object {short(name)} holds other bytes than its digest says",
                where=f"{self.url}/{path}",
                fix="delete the object, and put the same content again; a small one is replaced by the put alone",
            )
        return data

    def has(self, name: str) -> bool:
        """Return whether the store has an object of that digest; its bytes are not read."""
        try:
            return self._size(_path(name)) is not None
        except (BaseError, OSError) as error:
            raise _unavailable(error, self.url) from error

    def delete(self, name: str) -> None:
        """Remove an object; removing one that is not there is no error."""
        try:
            obstore.delete(self._engine, _path(name))
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _unavailable(error, self.url) from error

    def digests(self) -> Iterator[str]:
        """Yield the digest of every object, in no particular order."""
        try:
            for batch in obstore.list(self._engine):
                for entry in batch:
                    name = str(entry["path"]).replace("/", "")
                    if _DIGEST.match(name):
                        yield name
        except (BaseError, OSError) as error:
            raise _unavailable(error, self.url) from error

    def _has_same(self, path: str, data: bytes | bytearray | memoryview) -> bool:
        if len(data) > _COMPARED:
            return self._size(path) == len(data)
        try:
            return bytes(obstore.get(self._engine, path).bytes()) == bytes(data)
        except FileNotFoundError:
            return False

    def _size(self, path: str) -> int | None:
        try:
            return int(obstore.head(self._engine, path)["size"])
        except FileNotFoundError:
            return None

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


def _path(name: str) -> str:
    if not _DIGEST.match(name):
        raise InvalidInput(f"{name[:80]!r} is not a digest", where="objects", allowed="64 hexadecimal characters")
    return f"{name[:2]}/{name[2:]}"


def _unavailable(error: BaseException, where: str) -> Unavailable:
    text = str(error).split("\n", 1)[0]
    if "No space left" in text:
        return Unavailable("the disk is full", where=where, fix="free some space; what was kept before is whole")
    if "Read-only file system" in text or "Permission denied" in text:
        return Unavailable("the folder can't be written", where=where, fix="give this user the right to write there")
    return Unavailable(f"the object store does not answer: {text}", where=where, fix="check the URL and the network")
