"""The files of a log: how records are framed in one, and how they are read again.

A record is framed as ``magic (4) | length (4) | CRC-32 (4) | payload``, little-endian, where the checksum covers the
length and the payload; zeros, which a power cut may leave behind, are therefore no record. A record that is not whole ends
the last file (it is being written, or its writer died); anywhere else, or with whole records behind it, it is damage.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zlib_ng.zlib_ng import crc32  # the checksum of zlib, ten times as fast

from kilter.core.errors import Damaged, NotFound

HEADER = struct.Struct("<4sII")
LARGEST = 1 << 30
"""The bytes that a record may have."""

_MAGIC = b"KLG1"
_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 18


class Segment(NamedTuple):
    """One file of a log.

    Args:
        number: Its number; positions in it are ``number << 32`` and more.
        size: Its bytes.
        closed: Whether a later segment holds a record, so that nothing is written to this one any more.
    """

    number: int
    size: int
    closed: bool


def header(payload: bytes | bytearray) -> bytes:
    """Return what goes before a record."""
    length = _LENGTH.pack(len(payload))
    return b"".join((_MAGIC, length, _LENGTH.pack(crc32(payload, crc32(length)))))


def record(path: Path, offset: int) -> bytes:
    """Return the record at an offset of a file.

    Raises:
        FileNotFoundError: When there is no such file.
        NotFound: When no record begins there.
        Damaged: When its checksum does not fit.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        head = os.pread(descriptor, HEADER.size, offset)
        if len(head) < HEADER.size or head[:4] != _MAGIC:
            raise NotFound(f"there is no record at offset {offset}", where=str(path))
        _, length, checksum = HEADER.unpack(head)
        payload = os.pread(descriptor, length, offset + HEADER.size) if length <= LARGEST else b""
    finally:
        os.close(descriptor)
    if len(payload) != length or crc32(payload, crc32(head[4:8])) != checksum:
        raise Damaged(f"the record at offset {offset} does not fit its checksum", where=str(path))
    return payload


def records(path: Path, offset: int, *, final: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the whole records of a file from an offset on, each with its own.

    Args:
        path: The file.
        offset: Where to begin.
        final: Whether it is the last file: a record that is not whole ends it then.

    Raises:
        FileNotFoundError: When there is no such file.
        Damaged: When a record is broken and whole ones follow it.
    """
    with path.open("rb", buffering=_CHUNK) as file:
        file.seek(offset)
        while True:
            head = file.read(HEADER.size)
            if not head:
                return
            magic, length, checksum = HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0)
            payload = file.read(length) if magic == _MAGIC and length <= LARGEST else b""
            whole = magic == _MAGIC and len(payload) == length
            if not whole or crc32(payload, crc32(head[4:8])) != checksum:
                if final and not _damaged(path, offset):
                    return
                raise Damaged(
                    f"the record at offset {offset} is broken and is not the last one",
                    where=str(path),
                    fix="restore the segment from a backup; nothing was changed",
                )
            yield offset, payload
            offset += HEADER.size + length


def _damaged(path: Path, offset: int) -> bool:
    """Return whether the record at ``offset`` is broken although a whole record follows it.

    The file is read afresh: a writer may have finished the record since, and added others.
    """
    data = path.read_bytes()
    if _whole(data, offset):
        return False
    place = data.find(_MAGIC, offset + 1)
    while place >= 0:
        if _whole(data, place):
            return True
        place = data.find(_MAGIC, place + 1)
    return False


def _whole(data: bytes, place: int) -> bool:
    """Return whether a record with a fitting checksum begins at ``place``."""
    if len(data) < place + HEADER.size:
        return False
    magic, length, checksum = HEADER.unpack_from(data, place)
    start = place + HEADER.size
    body = data[start : start + length]
    if magic != _MAGIC or len(body) != length:
        return False
    fits: bool = crc32(body, crc32(data[place + 4 : place + 8])) == checksum
    return fits
