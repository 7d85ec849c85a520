"""Streams of Redis: consumer groups, and one transaction for acknowledgement and note.

Each member of a group has a note of its own. Before it takes over the messages of a silent one, it writes down that one's notes
as inherited, and keeps them until its own mark moves: were it killed in between, its next life would look where the silent one
would have looked. A member's name is one process's at a time: whoever opens it last may commit, and the one before finds out.

Source: the commands ``XREADGROUP``, ``XACK``, ``XPENDING``, ``XAUTOCLAIM``, ``WATCH`` and ``MULTI`` of Redis 7.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kilter.core.errors import Conflict, InvalidInput, KilterError, Unavailable
from kilter.engines.streams.port import Message, Outgoing, Taken

OPTIONS = {
    "db": "the database's number (default: 0)",
    "password": "a file that holds the password",
    "consumer": "the name of this member of the group (default: kilter)",
    "start": "earliest or latest: where a new group begins (default: earliest)",
    "claim": "seconds after which messages of a silent member are taken over (default: 60)",
}
_PAGE = 5_000
_INHERITED = "\0"
"""Between a member's name and that of the one whose note it keeps."""
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
        self._reader_at = f"kilter:reader:{group}:{stream}:{self._consumer}"
        self._reader = secrets.token_bytes(12)
        self._claim = int(float(given.get("claim", "60")) * 1000)
        self._claimed = time.monotonic()
        self._taken: list[bytes] = []
        self._behind: bytes = b"0"
        with _calling(stream):
            self._client.set(self._reader_at, self._reader)  # whoever had the name before may not commit any more
            self._client.hsetnx(self._notes_at, self._consumer, mark())
            try:
                self._client.xgroup_create(
                    stream, group, id="$" if given.get("start") == "latest" else "0", mkstream=True
                )
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            own = self._notes_of({self._consumer})
            self._inherited = [field for field in own if field != self._consumer]
            self._notes = tuple(own.values())
            self._old = self._all_pending()

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages; those that this member or a silent one took and never acknowledged come first."""
        with _calling(self._stream):
            entries = self._pending(most)
            if not entries and self._claim and time.monotonic() - self._claimed > self._claim / 1000:
                entries = self._from_silent(most)
            if not entries and not self._notes:
                entries = self._read(">", most, wait)
        self._taken += [one[0] for one in entries]
        if self._old:
            self._old.difference_update([one[0] for one in entries])
        notes, self._notes = self._notes, ()
        name = self._stream
        messages = [
            Message(
                f"{name}/{place.decode()}",
                found.get(b"key", b""),
                found.get(b"value", b""),
                found.get(b"reason", b"").decode("utf-8", "replace"),
            )
            for place, found in entries
        ]
        return Taken(messages, notes)

    def commit(self, note: str | None) -> None:
        """Acknowledge and note, both or neither."""
        if not self._taken:
            return
        with _calling(self._stream), self._client.pipeline(transaction=True) as both:
            both.watch(self._reader_at)  # type: ignore[no-untyped-call]  # its author left the annotation out
            mine = cast("Any", both.get(self._reader_at)) == self._reader  # while it is watched, it is read at once
            both.multi()
            both.xack(self._stream, self._group, *self._taken)
            if note is not None:
                both.hset(self._notes_at, self._consumer, note)
                if self._inherited:
                    both.hdel(self._notes_at, *self._inherited)
            try:
                if mine:
                    both.execute()
            except redis.WatchError:
                mine = False
            if not mine:
                raise Conflict(
                    "another process reads under that member's name",
                    where=self._stream,
                    fix="stop it, or give each process its own ?consumer=",
                )
        if note is not None:
            self._inherited = []
        self._taken = []

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here: those that were taken before come first."""
        stream, _, place = id.rpartition("/")
        return stream == self._stream and place.encode() in self._old

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
        """Return what this member had taken before it died, but for what the stream has lost since: that is done with."""
        while self._old:
            entries = self._read(self._behind, most, 0.0)
            if not entries:
                self._old.clear()
                break
            self._behind = entries[-1][0]
            gone = [place for place, found in entries if not found]
            self._old.difference_update(gone)
            self._taken += gone
            if len(gone) < len(entries):
                return [one for one in entries if one[1]]
        return []

    def _all_pending(self) -> set[bytes]:
        """Return the ids of what this member took and never acknowledged."""
        found: set[bytes] = set()
        after = "-"
        while True:
            page = cast(
                "list[dict[str, Any]]",
                self._client.xpending_range(self._stream, self._group, after, "+", _PAGE, self._consumer),
            )
            found.update(one["message_id"] for one in page)
            if len(page) < _PAGE:
                return found
            after = "(" + page[-1]["message_id"].decode()

    def _from_silent(self, most: int) -> list[_Entry]:
        """Take over messages, and the notes of those who may have answered them, which are written down before."""
        self._claimed = time.monotonic()
        pending = cast(
            "list[dict[str, Any]]",
            self._client.xpending_range(self._stream, self._group, "-", "+", most, idle=self._claim),
        )
        left = [one for one in pending if _text(one["consumer"]) != self._consumer]
        if not left:
            return []
        notes = tuple(self._notes_of({_text(one["consumer"]) for one in left}).values())
        kept = {f"{self._consumer}{_INHERITED}{secrets.token_hex(8)}": note for note in notes}
        if kept:
            self._client.hset(self._notes_at, mapping=cast("dict[Any, Any]", kept))
            self._inherited += kept
        self._notes = notes
        places = [one["message_id"] for one in left]
        found = self._client.xclaim(self._stream, self._group, self._consumer, self._claim, places)
        return [one for one in cast("list[_Entry]", found) if one[1]]

    def _notes_of(self, members: set[str]) -> dict[str, str]:
        """Return the notes of members and those that they inherited, by their fields."""
        notes = cast("dict[bytes, bytes]", self._client.hgetall(self._notes_at))
        fields = {field.decode(): note.decode() for field, note in notes.items()}
        return {field: note for field, note in fields.items() if field.partition(_INHERITED)[0] in members}

    def _read(self, after: str | bytes, most: int, wait: float) -> list[_Entry]:
        block = int(wait * 1000) or None
        found = cast(
            "Any", self._client.xreadgroup(self._group, self._consumer, {self._stream: after}, count=most, block=block)
        )
        if not found:
            return []
        entries = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
        return list(entries[0] if entries and isinstance(entries[0], list) else entries)


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
        host,
        int(port),
        int(options.get("db", "0")),
        password,
        socket_timeout=30,
        socket_connect_timeout=5,
        retry=Retry(
            NoBackoff(), 0
        ),  # a write whose answer was lost may have been done: writing it again would double it
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@contextmanager
def _calling(stream: str) -> Iterator[None]:
    try:
        yield
    except KilterError:
        raise
    except redis.RedisError as error:
        said = str(error).split("\n", 1)[0]
        raise Unavailable(f"Redis: {said}", where=stream, fix="check the server and the password") from error
