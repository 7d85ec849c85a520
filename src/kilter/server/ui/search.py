"""Looking for predictions in the logs, newest first and a page at a time.

A log is in the order of time, so a span of time is found by the first records of its segments. One page reads a bounded number of
segments; a search that has not found enough by then says how far back it has looked, and goes on from there when asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from kilter.core.errors import Expired, InvalidInput, KilterError, NotFound
from kilter.engines.streams.log import Log
from kilter.server.ui.endpoint_records import Found, Results, Search
from kilter.serving.recording.predictions import fronts, parse_id, prediction_id

PAGE = 50
BUDGET = 6
"""How many segments one page reads: at most 96 MiB."""


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


class Copy(msgspec.Struct, tag="s"):
    """A shadow's record: not an answer."""

    at: datetime


_DECODER: msgspec.msgpack.Decoder[Batch | Copy] = msgspec.msgpack.Decoder(Batch | Copy)


@dataclass
class _Budget:
    """What one page may still read, and how far back it came where it had to stop."""

    segments: int
    stopped: datetime | None = None


def search(folder: Path, wanted: Search, limit: int = PAGE, budget: int = BUDGET) -> Results:
    """Return a page of the predictions that fit, newest first.

    Args:
        folder: The folder with one folder per front.
        wanted: What is looked for.
        limit: At most so many.
        budget: Read at most so many segments.

    Raises:
        InvalidInput: When the place to go on from is none.
    """
    places = _places(wanted.before)
    left = _Budget(budget)
    streams = [
        _front(folder / front, front, wanted, left, places.get(front))
        for front in fronts(folder)
        if _reads(wanted, front)
    ]
    merged = heapq.merge(*streams, key=lambda one: one.at, reverse=True)
    found: list[Found] = []
    more = False
    for one in merged:
        if len(found) == limit:
            more = True
            break
        found.append(one)
    for stream in streams:
        stream.close()
    if left.stopped is not None and not more:
        # One front's log was left there, so what others answered before belongs to the next page.
        return Results(found=tuple(one for one in found if one.at >= left.stopped), back_to=left.stopped)
    last = {front: prediction_id(front, *place) for front, place in places.items()}
    for one in found:
        last[parse_id(one.id)[0]] = one.id
    return Results(found=tuple(found), older=tuple(sorted(last.values())) if more else ())


def _reads(wanted: Search, front: str) -> bool:
    return not wanted.id or wanted.id.startswith(f"{front}-")


def _places(before: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    try:
        return {front: (position, row) for front, position, row in map(parse_id, before)}
    except NotFound as error:
        raise InvalidInput("that is no place to go on from", where="before", allowed=error.allowed) from error


def _front(folder: Path, front: str, wanted: Search, left: _Budget, before: tuple[int, int] | None) -> Generator[Found]:
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
                return
            following = first
            if wanted.until is not None and first >= wanted.until:
                continue
            if left.segments <= 0:
                left.stopped = following if left.stopped is None else max(left.stopped, following)
                return
            left.segments -= 1
            with suppress(Expired):  # removed while it was looked for
                yield from reversed(_segment(log, segment.number, front, wanted, before))
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
        if not isinstance(batch, Batch) or batch.loop != wanted.loop or not _timely(batch.at, wanted):
            continue
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
