"""How much an endpoint was asked, per minute: the prediction logs followed and counted, never kept.

The page reads only what was added since it looked last. At its first look it reads the newest segments of each log and says from
when on it knows; a minute costs a few hundred bytes, and only so many are remembered.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kilter.core.errors import Expired, KilterError, NotFound
from kilter.engines.streams.log import Log
from kilter.server.ui.endpoint_records import Flow, Layer, Line, SpanName
from kilter.serving.recording.packing import spread
from kilter.serving.recording.predictions import fronts

SPANS: Mapping[SpanName, tuple[int, int]] = {"1h": (3600, 60), "24h": (86400, 900), "7d": (604800, 7200)}
"""How long each span is, and each of its bins, in seconds."""
ROLES = ("champion", "challenger", "direct", "fallback", "constant")
BYTES = 48 << 20
"""So much of each log is read at the first look, the newest files."""
MINUTES = 11_000
"""A little more than the longest span has."""
_FRESH = 0.5
_RATIO = math.log(1.08)
"""Latencies are counted in buckets of 8 %, so that a percentile is off by 4 % at most."""


class Seen(msgspec.Struct, tag="p"):
    """What is counted of a record; the rest is passed over."""

    at: datetime
    loop: str
    arms: list[str]
    versions: list[int]
    latency_us: int
    requests: list[tuple[object, ...]] = []


class Packed(Seen, tag="p2"):
    """The same of the second layout: an arm or a version may stand once for all rows."""


class Copied(msgspec.Struct, tag="s"):
    """A shadow's record: not an answer."""


_DECODER: msgspec.msgpack.Decoder[Seen | Packed | Copied] = msgspec.msgpack.Decoder(Seen | Packed | Copied)


@dataclass
class Minute:
    """One minute of an endpoint: rows by arm and version, and requests by how long they took."""

    requests: int = 0
    rows: Counter[tuple[str, int]] = field(default_factory=Counter)
    took: Counter[int] = field(default_factory=Counter)
    last: float = 0.0

    def plus(self, other: Minute) -> Minute:
        """Return both together; neither is changed, because pages may be looking at them."""
        return Minute(
            self.requests + other.requests, self.rows + other.rows, self.took + other.took, max(self.last, other.last)
        )


@dataclass
class Counts:
    """What is known of an endpoint: its minutes since 1970, in no order."""

    minutes: dict[int, Minute] = field(default_factory=dict)
    since: datetime | None = None

    def add(self, seen: Seen) -> None:
        """Count a record."""
        at = seen.at.timestamp()
        minute = self.minutes.setdefault(int(at // 60), Minute())
        requests = len(seen.requests) or 1
        minute.requests += requests
        arms, versions = seen.arms, seen.versions
        if isinstance(seen, Packed):
            rows = sum(item[0] for item in seen.requests if isinstance(item[0], int))
            arms, versions = spread(arms, rows), spread(versions, rows)
        minute.rows.update(zip(arms, versions, strict=True))
        minute.took[bucket(seen.latency_us)] += requests
        minute.last = max(minute.last, at)

    def take(self, other: Counts) -> None:
        """Take in what was counted elsewhere; the oldest minutes give way to what is too much."""
        for number, minute in other.minutes.items():
            mine = self.minutes.get(number)
            self.minutes[number] = minute if mine is None else mine.plus(minute)
        if len(self.minutes) > MINUTES:
            first = sorted(self.minutes)[MINUTES // 10]
            self.minutes = {number: one for number, one in self.minutes.items() if number >= first}
            self.since = datetime.fromtimestamp(first * 60, UTC)


class Tally:
    """Follows the prediction logs of a folder.

    Args:
        folder: The folder with one folder per front.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, int] = {}
        self._counts: dict[str, Counts] = {}
        self._since: datetime | None = None
        self._lock = threading.Lock()
        self._taken = -_FRESH

    def of(self, loop: str) -> Counts:
        """Return what is known of an endpoint now."""
        with self._lock:
            if time.monotonic() - self._taken >= _FRESH:
                for front in fronts(self._folder):
                    with suppress(KilterError):  # what can't be read is not counted; `kilter doctor` names it
                        self._follow(front)
                self._taken = time.monotonic()
            found = self._counts.get(loop, Counts())
            known = [one for one in (found.since, self._since) if one is not None]
            return Counts(dict(found.minutes), max(known, default=None))

    def _follow(self, front: str) -> None:
        log = Log.open(self._folder / front, readonly=True)
        try:
            after = self._places.get(front)
            if after is None:
                after = self._begin(front, log)
            try:
                self._count(front, log.read(after))
            except Expired:  # it stood still for so long that its place was removed
                self._count(front, log.read(self._begin(front, log)))
        finally:
            log.close()

    def _begin(self, front: str, log: Log) -> int:
        """Return the place before the newest segments; what lies before them is not known."""
        segments = [one for one in log.segments() if one.size]
        kept = segments[-1:]
        for one in reversed(segments[:-1]):
            if sum(other.size for other in (one, *kept)) > BYTES:
                break
            kept.insert(0, one)
        if len(kept) == len(segments) and log.begin().removed < 0:
            return -1
        for one in kept:
            with suppress(NotFound):
                position, payload = log.first(one.number)
                self._count(front, [(position, payload)])
                seen = _DECODER.decode(payload)
                if isinstance(seen, Seen):
                    self._since = seen.at if self._since is None else max(self._since, seen.at)
                return position
        return -1

    def _count(self, front: str, records: Iterable[tuple[int, bytes]]) -> None:
        fresh: dict[str, Counts] = {}
        try:
            for position, payload in records:
                with suppress(msgspec.MsgspecError):
                    seen = _DECODER.decode(payload)
                    if isinstance(seen, Seen):
                        fresh.setdefault(seen.loop, Counts()).add(seen)
                self._places[front] = position
        finally:  # what was read before a damage is counted, and never again
            for loop, counts in fresh.items():
                self._counts.setdefault(loop, Counts()).take(counts)


# ---------------------------------------------------------------- pure


def bucket(micros: int) -> int:
    """Return the bucket of a latency."""
    return int(math.log(max(1, micros)) / _RATIO)


def quantile(took: Mapping[int, int], part: float) -> float | None:
    """Return the latency in milliseconds below which a part of the requests stayed; None without any."""
    total = sum(took.values())
    left = part * total
    for place in sorted(took):
        left -= took[place]
        if left <= 1e-9:
            return float(f"{math.exp((place + 0.5) * _RATIO) / 1000:.3g}")
    return None


def role_of(arm: str, version: int) -> str:
    """Return who a row was answered by, as a chart tells them apart."""
    if arm == "fallback":
        return "constant" if version == 0 else "fallback"
    return arm if arm in ROLES else "direct"


def flow(counts: Counts, now: datetime, span: SpanName) -> Flow:
    """Return an endpoint's last hour, day or week in bins.

    Args:
        counts: What is known of it.
        now: The end of the span.
        span: How far it goes back.
    """
    length, step = SPANS[span]
    bins = length // step
    end = (int(now.timestamp()) // step + 1) * step
    start = end - length
    rows: dict[str, list[int]] = {role: [0] * bins for role in ROLES}
    took: list[Counter[int]] = [Counter() for _ in range(bins)]
    requests, first, last = 0, None, 0.0
    for number, minute in counts.minutes.items():
        place = (number * 60 - start) // step
        if not 0 <= place < bins:
            continue
        requests += minute.requests
        first = number * 60 if first is None else min(first, number * 60)
        last = max(last, minute.last)
        took[place].update(minute.took)
        for (arm, version), count in minute.rows.items():
            rows[role_of(arm, version)][place] += count
    whole: Counter[int] = Counter()
    for one in took:
        whole.update(one)
    total = sum(map(sum, rows.values()))
    minutes = 1.0 if first is None else max(1.0, (min(end, now.timestamp()) - first) / 60)
    since = counts.since if counts.since is not None and counts.since.timestamp() > start else None
    return Flow(
        span=span,
        start=datetime.fromtimestamp(start, UTC),
        step=step,
        complete_since=since,
        requests=requests,
        rows=total,
        per_minute=round(total / minutes, 2),
        p50=quantile(whole, 0.5),
        p95=quantile(whole, 0.95),
        p99=quantile(whole, 0.99),
        fallbacks=sum(rows["fallback"]),
        constants=sum(rows["constant"]),
        layers=tuple(Layer(name=role, role=role, counts=tuple(rows[role])) for role in ROLES if any(rows[role])),
        latency=tuple(
            Line(name=name, role=name, values=tuple(quantile(one, part) for one in took))
            for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        )
        if requests
        else (),
        newest=datetime.fromtimestamp(last, UTC) if last else None,
    )


def answered(counts: Counts, now: datetime, span: SpanName) -> Counter[tuple[str, int]]:
    """Return the rows of a span by arm and version."""
    length, step = SPANS[span]
    start = (int(now.timestamp()) // step + 1) * step - length
    found: Counter[tuple[str, int]] = Counter()
    for number, minute in counts.minutes.items():
        if number * 60 >= start:
            found.update(minute.rows)
    return found
