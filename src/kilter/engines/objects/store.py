"""Content-addressed objects in a folder or in S3; large ones in pieces that they share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from blake3 import blake3
from obstore.store import LocalStore

from kilter.core.digests import digest, short
from kilter.core.errors import Damaged, InvalidInput, NotFound
from kilter.engines.location import Folder, locate, s3_store
from kilter.engines.objects.cutting import MOST, WHOLE, Cutter
from kilter.engines.objects.shelf import Engine, Shelf, age, unavailable
from kilter.engines.objects.staging import Staging

_COMPARED = 64 << 10
_READ = 1 << 20
_YOUNG = 3600.0
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_PIECES = "pieces"
_RECIPES = "recipes"


class Recipe(msgspec.Struct, frozen=True, array_like=True):
    """What a large object is made of: its pieces in order, each a digest and a size."""

    size: int
    pieces: tuple[tuple[str, int], ...]


class ObjectStore:
    """Bytes under the BLAKE3 digest of their content.

    Open one with :meth:`open`; it is safe to use from several threads and processes at once. What is written through :meth:`writer` and
    is larger than 8 MiB lies in pieces, so that two versions of a file share what they have in common.

    Args:
        url: What to call the store in messages.
        engine: The store of obstore that holds the bytes.
        folder: The folder to sync, when the engine is one.
    """

    def __init__(self, url: str, engine: Engine, folder: Path | None) -> None:
        self.url = url
        self._shelf = Shelf(url, engine, folder)
        self.staging = Staging(self._shelf)

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
                raise unavailable(error, str(place.path)) from error
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
        if not self._has_same(path, data):
            self._shelf.put(path, bytes(data))
        return name

    def writer(self) -> Writer:
        """Return what keeps bytes that come bit by bit; memory holds a piece of them only."""
        return Writer(self)

    def get(self, name: str) -> bytes:
        """Return the bytes of a digest.

        Raises:
            NotFound: When the store has no such object.
            Damaged: When the stored bytes have another digest.
            Unavailable: When the store can't be reached.
        """
        data = self._shelf.get(_path(name))
        if data is None:
            return b"".join(self._joined(name, self._recipe(name), 0, None))
        return self._checked(name, _path(name), data)

    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a digest from a place to another, checked; memory holds a piece of them only.

        Raises:
            NotFound: When the store has no such object.
            Damaged: When the stored bytes have another digest.
        """
        size = self._size(_path(name))
        if size is None:
            yield from self._joined(name, self._recipe(name), start, end)
        elif size <= WHOLE:
            yield from _some(self.get(name), start, end)
        else:  # as earlier versions kept large ones: in one piece, which is known to be right only at its end
            yield from self._whole(name, size, start, size if end is None else min(end, size))

    def size(self, name: str) -> int | None:
        """Return how long an object is, or None when there is none."""
        size = self._size(_path(name))
        if size is None and (data := self._shelf.get(_path(name, _RECIPES))) is not None:
            return msgspec.json.decode(data, type=Recipe).size
        return size

    def has(self, name: str) -> bool:
        """Return whether the store has an object of that digest; its bytes are not read."""
        return self._size(_path(name)) is not None or self._size(_path(name, _RECIPES)) is not None

    def delete(self, name: str) -> None:
        """Remove an object; removing one that is not there is no error. Pieces go with the next :meth:`sweep`."""
        self._shelf.delete(_path(name))
        self._shelf.delete(_path(name, _RECIPES))

    def digests(self) -> Iterator[str]:
        """Yield the digest of every object, in no particular order."""
        for entry in self._shelf.list():
            name = entry.path.removeprefix(f"{_RECIPES}/").replace("/", "")
            if _DIGEST.match(name):
                yield name

    # ------------------------------------------------------------ pieces

    def missing(self, pieces: Sequence[str]) -> tuple[str, ...]:
        """Return which pieces of large objects are not there."""
        return tuple(name for name in dict.fromkeys(pieces) if self._size(_path(name, _PIECES)) is None)

    def put_piece(self, data: bytes) -> str:
        """Keep a piece of a large object and return its digest; one that is there already is as good as new.

        Raises:
            InvalidInput: When it is larger than a piece can be.
            Unavailable: When the store is full, read-only or unreachable; nothing is half-written.
        """
        if len(data) > MOST:
            raise InvalidInput(f"a piece of {len(data):,} bytes", where="piece", allowed=f"up to {MOST:,} bytes")
        name = digest(data)
        path = _path(name, _PIECES)
        there = self._shelf.head(path)
        if there is None or there.size != len(data):
            self._shelf.put(path, data)
        elif age(there) > _YOUNG:  # a sweep takes old pieces that nothing refers to, and nothing refers to this one yet
            self._shelf.renew(path, data)
        return name

    def assemble(self, pieces: Sequence[str], name: str) -> int:
        """Make an object of pieces that are there, and return its size; they are read, and have to give the digest.

        Raises:
            NotFound: When a piece isn't there.
            InvalidInput: When the whole has another digest.
        """
        hashing, sizes, held = blake3(), [], bytearray()
        for piece in pieces:
            path = _path(piece, _PIECES)
            data = self._shelf.get(path)
            if data is None:
                raise NotFound(f"there is no piece {short(piece)}", where="pieces", fix="send it first")
            hashing.update(self._checked(piece, path, data))
            self._shelf.renew(path, data)
            sizes.append(len(data))
            if sum(sizes) <= WHOLE:
                held += data
        if hashing.hexdigest() != name:
            raise InvalidInput(
                "the pieces give another digest", where="digest", fix="the file changed meanwhile: send it again"
            )
        if sum(sizes) <= WHOLE:  # however it came, a small one is kept as small ones are; its pieces go with a sweep
            self.put(held)
        else:
            self._keep_recipe(name, tuple(zip(pieces, sizes, strict=True)))
        return sum(sizes)

    def sweep(self, seconds: float) -> int:
        """Remove pieces that nothing refers to, and parts of uploads that nobody went on with, and return how many bytes that were.

        Args:
            seconds: Only what is older; an upload has to be done within this time.
        """
        freed = self.staging.sweep(seconds)
        used = {
            piece
            for entry in list(self._shelf.list(_RECIPES))
            if (data := self._shelf.get(entry.path)) is not None
            for piece, _ in msgspec.json.decode(data, type=Recipe).pieces
        }
        for entry in list(self._shelf.list(_PIECES)):
            if age(entry) > seconds and entry.path.removeprefix(f"{_PIECES}/").replace("/", "") not in used:
                self._shelf.delete(entry.path)
                freed += entry.size
        return freed

    # ------------------------------------------------------------ within

    def _keep_recipe(self, name: str, pieces: tuple[tuple[str, int], ...]) -> None:
        recipe = Recipe(size=sum(size for _, size in pieces), pieces=pieces)
        self._shelf.put(_path(name, _RECIPES), msgspec.json.encode(recipe))

    def _recipe(self, name: str) -> Recipe:
        data = self._shelf.get(_path(name, _RECIPES))
        if data is None:
            raise NotFound(f"there is no object {short(name)}", where=self.url)
        return msgspec.json.decode(data, type=Recipe)

    def _joined(self, name: str, recipe: Recipe, start: int, end: int | None) -> Iterator[bytes]:
        place, last = 0, recipe.size if end is None else min(end, recipe.size)
        for piece, size in recipe.pieces:
            if place < last and place + size > start:
                path = _path(piece, _PIECES)
                data = self._shelf.get(path)
                if data is None:
                    raise Damaged(f"object {short(name)} has lost a piece", where=f"{self.url}/{path}")
                yield from _some(self._checked(piece, path, data), max(start - place, 0), min(last - place, size))
            place += size

    def _whole(self, name: str, size: int, start: int, end: int) -> Iterator[bytes]:
        path, hashing, place = _path(name), blake3(), start
        while place < end:
            piece = self._shelf.get_range(path, place, min(place + MOST, end))
            place += len(piece)
            hashing.update(piece)
            if (start, place) == (0, size) and hashing.hexdigest() != name:
                raise self._damaged(name, path)
            yield piece

    def _checked(self, name: str, path: str, data: bytes) -> bytes:
        if digest(data) != name:
            raise self._damaged(name, path)
        return data

    def _damaged(self, name: str, path: str) -> Damaged:
        return Damaged(
            f"object {short(name)} holds other bytes than its digest says",
            where=f"{self.url}/{path}",
            fix="delete the object, and put the same content again; a small one is replaced by the put alone",
        )

    def _has_same(self, path: str, data: bytes | bytearray | memoryview) -> bool:
        if len(data) > _COMPARED:
            return self._size(path) == len(data)
        return self._shelf.get(path) == bytes(data)

    def _size(self, path: str) -> int | None:
        found = self._shelf.head(path)
        return None if found is None else found.size


class Writer:
    """Keeps bytes that come bit by bit: small ones in one object, large ones in pieces.

    Args:
        store: Where.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._hashing = blake3()
        self._start = bytearray()
        self._cutter: Cutter | None = None
        self._pieces: list[tuple[str, int]] = []
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes.

        Raises:
            Unavailable: When the store is full, read-only or unreachable.
        """
        self.size += len(data)
        self._hashing.update(data)
        if self._cutter is None:
            self._start += data
            if self.size <= WHOLE:
                return
            self._cutter, data = Cutter(), self._start
            self._start = bytearray()
        self._put(self._cutter.feed(data))

    def finish(self, expected: str = "") -> str:
        """Make the object, and return its digest.

        Args:
            expected: The digest that it has to have.

        Raises:
            InvalidInput: When it has another digest.
            Unavailable: When the store is full, read-only or unreachable; nothing is half-written.
        """
        name = self._hashing.hexdigest()
        if expected and name != expected:
            raise InvalidInput(
                "the bytes have another digest", where="digest", fix="the file changed meanwhile: send it again"
            )
        if self._cutter is None:
            return self._store.put(self._start)
        self._put(self._cutter.end())
        if not self._store.has(name):
            self._store._keep_recipe(name, tuple(self._pieces))  # noqa: SLF001 - the other half of the same store
        return name

    def _put(self, pieces: Iterator[bytes]) -> None:
        self._pieces += [(self._store.put_piece(piece), len(piece)) for piece in pieces]


def _some(data: bytes, start: int, end: int | None) -> Iterator[bytes]:
    part = data[start:end] if start or end is not None else data
    if part:
        yield part


def _path(name: str, folder: str = "") -> str:
    if not _DIGEST.match(name):
        raise InvalidInput(f"{name[:80]!r} is not a digest", where="objects", allowed="64 hexadecimal characters")
    return f"{folder}/{name[:2]}/{name[2:]}".lstrip("/")
