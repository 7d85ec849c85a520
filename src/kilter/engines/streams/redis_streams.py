"""Streams of Redis: consumer groups, and one transaction for acknowledgement and note.

Source: the commands ``XREADGROUP``, ``XACK``, ``XAUTOCLAIM`` and ``MULTI`` of Redis 7.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import redis

from kilter.core.errors import InvalidInput, KilterError, Unavailable
from kilter.engines.streams.port import Message, Outgoing, Taken

OPTIONS = {
    "db": "the database's number (default: 0)",
    "password": "a file that holds the password",
    "consumer": "the name of this member of the group (default: kilter)",
    "start": "earliest or latest: where a new group begins (default: earliest)",
    "claim": "seconds after which messages of a silent member are taken over (default: 60)",
}
_PAGE = 5_000
_Entry = tuple[bytes, dict[bytes, bytes]]


class RedisSource:
    """A stream, read by a group.

    Args:
        server: ``host:port``.
        stream: The stream.
        group: The group.
        mark: Says how far the written streams are; noted where the group begins.
        options: See ``OPTIONS``.
    """

    def __init__(
        self, server: str, stream: str, group: str, mark: Callable[[], str], options: Mapping[str, str] | None = None
    ) -> None:
        given = dict(options or {})
        self._client = _client(server, given)
        self._stream = stream
        self._group = group
        self._consumer = given.get("consumer", "kilter")
        self._notes_at = f"kilter:notes:{group}:{stream}"
        self._claim = int(float(given.get("claim", "60")) * 1000)
        self._claimed = time.monotonic()
        self._taken: list[bytes] = []
        with _calling(stream):
            self._client.hsetnx(self._notes_at, self._consumer, mark())
            try:
                self._client.xgroup_create(
                    stream, group, id="$" if given.get("start") == "latest" else "0", mkstream=True
                )
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            self._notes = self._all_notes()
        self._old = True  # what this member had taken before it died comes first

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages; those that this member or a silent one took and never acknowledged come first."""
        with _calling(self._stream):
            entries = self._pending(most) if self._old else []
            if not entries and self._claim and time.monotonic() - self._claimed > self._claim / 1000:
                entries = self._from_silent(most)
            if not entries and not self._notes:
                entries = self._read(">", most, wait)
        self._taken += [one[0] for one in entries]
        notes, self._notes = self._notes, ()
        name = self._stream
        messages = [
            Message(f"{name}/{place.decode()}", found.get(b"key", b""), _value(found)) for place, found in entries
        ]
        return Taken(messages, notes)

    def commit(self, note: str | None) -> None:
        """Acknowledge and note, both or neither."""
        if not self._taken:
            return
        with _calling(self._stream), self._client.pipeline(transaction=True) as both:
            both.xack(self._stream, self._group, *self._taken)
            if note is not None:
                both.hset(self._notes_at, self._consumer, note)
            both.execute()
        self._taken = []

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here: those that were taken before come first."""
        return self._old and id.startswith(f"{self._stream}/")

    def lag(self) -> int:
        """Return how many messages the group has not read yet."""
        with _calling(self._stream):
            for one in self._client.xinfo_groups(self._stream):
                if one["name"] in (self._group, self._group.encode()):
                    return int(one.get("lag") or 0)
        return 0

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()

    def _pending(self, most: int) -> list[_Entry]:
        entries = self._read(self._taken[-1] if self._taken else "0", most, 0.0)
        self._old = len(entries) == most
        return entries

    def _from_silent(self, most: int) -> list[_Entry]:
        self._claimed = time.monotonic()
        found = self._client.xautoclaim(self._stream, self._group, self._consumer, self._claim, "0-0", count=most)
        entries = [one for one in found[1] if one[1] is not None]
        if entries:
            self._notes = self._all_notes()
        return entries

    def _read(self, after: str | bytes, most: int, wait: float) -> list[_Entry]:
        block = int(wait * 1000) or None
        found = cast(
            "Any", self._client.xreadgroup(self._group, self._consumer, {self._stream: after}, count=most, block=block)
        )
        if not found:
            return []
        groups = list(found.values()) if isinstance(found, dict) else [found[0][1]]
        entries = groups[0]
        return [
            one for one in (entries[0] if entries and isinstance(entries[0], list) else entries) if one[1] is not None
        ]

    def _all_notes(self) -> tuple[str, ...]:
        """Return the notes of this member, and of every other that took messages and never acknowledged them."""
        members = self._client.xinfo_consumers(self._stream, self._group)
        names = {_text(one["name"]) for one in members if one["pending"]} | {self._consumer}
        notes = cast("dict[bytes, bytes]", self._client.hgetall(self._notes_at))
        return tuple(note.decode() for member, note in notes.items() if member.decode() in names)


class RedisSink:
    """A stream to write.

    Args:
        server: ``host:port``.
        stream: The stream.
        options: ``db`` and ``password``.
    """

    def __init__(self, server: str, stream: str, options: Mapping[str, str] | None = None) -> None:
        self._client = _client(server, options or {})
        self._stream = stream
        self._waiting: list[Outgoing] = []
        with _calling(stream):
            last = cast("list[_Entry]", self._client.xrevrange(stream, count=1))
        self._last = last[0][0].decode() if last else "0-0"

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Keep messages for the next flush."""
        self._waiting += messages

    def flush(self) -> None:
        """Write what was sent, in one round trip."""
        if not self._waiting:
            return
        with _calling(self._stream), self._client.pipeline(transaction=False) as many:
            for message in self._waiting:
                fields: dict[Any, Any] = {"id": message.id, "key": message.key, "value": message.value}
                many.xadd(self._stream, fields | ({"reason": message.reason} if message.reason else {}))
            self._last = many.execute()[-1].decode()
        self._waiting = []

    def mark(self) -> str:
        """Return the id of the last message."""
        return self._last

    def since(self, mark: str) -> Iterator[str]:
        """Yield the ids of all messages behind a mark."""
        after = mark or "0-0"
        while True:
            with _calling(self._stream):
                page = cast("list[_Entry]", self._client.xrange(self._stream, f"({after}", "+", count=_PAGE))
            for place, found in page:
                after = place.decode()
                yield found.get(b"id", b"").decode()
            if len(page) < _PAGE:
                return

    def close(self) -> None:
        """Let go of the server."""
        self._client.close()


def _client(server: str, options: Mapping[str, str]) -> redis.Redis:
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not options.get("db", "0").isdecimal():
        raise InvalidInput(f"{server!r} is no server", where="redis", allowed="host:port, and ?db=NUMBER")
    password = None
    if options.get("password"):
        try:
            password = Path(options["password"]).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InvalidInput(f"the file can't be read: {error.strerror}", where="password") from error
    return redis.Redis(
        host, int(port), int(options.get("db", "0")), password, socket_timeout=30, socket_connect_timeout=5
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _value(fields: dict[bytes, bytes]) -> bytes:
    return fields.get(b"value", b"")


@contextmanager
def _calling(stream: str) -> Iterator[None]:
    try:
        yield
    except KilterError:
        raise
    except redis.RedisError as error:
        said = str(error).split("\n", 1)[0]
        raise Unavailable(f"Redis: {said}", where=stream, fix="check the server and the password") from error
