"""Replay a year of flights as if it happened now: the clock moves, rows arrive, passengers ask, planes land."""

from __future__ import annotations

import http.client
import itertools
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import polars as pl
from examples.flights.airline import ARRIVED, DEPARTED

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_HOUR = 3_600_000_000
LEAD = timedelta(hours=1)
ASKED = ("flight_id", "sched_dep", "carrier", "origin", "dest", "hour", "weekday", "distance")
AHEAD = 48
"""How many hours are made ready while the ones before are played."""


@dataclass(frozen=True)
class Hour:
    """What one simulated hour brings, known at its end.

    Args:
        end: The end of the hour, UTC.
        parts: Parts of rows for the table: new schedules, departures, landings.
        asked: Flights that leave one hour later: their passengers ask now.
    """

    end: datetime
    parts: list[dict[str, object]]
    asked: list[dict[str, object]]


class Stream:
    """The flights of a year, cut into hours.

    Args:
        flights: All flights, with the times as UTC instants.
    """

    def __init__(self, flights: pl.DataFrame) -> None:
        self._asked = _Sorted(flights, "sched_dep", ASKED, shift=LEAD)
        self._departed = _Sorted(flights, "dep_time", DEPARTED)
        self._landed = _Sorted(flights, "arr_time", ARRIVED)

    def hours(self, start: datetime, end: datetime, *, minutes_for_hours: Switch) -> Iterator[Hour]:
        """Yield the hours of ``[start, end)``; while the switch is on, the producer sends minutes where hours belong."""
        ready: queue.Queue[Hour | None] = queue.Queue(AHEAD)
        threading.Thread(target=self._make, args=(start, end, ready), daemon=True).start()
        while (hour := ready.get()) is not None:
            if minutes_for_hours.on:
                for row in hour.parts:
                    if "dep_delay_h" in row:
                        row["dep_delay_h"] = row["dep_delay"]
            yield hour

    def _make(self, start: datetime, end: datetime, ready: queue.Queue[Hour | None]) -> None:
        streams = (self._asked, self._departed, self._landed)
        ends = itertools.count(1)
        for asked, departed, landed in zip(*(stream.hours(start, end) for stream in streams), strict=True):
            ready.put(Hour(start + next(ends) * HOUR, [*asked, *departed, *landed], asked))
        ready.put(None)


@dataclass
class Switch:
    """Something that can be turned on while the replay runs."""

    on: bool = False


class _Sorted:
    """Rows in the order of one time column, so that an hour is a slice."""

    def __init__(
        self, flights: pl.DataFrame, time_column: str, columns: tuple[str, ...], shift: timedelta = timedelta(0)
    ) -> None:
        rows = flights.filter(pl.col(time_column).is_not_null()).sort(time_column, "flight_id")
        self._times = (rows[time_column] - shift).dt.epoch("us").to_numpy()
        stamps = [name for name in columns if rows.schema[name].is_temporal()]
        self._rows = rows.select(columns).with_columns(pl.col(stamps).dt.strftime("%Y-%m-%dT%H:%M:%SZ"))

    def hours(self, start: datetime, end: datetime) -> Iterator[list[dict[str, object]]]:
        """Yield the rows of each hour, a day of them made at a time."""
        while start < end:
            stop = min(start + DAY, end)
            edges = np.arange(_micros(start), _micros(stop) + 1, _HOUR)
            places = np.searchsorted(self._times, edges).tolist()
            rows = self._rows[places[0] : places[-1]].to_dicts()
            for low, high in itertools.pairwise(places):
                yield rows[low - places[0] : high - places[0]]
            start = stop


@dataclass
class Traffic:
    """The passengers' side: real HTTP requests, every answer counted, nothing hidden by a retry.

    Args:
        host: Where the endpoint listens.
        port: Its port.
        loop: The loop that is asked.
        patience: Seconds during which a request without an answer is sent again, under the same idempotency key; 0 for none.
    """

    host: str
    port: int
    loop: str
    patience: float = 0.0
    requests: int = 0
    rows: int = 0
    failed: int = 0
    retried: int = 0
    fallbacks: int = 0
    errors: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _local: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, rows: list[dict[str, object]], key: str) -> list[dict[str, object]]:
        """Ask for predictions of one hour's flights; return them, or nothing when the request failed."""
        if not rows:
            return []
        body = msgspec.json.encode({"rows": rows})
        deadline = time.monotonic() + self.patience
        began = time.perf_counter()
        while True:
            answer, error = self._send(body, key)
            if answer is not None:
                break
            if time.monotonic() >= deadline:
                with self._lock:
                    self.requests += 1
                    self.failed += 1
                    self.errors.append(error)
                return []
            with self._lock:
                self.retried += 1
            time.sleep(0.05)
        predictions: list[dict[str, object]] = answer["predictions"]
        with self._lock:
            self.requests += 1
            self.rows += len(predictions)
            self.fallbacks += sum(prediction["arm"] == "fallback" for prediction in predictions)
            self.acknowledged.extend(str(prediction["id"]) for prediction in predictions)
            self.seconds.append(time.perf_counter() - began)
        return predictions

    def workers(self) -> list[dict]:
        """Return the loaded versions with the process ids of their workers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request("GET", "/models")
            found = msgspec.json.decode(connection.getresponse().read())
        finally:
            connection.close()
        mine = [endpoint for endpoint in found["endpoints"] if endpoint["loop"] == self.loop]
        return [version for endpoint in mine for version in endpoint.get("versions", [])]

    def _send(self, body: bytes, key: str) -> tuple[dict | None, str]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(
                "POST", f"/predict/{self.loop}", body, {"Content-Type": "application/json", "Idempotency-Key": key}
            )
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._local.connection = None
            return None, f"{type(error).__name__}: {error}"
        if response.status != http.client.OK:
            return None, f"HTTP {response.status}: {content[:300].decode(errors='replace')}"
        return msgspec.json.decode(content), ""


def _micros(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp() * 1_000_000)
