"""Requests that are sent again under the same Idempotency-Key get the same answer, and no second record.

The log is the memory: a key maps to where its answer was recorded, and the newest keys are found again from the log's tail
when a front starts. Source: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from kilter.core.errors import InvalidInput, KilterError
from kilter.engines.streams.log import Log
from kilter.serving.records import Item

Send = Callable[[bytes], None]
Fail = Callable[[KilterError], None]


class Answered(NamedTuple):
    """Where an answer is: the record's position, the request's first row in it, and how many rows."""

    body: bytes
    position: int
    start: int
    rows: int


class Waiting(NamedTuple):
    """A request under way, and who else waits for its answer."""

    body: bytes
    others: list[tuple[Send, Fail]]


class _Keys(msgspec.Struct, tag="p"):
    """The little of a record that is needed to find keys; the rest is skipped, not decoded."""

    loop: str
    requests: list[Item]


class _Shadow(msgspec.Struct, tag="s"):
    """A record without keys."""


class Replays:
    """The newest keys.

    Args:
        most: How many are remembered.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, str], Answered | Waiting] = OrderedDict()

    def find(self, loop: str, key: str, body: bytes) -> Answered | Waiting | None:
        """Return what is known of a request.

        Args:
            loop: The endpoint.
            key: The Idempotency-Key.
            body: The fingerprint of its body.

        Raises:
            InvalidInput: When the key was used with another body.
        """
        known = self._known.get((loop, key))
        if known is not None and known.body != body:
            raise InvalidInput(
                "the key was used for another request", where="Idempotency-Key", fix="use a new key per request"
            )
        return known

    def begin(self, loop: str, key: str, body: bytes) -> Waiting:
        """Note that a request is under way."""
        waiting = Waiting(body, [])
        self._keep((loop, key), waiting)
        return waiting

    def end(self, loop: str, key: str, answered: Answered | None) -> None:
        """Note a request's answer, or None when it failed: it may be tried again then."""
        if answered is None:
            self._known.pop((loop, key), None)
        else:
            self._keep((loop, key), answered)

    def rebuild(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Find the keys in records of the log, oldest first."""
        decoder: msgspec.msgpack.Decoder[_Keys | _Shadow] = msgspec.msgpack.Decoder(_Keys | _Shadow)
        for position, payload in records:
            found = decoder.decode(payload)
            if isinstance(found, _Keys):
                start = 0
                for item in found.requests:
                    if item.key:
                        self._keep((found.loop, item.key), Answered(item.body, position, start, item.rows))
                    start += item.rows

    def _keep(self, key: tuple[str, str], value: Answered | Waiting) -> None:
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)


def tail(log: Log) -> Iterable[tuple[int, bytes]]:
    """Return the records of the log's last segment and of the one before, without those older."""
    segment = (log.end() >> 32) - 1
    return log.read(segment << 32 if segment > 0 else -1)
