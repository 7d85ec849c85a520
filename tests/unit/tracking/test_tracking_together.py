from __future__ import annotations

import math
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import Unavailable
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.columns import BLOCK, Points
from kilter.tracking.records import MetricPoint, spelled
from kilter.tracking.service import RunService
from kilter.tracking.together import Batch

MS = 1000


@pytest.fixture
def runs(database: Database, clock: ManualClock, tmp_path: Path) -> RunService:
    wall = ManualClock(clock.now() + timedelta(days=4000))
    return RunService(database, ObjectStore.open(str(tmp_path / "objects")), clock, wall)


@pytest.fixture
def together(runs: RunService):
    found = runs.together()
    yield found
    found.close()


def curve(first: int, *values: float) -> Points:
    return Points(
        list(range(first, first + len(values))), list(values), [MS * (first + one) for one in range(len(values))]
    )


def test_a_group_is_written_each_to_its_own_run(runs, together):
    one, two = runs.start("x").id, runs.start("x").id
    assert (
        together.write(
            [
                Batch(one, {"loss": curve(0, 0.5)}, {"lr": "0.1"}, {"who": "me"}),
                Batch(two, {"loss": curve(0, 0.25, math.nan, math.inf)}),
                Batch(one, {"loss": curve(1, 0.4)}),
            ]
        )
        == [True] * 3
    )
    run = runs.get(one)
    assert (run.params, run.tags) == ({"lr": "0.1"}, {"who": "me"})
    assert [point.value for point in runs.metrics(one, "loss")] == [0.5, 0.4]
    assert [point.value for point in runs.metrics(two, "loss")] == [0.25, "NaN", "Infinity"]
    (summary,) = runs.get(two).metrics
    assert (summary.count, summary.last, summary.least, summary.greatest) == (3, "Infinity", 0.25, 0.25)


def test_one_that_fails_leaves_nothing_and_harms_nobody(runs, together):
    good, gone, ended = runs.start("x").id, runs.start("x").id, runs.start("x").id
    runs.log_batch(good, params={"lr": "0.1"})
    runs.delete(gone)
    runs.finish(ended)
    asked = [
        Batch(good, {"a": curve(0, 1.0)}),
        Batch(
            good, {"b": curve(0, 1.0)}, {"new": "1", "lr": "0.2"}
        ),  # a param that would change, behind one that is fine
        Batch("run_nowhere", {"a": curve(0, 1.0)}),
        Batch(gone, {"a": curve(0, 1.0)}),
        Batch(good, {"a": curve(1, 2.0), "<>": curve(0, 1.0)}),
        Batch(ended, {"late": curve(0, 1.0)}),
        Batch(good, {"a": curve(2, 3.0)}),
    ]
    assert together.write(asked) == [True, False, False, False, False, True, True]
    found = runs.get(good)
    assert found.params == {"lr": "0.1"}
    assert {metric.name: metric.count for metric in found.metrics} == {"a": 2}
    assert [point.value for point in runs.metrics(good, "a")] == [1.0, 3.0]
    assert [point.value for point in runs.metrics(ended, "late")] == [1.0]
    assert together.write([asked[1]]) == [False]  # alone as well
    assert together.write([asked[0]]) == [True]


def test_what_nobody_foresaw_is_rolled_back_for_all_and_said_of_all(runs, together):
    run = runs.start("x").id
    odd = Batch(run, {"a": Points([2**70], [1.0], [0])})  # no column holds that step
    assert together.write([Batch(run, {"a": curve(0, 1.0)}), odd]) == [False, False]
    assert runs.get(run).metrics == ()
    assert together.write([Batch(run, {"a": curve(0, 1.0)})]) == [True]


def test_a_batch_that_is_sent_again_is_there_once(runs, together):
    run = runs.start("x").id
    long, short = curve(0, *(step / 7 for step in range(BLOCK * 3))), curve(0, 1.0, 2.0)
    for _ in range(3):
        assert together.write([Batch(run, {"long": long, "short": short}), Batch(run, {"short": short})]) == [
            True,
            True,
        ]
    # half of it was there: the rest is added
    more = Points(*(column + other for column, other in zip(long, curve(BLOCK * 3, *([0.5] * BLOCK)), strict=True)))
    assert together.write([Batch(run, {"long": more})]) == [True]
    assert {metric.name: metric.count for metric in runs.get(run).metrics} == {"long": BLOCK * 4, "short": 2}
    assert [point.step for point in runs.metrics(run, "long")] == list(range(BLOCK * 4))
    # another value at a step that is there is another point
    assert together.write([Batch(run, {"long": curve(5, 99.0)})]) == [True]
    assert [point.value for point in runs.metrics(run, "long") if point.step == 5] == [5 / 7, 99.0]


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK * 5])
def test_it_is_what_log_batch_leaves(runs, together, clock, count):
    one, two = runs.start("x").id, runs.start("x").id
    values = [0.1, math.nan, -math.inf, *(step / 3 for step in range(count))][:count]
    points = Points([step // 2 for step in range(count)], values, [MS * step for step in range(count)])
    assert together.write([Batch(one, {"m": points}, {"p": "1"}, {"t": "x"})]) == [True]
    epoch = clock.now().replace(year=1970, month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    given = [
        MetricPoint(name="m", value=spelled(value), step=step, at=epoch + timedelta(microseconds=at))
        for step, value, at in zip(*points, strict=True)
    ]
    runs.log_batch(two, given, {"p": "1"}, {"t": "x"})
    first, second = runs.get(one), runs.get(two)
    assert (first.params, first.tags, first.metrics) == (second.params, second.tags, second.metrics)
    assert runs.metrics(one, "m") == runs.metrics(two, "m")
    assert len(runs.metrics(one, "m")) == count


def test_a_store_that_is_busy_for_too_long_is_said_to_all_and_forgotten(tmp_path, clock):
    Database.open(f"sqlite:///{tmp_path}/kilter.db").migrate()
    database = Database.open(f"sqlite:///{tmp_path}/kilter.db", busy_seconds=0.05)
    runs = RunService(database, ObjectStore.open(str(tmp_path / "objects")), clock)
    run, together = runs.start("x").id, runs.together()
    other = sqlite3.connect(tmp_path / "kilter.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="another process is writing"):
        together.write([Batch(run, {"a": curve(0, 1.0)}), Batch(run, {"a": curve(1, 1.0)})])
    other.execute("ROLLBACK")
    other.close()
    assert together.write([Batch(run, {"a": curve(0, 1.0)})]) == [True]
    assert len(runs.metrics(run, "a")) == 1
    together.close()
    database.close()


def test_others_write_beside_it(runs, together):
    run = runs.start("x").id

    def log() -> None:
        for step in range(50):
            runs.log_batch(run, [MetricPoint(name="b", value=1.0, step=step)])

    beside = threading.Thread(target=log)
    beside.start()
    for step in range(50):
        assert together.write([Batch(run, {"a": curve(step, 1.0)}), Batch(run, tags={"t": str(step)})]) == [True, True]
    beside.join()
    assert {metric.name: metric.count for metric in runs.get(run).metrics} == {"a": 50, "b": 50}
