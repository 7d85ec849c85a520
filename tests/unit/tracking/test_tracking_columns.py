"""Points that come in bulk read like those that came one by one."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kilter.core.clock import SystemClock
from kilter.core.errors import InvalidInput
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.columns import packed
from kilter.tracking.records import MetricPoint, spelled
from kilter.tracking.service import RunService

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
MICROSECONDS = 1_772_323_200_000_000


@pytest.fixture
def runs(database: Database, tmp_path: Path) -> RunService:
    return RunService(database, ObjectStore.open(str(tmp_path / "objects")), SystemClock())


def columns(steps: list[int], values: list[float]) -> bytes:
    return packed(steps, values, [MICROSECONDS + step for step in steps])


def rows(name: str, steps: list[int], values: list[float]) -> list[MetricPoint]:
    return [
        MetricPoint(name=name, value=spelled(value), step=step, at=BEGAN + timedelta(microseconds=step))
        for step, value in zip(steps, values, strict=True)
    ]


@pytest.mark.parametrize("count", [1, 255, 256, 1000])
def test_columns_and_rows_read_the_same(runs, count):
    steps = [(place * 7) % count for place in range(count)]  # not in order
    values = [math.nan if place % 11 == 0 else math.inf if place % 13 == 0 else place / 3 for place in range(count)]
    bulk, single = runs.start("x").id, runs.start("x").id
    runs.log_columns(bulk, ["m"], [count], columns(steps, values), "k")
    runs.log_metrics(single, rows("m", steps, values))
    assert runs.metrics(bulk, "m") == runs.metrics(single, "m")
    assert runs.metrics(bulk, "m", after=count // 2, limit=5) == runs.metrics(single, "m", after=count // 2, limit=5)
    assert runs.metric_points(bulk, "m", skip=3, limit=4) == runs.metric_points(single, "m", skip=3, limit=4)
    assert runs.get(bulk).metrics == runs.get(single).metrics


def test_curves_are_thinned_alike(runs):
    bulk, single = runs.start("x").id, runs.start("x").id
    steps = [place // 2 for place in range(2000)]  # each step twice
    values = [place / 3 for place in range(2000)]
    runs.log_columns(bulk, ["m"], [2000], columns(steps, values), "k")
    runs.log_metrics(single, rows("m", steps, values))
    for points in (10, 100, 100_000):
        assert runs.curve(bulk, "m", points) == runs.curve(single, "m", points)
        assert runs.curve(bulk, "m", points, 5, 700) == runs.curve(single, "m", points, 5, 700)
    assert runs.curve(bulk, "m", 10, 5000) == ()


def test_rows_and_blocks_of_one_metric_have_one_order(runs):
    run = runs.start("x").id
    runs.log_metrics(run, rows("m", [5], [1.0]))
    runs.log_columns(run, ["m"], [300], columns([5] * 300, [2.0] * 299 + [3.0]), "a")
    runs.log_metrics(run, rows("m", [5], [4.0]))
    runs.log_columns(run, ["m"], [300], columns(list(range(300)), [5.0] * 300), "b")
    at_five = [point.value for point in runs.metrics(run, "m") if point.step == 5]
    assert at_five == [1.0, *[2.0] * 299, 3.0, 4.0, 5.0]
    assert runs.get(run).metrics[0].count == 602
    runs.log_batch(run, rows("m", [299, 300], [5.0, 6.0]))  # without a key: the first one is there already
    assert runs.get(run).metrics[0].count == 603


def test_a_key_counts_once_and_what_does_not_fit_is_refused(runs):
    run = runs.start("x").id
    for _ in range(2):
        runs.log_columns(run, ["a", "b"], [2, 1], columns([0, 1, 0], [1.0, 2.0, 3.0]), "k")
    assert {metric.name: metric.count for metric in runs.get(run).metrics} == {"a": 2, "b": 1}
    for names, counts, data in (
        (["a"], [2], columns([0], [1.0])),
        (["a", "a"], [1, 1], columns([0, 1], [1.0, 1.0])),
        (["a"], [0], b""),
        (["/a"], [1], columns([0], [1.0])),
        (["a"], [1], packed([0], [1.0], [-5])),
        (["a"], [1], packed([0], [1.0], [1 << 62])),
    ):
        with pytest.raises(InvalidInput):
            runs.log_columns(run, names, counts, data, "other")
    assert runs.get(run).metrics[0].count == 2  # nothing of what was refused is there


def test_the_client_may_name_a_run(runs):
    identity = "run_" + "0" * 20
    assert runs.start("x", name="first", id=identity).id == identity
    assert runs.start("y", name="second", id=identity).name == "first"
    for wrong in ("run_1", "../etc", "run_" + "A" * 20):
        with pytest.raises(InvalidInput, match="id"):
            runs.start("x", id=wrong)
