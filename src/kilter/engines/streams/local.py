"""Streams in the workspace: a durable log per stream, and a cursor per group of readers."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from kilter.core.errors import Conflict, Damaged, Expired, InvalidInput
from kilter.engines.streams.log import Log
from kilter.engines.streams.port import Message, Outgoing, Taken

_NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,63}$")
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[str, bytes, bytes, str])
_FRAMED = b"\x94"
"""The first byte of an array of four in MessagePack. A record that begins with another one is a message without a key, as it is."""
_NAP = 0.01


class _Cursor(msgspec.Struct, frozen=True):
    position: int
    note: str


def check_name(name: str, where: str) -> str:
    """Return the name of a stream or of a group, if it is one.

    Raises:
        InvalidInput: When it is none.
    """
    if not _NAME.match(name):
        raise InvalidInput(f"{name[:80]!r} is no name", where=where, allowed="1 to 64 of a-z, 0-9, '_', '.' and '-'")
    return name


class LogSource:
    """A log of the workspace, read by a group of one.

    Args:
        root: The folder of all streams.
        name: The stream.
        group: Whose cursor it is.
        mark: Says how far the written streams are; asked before the first message of a new group is read.

    Raises:
        Conflict: When another process reads for the group.
    """

    def __init__(self, root: Path, name: str, group: str, mark: Callable[[], str]) -> None:
        check_name(name, "stream")
        check_name(group, "group")
        self._log = Log.open(root / name, readonly=True)
        self._name = name
        folder = root / ".cursors"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{name}@{group}.json"
        self._lock = os.open(folder / f"{name}@{group}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            self._log.close()
            raise Conflict(
                "another process reads for that group",
                where=f"{name}@{group}",
                fix="stop it, or choose another --group",
            ) from error
        if not self._path.exists():
            self._write(_Cursor(-1, mark()))
        cursor = self._read()
        self._position = cursor.position
        self._note = cursor.note
        self._notes: tuple[str, ...] = (cursor.note,)

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages: at most ``most``, none when there are none within ``wait`` seconds."""
        notes, self._notes = self._notes, ()
        end = time.monotonic() + wait
        messages: list[Message] = []
        while True:
            for position, payload in self._log.read(self._position, most):
                messages.append(_message(self._name, position, payload))
                self._position = position
            if messages or notes or time.monotonic() >= end:
                return Taken(messages, notes)
            time.sleep(_NAP)

    def commit(self, note: str | None) -> None:
        """Note that all messages taken so far are done with."""
        self._note = self._note if note is None else note
        self._write(_Cursor(self._position, self._note))

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here."""
        name, _, position = id.rpartition("/")
        return name == self._name and int(position) > self._position

    def lag(self) -> int:
        """Return how many messages wait, up to a thousand."""
        return sum(1 for _ in self._log.read(self._position, 1000))

    def close(self) -> None:
        """Let another reader go on at the last commit."""
        self._log.close()
        os.close(self._lock)

    def _read(self) -> _Cursor:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Cursor)
        except msgspec.MsgspecError as error:
            raise Damaged("the cursor can't be read", where=str(self._path), fix="restore it from a backup") from error

    def _write(self, cursor: _Cursor) -> None:
        aside = self._path.with_suffix(".new")
        aside.write_bytes(msgspec.json.encode(cursor))
        aside.replace(self._path)


class LogSink:
    """A log of the workspace, with one writer.

    Args:
        root: The folder of all streams.
        name: The stream.

    Raises:
        Conflict: When another process writes it.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._log = Log.open(root / check_name(name, "stream"))

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Write messages; each survives the death of the process when this returns."""
        append, encode = self._log.append, _ENCODER.encode
        for message in messages:
            append(encode(message))

    def flush(self) -> None:
        """Do nothing: what was sent is safe already."""

    def mark(self) -> str:
        """Return the position of the last message."""
        return str(self._log.end())

    def since(self, mark: str) -> Iterator[str]:
        """Yield the ids of all messages behind a mark, of those that are kept."""
        try:
            yield from self._ids(int(mark or -1))
        except Expired:
            yield from self._ids(-1)

    def _ids(self, after: int) -> Iterator[str]:
        for _, payload in self._log.read(after):
            if payload[:1] == _FRAMED:
                yield _DECODER.decode(payload)[0]

    def close(self) -> None:
        """Let another process write the stream."""
        self._log.close()


def _message(name: str, position: int, payload: bytes) -> Message:
    if payload[:1] == _FRAMED:
        _, key, value, reason = _DECODER.decode(payload)
        return Message(f"{name}/{position}", key, value, reason)
    return Message(f"{name}/{position}", b"", payload)
