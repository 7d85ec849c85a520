"""How a front and its workers speak over a socket pair: length-prefixed frames, both little-endian.

To a worker, first ``HELLO`` (the model's spec as JSON, the model's bytes, the example rows, the explainer's bytes), then ``ROWS`` or
``EXPLAIN`` (a matrix of float64, or of float32: it is half as long then). From a worker ``READY`` (once), then per ``ROWS`` either ``VALUES`` (float64, rows x outputs) or
``REFUSED`` (a sentence); per ``EXPLAIN`` the same, with rows x outputs x (columns + 1) numbers: what each column adds, and the
average. ``FAILED`` in place of ``REFUSED`` says that it was not for the rows: to ask for each of them alone would only repeat
it. An end of file means death, on both sides.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from kilter.packaging.native import Buffer

HEAD = struct.Struct("<IIII")
"""Bytes that follow, kind, ticket, rows."""

HELLO, READY, ROWS, VALUES, REFUSED, EXPLAIN, FAILED = 1, 2, 3, 4, 5, 6, 7
LENGTHS = struct.Struct("<III")
"""Lengths of the spec, the model and the example in a HELLO; what is left is the explainer."""


def wide(matrix: Buffer, cells: int) -> bytes:
    """Return a matrix as float64.

    Args:
        matrix: It; float32 when its bytes are half as many.
        cells: How many numbers it has.
    """
    found = own(matrix, cells)
    return found if isinstance(found, bytes) else bytes(found)


def own(matrix: Buffer, cells: int) -> Buffer:
    """Return a matrix as float64 in memory that is nobody else's.

    Args:
        matrix: It; float32 when its bytes are half as many.
        cells: How many numbers it has.
    """
    if len(matrix) != 4 * cells or not cells:
        return bytes(matrix)
    import numpy as np  # noqa: PLC0415 - a worker needs it only when it is asked so

    return np.frombuffer(matrix, dtype="<f4").astype("<f8").view(np.uint8).data


def frame(kind: int, ticket: int, rows: int, payload: bytes) -> bytes:
    """Return one frame."""
    return HEAD.pack(len(payload), kind, ticket, rows) + payload


def framed(kind: int, ticket: int, rows: int, payload: Sequence[Buffer]) -> list[Buffer]:
    """Return one frame as the buffers that it consists of: its payload, which may be long, is not copied."""
    return [HEAD.pack(sum(map(len, payload)), kind, ticket, rows), *payload]


class Incoming:
    """A buffer that a socket fills, and the frames in it: they are looked at where they lie.

    Args:
        size: Its bytes; for a frame that is longer, as one with a model, it grows until that has been looked at.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffer = bytearray(size)
        self._end = 0

    def room(self) -> memoryview:
        """Return where the next bytes go."""
        return memoryview(self._buffer)[self._end :]

    def took(self, size: int) -> Iterator[tuple[int, int, int, memoryview]]:
        """Yield each whole frame once ``size`` more bytes are there; its payload is good until the next one is asked for."""
        self._end += size
        start, wanted = 0, HEAD.size
        held = memoryview(self._buffer)
        while self._end - start >= HEAD.size:
            length, kind, ticket, rows = HEAD.unpack_from(held, start)
            wanted = HEAD.size + length
            if self._end - start < wanted:
                break
            yield kind, ticket, rows, held[start + HEAD.size : start + wanted]
            start, wanted = start + wanted, HEAD.size
        left = self._end - start
        needed = max(wanted, self._size, left)
        if needed != len(self._buffer):
            self._buffer = bytearray(needed)
        if left and (start or len(self._buffer) != len(held)):
            self._buffer[:left] = bytes(held[start : self._end])
        self._end = left


class Reader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Take bytes as they come and yield each whole frame as kind, ticket, rows and payload."""
        if not self._held and len(data) >= HEAD.size:
            size, kind, ticket, rows = HEAD.unpack_from(data)
            if len(data) == HEAD.size + size:  # the usual case: exactly one frame
                yield kind, ticket, rows, data[HEAD.size :]
                return
        self._held += data
        start = 0
        while len(self._held) - start >= HEAD.size:
            size, kind, ticket, rows = HEAD.unpack_from(self._held, start)
            end = start + HEAD.size + size
            if len(self._held) < end:
                break
            payload = bytes(memoryview(self._held)[start + HEAD.size : end])
            start = end
            yield kind, ticket, rows, payload
        if start:
            del self._held[:start]
