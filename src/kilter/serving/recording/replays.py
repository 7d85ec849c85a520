"""Requests that are sent again under the same Idempotency-Key get the same answer, and no second record.

The log is the memory: a key maps to where its answer was recorded, and the newest keys are found again from the log's end
when a front starts. Source: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from kilter.core.errors import InvalidInput, KilterError
from kilter.engines.streams.log import Log
from kilter.serving.records import Item, PredictionBatch

Send = Callable[[int, int, PredictionBatch], None]
"""Takes the log position, the request's first row in the record, and the record."""
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


class _Packed(_Keys, tag="p2"):
    """The same of the second layout."""


class _Shadow(msgspec.Struct, tag="s"):
    """A record without keys."""


_DECODER: msgspec.msgpack.Decoder[_Keys | _Packed | _Shadow] = msgspec.msgpack.Decoder(_Keys | _Packed | _Shadow)
_MOST_BYTES = 32 << 20
"""A front that starts reads no more of its log than this, and the segment in which it is reached."""


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

    def rebuild(self, log: Log) -> None:
        """Find the newest keys in a log, as its writer: from its end backwards, until there are enough.

        Args:
            log: The front's predictions. How long a segment is says nothing of how many keys are in it: after a change of
                day, or with retention, a segment may hold a single record.
        """
        parts: list[list[tuple[tuple[str, str], Answered]]] = []
        found = size = 0
        for segment in reversed(log.segments()):
            part = [one for position, payload in log.records(segment.number) for one in _answered(position, payload)]
            parts.append(part)
            found, size = found + len(part), size + segment.size
            if found >= self._most or size >= _MOST_BYTES:
                break
        for part in reversed(parts):
            for key, answered in part:
                self._keep(key, answered)

    def _keep(self, key: tuple[str, str], value: Answered | Waiting) -> None:
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)


def _answered(position: int, payload: bytes) -> Iterator[tuple[tuple[str, str], Answered]]:
    found = _DECODER.decode(payload)
    if isinstance(found, _Keys):
        start = 0
        for item in found.requests:
            if item.key:
                yield (found.loop, item.key), Answered(item.body, position, start, item.rows)
            start += item.rows
