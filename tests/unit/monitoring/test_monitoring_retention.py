"""What the label join needs again after a restart stays, whatever retention removes."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from kilter.core.clock import ManualClock
from kilter.data.declare import Label, Table
from kilter.loop.workspace import Workspace
from kilter.monitoring.labels import LabelJoin
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.recording.retention import Keep, Retention
from kilter.serving.records import Item, PredictionBatch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FLIGHTS = Table("flights", "id", "at")
LATE = Label(lambda: pl.col("delay") > 15, known_at="landed")
RULE = Retention(predictions=Keep(age="10d"), rows=Keep(age="10d"))


@pytest.fixture
def store(tmp_path):
    with Workspace.open(tmp_path, ManualClock(NOW)) as workspace:
        workspace.data.declare(FLIGHTS, ["landed"])
        yield workspace


def live(store, days):
    """Each day one prediction of each of two loops, and the truth of the day before."""
    log = PredictionLog.open(store.prediction_logs(), readonly=False)
    for day in range(days):
        at = NOW + timedelta(days=day)
        store.clock.set(at)
        for loop in ("late", "other"):
            log.append(
                PredictionBatch(
                    at=at,
                    loop=loop,
                    generation=1,
                    share=0,
                    keys=[f"f{day}"],
                    times=[at],
                    arms=["champion"],
                    versions=[1],
                    values=[0.25],
                    inputs={"x": [float(day)]},
                    requests=[Item(1)],
                    latency_us=1,
                )
            )
        truth = {"id": f"f{day - 1}", "at": at, "landed": at, "delay": day % 40}
        store.data.take("flights", [truth])
    log.close()


def joined(store):
    join = LabelJoin(store.prediction_logs(), store.data, timedelta(days=20))
    join.watch("late", FLIGHTS, LATE)
    join.catch_up()
    return join


def test_a_restart_after_retention_reads_the_same_pairs(store):
    live(store, 50)
    join = joined(store)
    now = store.clock.now()
    before = join.predictions("late", since=now - timedelta(days=20))
    assert before["label"].null_count() == 1
    assert before.height == 21
    store.logs.mark("labels:late", {f"predictions/{front}": at for front, at in join.passed("late", now).items()})
    done = {one.log: one for one in store.logs.trim(RULE)}
    # The rule wants all but ten days; the join still needs the last twenty, and whole chunks of what is before.
    assert done["predictions/main"].held == ("labels:late",)
    assert done["rows"].segments == 39
    again = joined(store).predictions("late", since=now - timedelta(days=20))
    assert again.equals(before)


def test_a_join_that_has_not_looked_yet_holds_everything(store):
    live(store, 30)
    store.logs.mark("labels:late", {"predictions": -1})
    done = {one.log: one for one in store.logs.trim(RULE)}
    assert (done["predictions/main"].segments, done["predictions/main"].held) == (0, ("labels:late",))


def test_a_loop_that_is_silent_holds_nothing_for_ever(store):
    live(store, 30)
    join = joined(store)
    log = PredictionLog.open(store.prediction_logs())
    end = log.end()
    log.close()
    much_later = NOW + timedelta(days=400)
    passed = join.passed("late", much_later)["main"]
    assert passed <= end
    assert join.passed("other" if False else "late", much_later) == {"main": passed}
