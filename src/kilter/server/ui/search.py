"""Looking for predictions in the logs, newest first and a page at a time.

A log is in the order of time, so a span of time is found by the first records of its segments. One page reads a bounded number of
segments; a search that has not found enough by then says how far back it has looked, and goes on from there when asked.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from kilter.core.errors import Expired, InvalidInput, KilterError, NotFound
from kilter.engines.streams.log import Log
from kilter.server.ui.endpoint_records import Found, Results, Search
from kilter.serving.recording.packing import spread
from kilter.serving.recording.predictions import fronts, parse_id, prediction_id
from kilter.serving.records import Keys, Run

PAGE = 50
BUDGET = 6
"""How many segments of a front one page reads: at most 96 MiB."""


class Batch(msgspec.Struct, tag="p"):
    """What is looked at in a record; inputs are passed over."""

    at: datetime
    loop: str
    keys: list[str]
    arms: list[str]
    versions: list[int]
    values: list[float]
    latency_us: int
    requests: list[list[object]] = []
    width: int = 1


class Packed(msgspec.Struct, tag="p2"):
    """The same of the second layout."""

    at: datetime
    loop: str
    keys: list[str | Run]
    arms: list[str]
    versions: list[int]
    values: bytes
    latency_us: int
    requests: list[list[object]] = []
    width: int = 1

    def whole(self) -> Batch:
        """Return it with a value per row."""
        keys = list(Keys(self.keys))
        arms, versions = spread(self.arms, len(keys)), spread(self.versions, len(keys))
        values = array("d", self.values).tolist()
        return Batch(self.at, self.loop, keys, arms, versions, values, self.latency_us, self.requests, self.width)


class Copy(msgspec.Struct, tag="s"):
    """A shadow's record: not an answer."""

    at: datetime


_DECODER: msgspec.msgpack.Decoder[Batch | Packed | Copy] = msgspec.msgpack.Decoder(Batch | Packed | Copy)


@dataclass
class _Reading:
    """How far one page has read one front's log.

    Args:
        left: How many segments it may still read.
        stopped: Where it had to stop: what it has not read is not newer.
        place: A place in the log behind all that it has not read.
    """

    left: int
    stopped: datetime | None = None
    place: int = 0


def search(folder: Path, wanted: Search, limit: int = PAGE, budget: int = BUDGET) -> Results:
    """Return a page of the predictions that fit, newest first.

    Args:
        folder: The folder with one folder per front.
        wanted: What is looked for.
        limit: At most so many.
        budget: Read at most so many segments of each front.

    Raises:
        InvalidInput: When the place to go on from is none.
    """
    places = _places(wanted.before)
    readings = {front: _Reading(budget) for front in fronts(folder) if _reads(wanted, front)}
    streams = [_front(folder / front, front, wanted, one, places.get(front)) for front, one in readings.items()]
    found: list[Found] = []
    more = False
    for one in heapq.merge(*streams, key=lambda one: one.at, reverse=True):
        if len(found) == limit:
            more = True
            break
        found.append(one)
    for stream in streams:
        stream.close()
    last = {front: prediction_id(front, *place) for front, place in places.items()}
    stops = [] if more else [one.stopped for one in readings.values() if one.stopped is not None]
    if stops:
        # What others answered before the latest stop comes after what was not read there: it belongs to the next page.
        stop = max(stops)
        found = [one for one in found if one.at >= stop]
    for one in found:
        last[parse_id(one.id)[0]] = one.id
    if not stops:
        return Results(found=tuple(found), older=tuple(sorted(last.values())) if more else ())
    for front, reading in readings.items():
        if reading.stopped == stop:
            last[front] = prediction_id(front, reading.place, 0)
    return Results(found=tuple(found), older=tuple(sorted(last.values())), back_to=stop)


def _reads(wanted: Search, front: str) -> bool:
    return not wanted.id or wanted.id.startswith(f"{front}-")


def _places(before: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    try:
        return {front: (position, row) for front, position, row in map(parse_id, before)}
    except NotFound as error:
        raise InvalidInput("that is no place to go on from", where="before", allowed=error.allowed) from error


def _front(
    folder: Path, front: str, wanted: Search, reading: _Reading, before: tuple[int, int] | None
) -> Generator[Found]:
    """Yield what fits in one front's log, newest first."""
    log = Log.open(folder, readonly=True)
    try:
        following: datetime | None = None
        for segment in reversed([one for one in log.segments() if one.size]):
            if before is not None and segment.number > before[0] >> 32:
                continue
            first = _first(log, segment.number)
            if first is None:
                continue
            if wanted.since is not None and following is not None and following < wanted.since:
                break
            following = first
            if wanted.until is not None and first >= wanted.until:
                continue
            if reading.left <= 0:
                return
            reading.left -= 1
            reading.stopped, reading.place = first, (segment.number << 32) - 1
            with suppress(Expired):  # removed while it was looked for
                yield from reversed(_segment(log, segment.number, front, wanted, before))
        reading.stopped = None  # it was read to its beginning
    finally:
        log.close()


def _first(log: Log, segment: int) -> datetime | None:
    try:
        return _DECODER.decode(log.first(segment)[1]).at
    except (KilterError, msgspec.MsgspecError):
        return None


def _segment(log: Log, number: int, front: str, wanted: Search, before: tuple[int, int] | None) -> list[Found]:
    """Return what fits in one segment, oldest first."""
    found: list[Found] = []
    base = log.first(number)
    for position, payload in _records(log, number, base):
        if before is not None and position > before[0]:
            break
        try:
            batch = _DECODER.decode(payload)
        except msgspec.MsgspecError:
            continue
        if isinstance(batch, Copy) or batch.loop != wanted.loop or not _timely(batch.at, wanted):
            continue
        if isinstance(batch, Packed):
            batch = batch.whole()
        for row in range(len(batch.keys)):
            if before is not None and (position, row) >= before:
                break
            if _fits(batch, row, wanted):
                found.append(_found(front, position, batch, row))
    return found


def _records(log: Log, number: int, base: tuple[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the records of a segment, also of the one that is written to."""
    yield base
    for position, payload in log.read(base[0]):
        if position >> 32 != number:
            return
        yield position, payload


def _timely(at: datetime, wanted: Search) -> bool:
    return (wanted.since is None or at >= wanted.since) and (wanted.until is None or at < wanted.until)


def _fits(batch: Batch, row: int, wanted: Search) -> bool:
    if wanted.key and batch.keys[row] != wanted.key:
        return False
    if wanted.arm and batch.arms[row] != wanted.arm:
        return False
    return wanted.version is None or batch.versions[row] == wanted.version


def _found(front: str, position: int, batch: Batch, row: int) -> Found:
    return Found(
        id=prediction_id(front, position, row),
        at=batch.at,
        key=batch.keys[row],
        version=batch.versions[row],
        arm=batch.arms[row],
        value=batch.values[row * batch.width],
        client=_client(batch, row),
        latency_us=batch.latency_us,
    )


def _client(batch: Batch, row: int) -> str:
    """Return who asked for a row: the fourth part of the request that it came in."""
    for item in batch.requests:
        rows = item[0] if item and isinstance(item[0], int) else 0
        if row < rows:
            return str(item[3]) if len(item) > 3 else ""
        row -= rows
    return ""
