"""TensorFlow's framing of records: length, checksum of the length, bytes, checksum of the bytes; the checksums are masked CRC-32C.

Source: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kilter.core.errors import Damaged

_LENGTH: Final = struct.Struct("<QI")
_LONGEST: Final = 256 << 20
_DELTA: Final = 0xA282EAD8
_CHECKED: Final = 1 << 16  # of a longer record, which Python would check for seconds, only the frame is checked


def records(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield a file's records, each with the place after it; one that was cut off at the end is the end.

    Raises:
        Damaged: When a checksum is wrong or a length is absurd.
    """
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while True:
            start = file.read(_LENGTH.size)
            if len(start) < _LENGTH.size:
                return
            length, checksum = _LENGTH.unpack(start)
            where = f"{path.name} at byte {place:,}"
            if _masked(start[:8]) != checksum:
                raise Damaged("a record's length has a wrong checksum", where=where)
            if place + _LENGTH.size + length + 4 > size:
                return  # its writer was cut off, or still writes
            if length > _LONGEST:
                raise Damaged("a record is too long", where=where, allowed=f"{_LONGEST:,} bytes")
            data, tail = file.read(length), file.read(4)
            if length <= _CHECKED and _masked(data) != int.from_bytes(tail, "little"):
                raise Damaged("a record's checksum is wrong", where=where)
            place += _LENGTH.size + length + 4
            yield data, place


def _table() -> list[int]:
    found = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return found


_TABLE: Final = _table()


def _masked(data: bytes) -> int:
    value, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + _DELTA) & 0xFFFFFFFF
