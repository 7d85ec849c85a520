"""The label join over real logs: a prediction log and the row log of a data service."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import NotFound
from kilter.data.declare import Label, Table
from kilter.data.service import DataService
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.engines.tables.store import TableStore
from kilter.monitoring.labels import LabelJoin
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.records import Item, PredictionBatch, ShadowBatch

START = datetime(2013, 3, 1, tzinfo=UTC)
FLIGHTS = Table("flights", key="flight_id", time="sched_dep")
IS_LATE = Label(lambda: pl.col("arr_delay") > 15, "arr_time")
HOUR = timedelta(hours=1)


class World:
    """A front that answers, an airport that reports."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START)
        self.database = Database.open(f"sqlite:///{folder / 'kilter.db'}")
        self.database.migrate()
        self.log = Log.open(folder / "rows")
        self.data = DataService(self.database, TableStore.open(str(folder / "tables")), self.log, self.clock)
        self.data.declare(FLIGHTS, ("arr_time",))
        self.folder = folder / "predictions"
        self.front = PredictionLog.open(self.folder, "main", readonly=False)
        self.joins: list[LabelJoin] = []

    def predict(
        self,
        *keys: str,
        loop: str = "late",
        request: str = "",
        version: int = 1,
        front: PredictionLog | None = None,
        arm: str = "champion",
    ) -> int:
        return (front or self.front).append(
            PredictionBatch(
                at=self.clock.now(), loop=loop, generation=1, share=0, keys=list(keys), times=[self.clock.now()] * len(keys),
                arms=[arm] * len(keys), versions=[version] * len(keys), values=[0.25] * len(keys),
                inputs={"hour": [6.0] * len(keys), "carrier": ["AA"] * len(keys)}, requests=[Item(len(keys), request)],
                latency_us=10,
            )
        )  # fmt: skip

    def land(self, key: str, delay: int | None) -> None:
        now = self.clock.now().isoformat()
        row = {"flight_id": key, "sched_dep": START.isoformat(), "arr_time": now}
        self.data.append("flights", [row if delay is None else {**row, "arr_delay": delay}])

    def join(self, **options: timedelta) -> LabelJoin:
        join = LabelJoin(self.folder, self.data, **options)
        join.watch("late", FLIGHTS, IS_LATE)
        self.joins.append(join)
        return join

    def close(self) -> None:
        for join in self.joins:
            join.close()
        self.front.close()
        self.log.close()
        self.database.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def rows(frame: pl.DataFrame, *names: str) -> list[tuple[object, ...]]:
    return list(frame.select(names).iter_rows())


def test_a_label_joins_its_prediction_when_it_comes(world: World) -> None:
    join = world.join()
    world.predict("a", "b", "c")
    assert join.catch_up() == 3
    assert join.joined("late").height == 0
    assert join.predictions("late")["label"].to_list() == [None, None, None]
    world.clock.advance(HOUR)
    world.land("b", 40)
    world.clock.advance(HOUR)
    world.land("a", 3)
    assert join.catch_up() == 2
    found = join.joined("late")
    assert rows(found, "key", "label", "label_at") == [("b", 1.0, START + HOUR), ("a", 0.0, START + 2 * HOUR)]
    assert found["position"].is_sorted()
    assert {"id", "at", "time", "version", "arm", "share", "value", "x_hour", "x_carrier", "shadow_version"} <= {
        *found.columns
    }
    assert join.catch_up() == 0


def test_a_correction_changes_the_label_and_keeps_its_place(world: World) -> None:
    join = world.join()
    world.predict("a", "b")
    world.land("a", 40)
    world.land("b", 40)
    join.catch_up()
    before = join.joined("late")
    world.clock.advance(HOUR)
    world.land("a", 2)
    join.catch_up()
    after = join.joined("late")
    assert rows(after, "key", "label") == [("a", 0.0), ("b", 1.0)]
    assert after.drop("label").equals(before.drop("label"))


def test_duplicates_of_a_row_change_nothing(world: World) -> None:
    join = world.join()
    world.predict("a")
    for _ in range(3):
        world.land("a", 40)
    join.catch_up()
    once = join.joined("late")
    world.land("a", 40)
    join.catch_up()
    assert once.height == 1
    assert join.joined("late").equals(once)


def test_a_cancelled_flight_is_censored_and_counted(world: World) -> None:
    join = world.join()
    world.predict("cancelled", "flying", "landed")
    world.land("cancelled", None)
    world.land("landed", 1)
    join.catch_up()
    seen = join.maturity("late")
    assert (seen.predictions, seen.labelled, seen.censored, seen.open) == (3, 1, 1, 1)
    assert seen.share == pytest.approx(1 / 3)


def test_a_retry_under_the_same_request_counts_once(world: World) -> None:
    join = world.join()
    world.predict("a", "b", request="r1")
    world.predict("a", "b", request="r1")
    world.predict("a", request="r2")
    world.predict("a")
    world.predict("a")
    world.land("a", 40)
    join.catch_up()
    assert rows(join.predictions("late"), "key") == [("a",), ("b",), ("a",), ("a",), ("a",)]
    assert join.joined("late").height == 4


def test_a_prediction_that_comes_after_its_label_joins(world: World) -> None:
    join = world.join()
    world.land("a", 40)
    join.catch_up()
    world.clock.advance(HOUR)
    world.predict("a")
    join.catch_up()
    assert rows(join.joined("late"), "key", "label") == [("a", 1.0)]


def test_a_restart_reads_the_same_pairs(world: World) -> None:
    running = world.join()
    for hour in range(30):
        world.predict(f"f{hour}", f"g{hour}", request=f"r{hour % 7}", version=1 + hour % 2)
        world.land(f"f{hour // 2}", hour)
        if hour % 4 == 0:
            running.catch_up()
        world.clock.advance(HOUR)
    running.catch_up()
    fresh = world.join()
    fresh.catch_up()
    assert fresh.joined("late").equals(running.joined("late"))
    assert fresh.predictions("late", version=2).equals(running.predictions("late", version=2))
    assert fresh.joined("late", version=2)["version"].unique().to_list() == [2]


def test_catching_up_stops_at_a_moment(world: World) -> None:
    join = world.join()
    world.predict("a")
    world.land("a", 40)
    world.clock.advance(2 * HOUR)
    world.predict("b")
    world.land("b", 40)
    join.catch_up(START + HOUR)
    assert rows(join.predictions("late"), "key", "label") == [("a", 1.0)]
    join.catch_up(START + 2 * HOUR)
    assert rows(join.predictions("late", since=START + HOUR), "key", "label") == [("b", 1.0)]
    assert rows(join.predictions("late", until=START + HOUR), "key", "label") == [("a", 1.0)]


def test_a_bulk_load_brings_labels_too(world: World) -> None:
    join = world.join()
    world.predict("a", "b")
    world.land("a", 2)
    frame = pl.DataFrame(
        {"flight_id": ["a", "b"], "sched_dep": [START] * 2, "arr_delay": [50, 60], "arr_time": [START] * 2}
    )
    world.data.ingest("flights", frame)
    world.land("b", 1)
    join.catch_up()
    assert sorted(rows(join.joined("late"), "key", "label")) == [("a", 1.0), ("b", 0.0)]


def test_a_shadow_stands_beside_the_predictions_it_was_copied_from(world: World) -> None:
    join = world.join()
    position = world.predict("a", "b", "c")
    world.front.append(
        ShadowBatch(at=START, loop="late", position=position, rows=[0, 2], version=2, values=[0.5, 0.75])
    )
    join.catch_up()
    found = join.predictions("late")
    assert rows(found, "key", "shadow_version", "shadow_value") == [("a", 2, 0.5), ("b", None, None), ("c", 2, 0.75)]


def test_several_fronts_and_loops_are_kept_apart(world: World) -> None:
    join = world.join()
    second = PredictionLog.open(world.folder, "second", readonly=False)
    world.predict("a", loop="late")
    world.predict("a", loop="other")
    world.predict("b", loop="late", front=second)
    join.catch_up()
    join.watch("other", FLIGHTS, IS_LATE)
    join.watch("late", FLIGHTS, Label(lambda: pl.col("arr_delay") > 15, "arr_time"))
    join.catch_up()
    second.close()
    assert sorted(rows(join.predictions("late"), "key")) == [("a",), ("b",)]
    assert rows(join.predictions("other"), "key") == [("a",)]
    with pytest.raises(NotFound, match="'nothing'"):
        join.joined("nothing")


def test_another_label_starts_anew(world: World) -> None:
    join = world.join()
    world.predict("a")
    world.land("a", 20)
    join.catch_up()
    assert rows(join.joined("late"), "label") == [(1.0,)]
    join.watch("late", FLIGHTS, Label(lambda: pl.col("arr_delay") > 30, "arr_time"))
    join.catch_up()
    assert rows(join.joined("late"), "label") == [(0.0,)]


def test_what_is_older_than_the_retention_is_forgotten(world: World) -> None:
    join = world.join(retention=timedelta(days=10))
    for day in range(40):
        keys = [f"{day}-{number}" for number in range(600)]
        position = world.predict(*keys)
        world.front.append(
            ShadowBatch(at=world.clock.now(), loop="late", position=position, rows=[5], version=2, values=[0.5])
        )
        world.land(f"{day}-1", 40)
        join.catch_up()
        world.clock.advance(timedelta(days=1))
    kept = join.predictions("late")
    assert 11 * 600 <= kept.height <= 11 * 600 + 4096
    recent = join.joined("late", since=START + timedelta(days=29))
    assert rows(recent, "key", "label") == [(f"{day}-1", 1.0) for day in range(29, 40)]
    shadowed = kept.filter(pl.col("shadow_version") == 2)
    assert all(key.endswith("-5") for key in shadowed["key"])
    assert shadowed.height == kept.height // 600 + (kept.height % 600 > 594)
    fresh = world.join(retention=timedelta(days=10))
    fresh.catch_up()
    assert fresh.joined("late", since=START + timedelta(days=29)).equals(recent)


def test_a_version_that_was_asked_by_name_is_on_trial_and_not_watched(world: World) -> None:
    join = world.join()
    world.predict("a", "b")
    world.predict("a", "c", version=2, arm="direct")
    world.land("a", 30)
    world.land("c", 30)
    join.catch_up()
    found = join.predictions("late")
    assert found["key"].to_list() == ["a", "b"]
    assert found["label"].to_list() == [1.0, None]
    assert join.maturity("late").predictions == 2
