"""The prediction log of a device: appended to while there is no network, bounded, and whole after ``kill -9``.

A record is a line: its number, the CRC-32 of the rest, and JSON. One ``write`` makes it survive the death of the process. Records
are numbered without gaps; what has to make room for newer ones is counted.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from .release import EdgeError
from .state import read_json, write_json

_ABOUT = "log.json"
_ENDING = ".jsonl"


class EdgeLog:
    """A log with one writer.

    Args:
        folder: Where it lies; it is made.
        limit: Its bytes at most; the oldest records make room.
        segment: Bytes of one file: what is removed at once.
        fsync: Whether each record waits for the disk, so that it survives a power cut as well.

    Raises:
        EdgeError: When another process writes it, or the folder can't be written.
    """

    def __init__(self, folder: Path, limit: int = 16_000_000, segment: int = 256_000, *, fsync: bool = False) -> None:
        if not 0 < segment * 2 <= limit:
            raise EdgeError(f"a log of {limit:,} bytes can't be cut into files of {segment:,}")
        self._folder, self._limit, self._segment, self._fsync = folder, limit, segment, fsync
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EdgeError("another process writes the log") from error
        except OSError as error:
            raise EdgeError(f"the log can't be written: {error.strerror}") from error
        self._about = read_json(folder / _ABOUT) or {"id": secrets.token_hex(4), "acked": -1, "dropped": 0}
        write_json(folder / _ABOUT, self._about)
        self._open()

    @property
    def id(self) -> str:
        """The log's own name: a device that lost its log begins another one."""
        return str(self._about["id"])

    @property
    def dropped(self) -> int:
        """How many records had to make room before they were uploaded."""
        return int(self._about["dropped"])

    @property
    def waiting(self) -> int:
        """How many records are there to upload."""
        return self._next - max(self._first(), int(self._about["acked"]) + 1)

    def append(self, record: Mapping[str, Any]) -> int:
        """Write a record, and return its number; when this returns, it survives ``kill -9``.

        Raises:
            EdgeError: When it is larger than a file, or the disk is full; the log is as it was before.
        """
        text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
        line = _line(self._next, text)
        if len(line) > self._segment:
            raise EdgeError(f"a record of {len(line):,} bytes, at most {self._segment:,} are allowed")
        if self._size + len(line) > self._segment:
            self._roll()
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
            if self._fsync:
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise EdgeError(f"the record can't be written: {error.strerror}") from error
        self._size += len(line)
        self._next += 1
        return self._next - 1

    def read(self, most: int = 500, most_bytes: int = 1_000_000) -> list[tuple[int, dict[str, Any]]]:
        """Return the oldest records that were not uploaded, with their numbers.

        Args:
            most: At most so many.
            most_bytes: At most so many bytes, but at least one record.
        """
        os.fsync(
            self._file
        )  # what the store gets must be here after a power cut too: else its numbers were given again
        found: list[tuple[int, dict[str, Any]]] = []
        size, after = 0, int(self._about["acked"])
        for segment in self._segments():
            for number, text in _lines(self._path(segment)):
                if number <= after:
                    continue
                size += len(text)
                if found and (len(found) >= most or size > most_bytes):
                    return found
                found.append((number, json.loads(text)))
        return found

    def acknowledge(self, number: int) -> None:
        """Note that all records up to a number were uploaded, and remove the files that hold nothing else."""
        if number <= int(self._about["acked"]):
            return
        self._about["acked"] = min(number, self._next - 1)
        write_json(self._folder / _ABOUT, self._about)
        for segment, following in pairwise(self._segments()):
            if following <= int(self._about["acked"]) + 1:
                self._path(segment).unlink()

    def close(self) -> None:
        """Let another process write the log."""
        os.close(self._file)
        os.close(self._lock)

    def _open(self) -> None:
        segments = self._segments()
        newest = segments[-1] if segments else 0
        self._next, end = newest, 0
        if segments:
            for number, text in _lines(self._path(newest)):
                self._next, end = number + 1, end + len(_line(number, text))
        # a disk that lost records which the store has: their numbers are not given again
        self._next = max(self._next, int(self._about["acked"]) + 1)
        self._file = os.open(self._path(newest), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(self._file, end)  # a record that a dying process left half-written
        self._size = end

    def _roll(self) -> None:
        os.fsync(self._file)
        os.close(self._file)
        self._file = os.open(self._path(self._next), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size = 0
        segments = self._segments()
        while (
            len(segments) > 1 and sum(self._path(one).stat().st_size for one in segments) + self._segment > self._limit
        ):
            gone, following = segments[0], segments[1]
            self._about["dropped"] = self.dropped + max(0, following - max(gone, int(self._about["acked"]) + 1))
            write_json(self._folder / _ABOUT, self._about)
            self._path(gone).unlink()
            segments = segments[1:]

    def _first(self) -> int:
        return self._segments()[0]

    def _segments(self) -> list[int]:
        """Return the number of each file's first record, oldest first."""
        return sorted(int(path.stem) for path in self._folder.glob(f"*{_ENDING}"))

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:016d}{_ENDING}"


def _line(number: int, text: bytes) -> bytes:
    return b"%d %08x %b\n" % (number, zlib.crc32(text), text)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the records of a file up to the first that is not whole."""
    with path.open("rb") as file:
        for line in file:
            number, _, rest = line.partition(b" ")
            checksum, _, text = rest.partition(b" ")
            if not line.endswith(b"\n") or not number.isdigit() or checksum != b"%08x" % zlib.crc32(text[:-1]):
                return
            yield int(number), text[:-1]
