"""Cutting large files where their content says so, so that a file with a changed header shares all but its first piece with the old one.

A cut is after a pair of bytes that differ in a fixed way, if the eight bytes from there on hash to a small number. Whatever stands before
a cut has no say in it, so the cuts after a change fall where they fell before. The pair is found for many bytes at once, and only one in
some hundred is hashed: 64 KiB of it cost about 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Iterator

LEAST = 1 << 20
MOST = 4 << 20
WHOLE = 8 << 20
"""A file up to this size is kept in one piece."""

_BLOCK = 64 << 10
_WINDOW = 8
_PAIR = 5
_FACTOR = 0x9E3779B97F4A7C15
_SHIFT = 64 - 12  # with one pair in 256: a cut every MiB after the least length, in bytes that look random


class Cutter:
    """Cuts what is written to it, piece by piece, into lengths from :data:`LEAST` to :data:`MOST`."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._seen = LEAST

    def feed(self, piece: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Take more bytes, and yield each piece that they complete."""
        self._kept += piece
        while (end := self._next()) is not None:
            yield self._take(end)

    def end(self) -> Iterator[bytes]:
        """Yield what is left."""
        while len(self._kept) > MOST:
            yield self._take(MOST)
        if self._kept:
            yield self._take(len(self._kept))

    def _take(self, end: int) -> bytes:
        piece = bytes(memoryview(self._kept)[:end])
        del self._kept[:end]
        self._seen = LEAST
        return piece

    def _next(self) -> int | None:
        """Return where the next piece ends, or None when more bytes are needed to say so."""
        while True:
            begin, end = self._seen, min(self._seen + _BLOCK, MOST)
            if len(self._kept) < end + _WINDOW:
                return None
            found = _first_cut(memoryview(self._kept)[begin : end + _WINDOW])
            if found is not None:
                return begin + found + 1
            if end == MOST:
                return MOST
            self._seen = end


def _first_cut(block: memoryview) -> int | None:
    import numpy as np  # noqa: PLC0415 - a server that takes no large files needs none of it

    data = np.frombuffer(block, dtype=np.uint8)
    count = len(data) - _WINDOW
    pairs = np.flatnonzero((data[:count] ^ data[1 : count + 1]) == _PAIR)
    windows = np.ndarray((count,), "<u8", block, strides=(1,))  # eight bytes from each place on, over one another
    hashes = windows[pairs] * np.uint64(_FACTOR)
    cuts = pairs[hashes >> np.uint64(_SHIFT) == 0]
    return int(cuts[0]) if len(cuts) else None
