"""Parts of uploads that are not whole yet: nobody sees them, and what nobody goes on with is swept away."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.objects.shelf import Shelf, age

MOST_PARTS = 10_000
_FOLDER = "staging"
_READ = 1 << 20
_ID = re.compile(r"^[0-9a-f]{32}$")


class Staging:
    """Numbered parts of uploads.

    Args:
        shelf: Where they lie.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def begin(self, upload: str, about: bytes) -> None:
        """Note what an upload is about, before its first part comes."""
        self._shelf.put(_path(upload, "about"), about)

    def about(self, upload: str) -> bytes:
        """Return what was noted.

        Raises:
            NotFound: When there is no such upload, or no more.
        """
        found = self._shelf.get(_path(upload, "about"))
        if found is None:
            raise NotFound(
                "there is no such upload", where="upload_id", fix="begin it again: it may have waited too long"
            )
        return found

    async def put(self, upload: str, part: int, pieces: AsyncIterator[bytes]) -> None:
        """Keep a part; the same number again replaces it.

        Raises:
            InvalidInput: When the number can't be one.
        """
        await self._shelf.put_stream(_part(upload, part), pieces)

    def parts(self, upload: str) -> dict[int, int]:
        """Return the sizes of an upload's parts by their numbers."""
        found = {}
        for entry in self._shelf.list(_path(upload)):
            name = entry.path.rpartition("/")[2]
            if name.isdecimal():
                found[int(name)] = entry.size
        return dict(sorted(found.items()))

    def read(self, upload: str, part: int, size: int) -> Iterator[bytes]:
        """Yield a part's bytes."""
        for start in range(0, size, _READ):
            yield self._shelf.get_range(_part(upload, part), start, min(start + _READ, size))

    def drop(self, upload: str) -> None:
        """Forget an upload and its parts."""
        for entry in list(self._shelf.list(_path(upload))):
            self._shelf.delete(entry.path)
        self._shelf.tidy(_path(upload))

    def sweep(self, seconds: float) -> int:
        """Forget the parts that are older, and return how many bytes that were."""
        old = [entry for entry in self._shelf.list(_FOLDER) if age(entry) > seconds]
        for entry in old:
            self._shelf.delete(entry.path)
            self._shelf.tidy(entry.path.rpartition("/")[0])
        return sum(entry.size for entry in old)


def _path(upload: str, name: str = "") -> str:
    if not _ID.match(upload):
        raise InvalidInput("it is no upload's id", where="upload_id", allowed="32 hexadecimal characters")
    return f"{_FOLDER}/{upload}/{name}" if name else f"{_FOLDER}/{upload}"


def _part(upload: str, part: int) -> str:
    if not 1 <= part <= MOST_PARTS:
        raise InvalidInput(f"part {part}", where="part", allowed=f"1 to {MOST_PARTS}")
    return _path(upload, f"{part:05}")
