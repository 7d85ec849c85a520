"""Tables of runs: only the wanted cells, a count, groups, and trees that pages do not cut."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.projection import PARENT
from kilter.tracking.records import MetricPoint
from kilter.tracking.service import RunService


@pytest.fixture
def runs(database: Database, clock: ManualClock, tmp_path: Path) -> RunService:
    return RunService(database, ObjectStore.open(str(tmp_path / "objects")), clock, ManualClock(clock.now()))


def run(runs: RunService, clock: ManualClock, loss: float | None = None, parent: str = "", **params: object) -> str:
    clock.advance(timedelta(seconds=1))
    made = runs.start("x", params=params, tags={PARENT: parent} if parent else {}).id
    if loss is not None:
        runs.log_metrics(made, [MetricPoint(name="loss", value=loss)])
    return made


def test_a_table_has_only_the_wanted_cells_in_the_wanted_order(runs: RunService, clock: ManualClock) -> None:
    made = [run(runs, clock, loss=(7 * number) % 10 / 10, rate=0.1 * number, depth=3) for number in range(10)]
    bare = run(runs, clock, loss=float("inf"))
    found = runs.rows("x", order="-metrics.loss", columns=["params.rate", "metrics.loss", "tags.no"], limit=3)
    assert found.total == 11
    assert found.rows[0].id == bare
    assert found.rows[0].cells == (None, "Infinity", None)
    assert [one.cells[1] for one in found.rows[1:]] == [0.9, 0.8]
    rest = runs.rows("x", order="-metrics.loss", offset=3, limit=100)
    assert {one.id for one in (*found.rows, *rest.rows)} == {*made, bare}
    assert [one.cells for one in rest.rows] == [()] * 8
    assert runs.rows("x", filter="metrics.loss < 0.25").total == 3
    assert runs.rows("x", among=made[:2], order="started").rows[0].id == made[0]
    runs.delete(made[0])
    assert (runs.rows("x").total, runs.rows("x", view="deleted").rows[0].deleted) == (10, True)
    for wrong in ({"columns": ["loss"]}, {"columns": ["params."]}, {"limit": 0}, {"offset": -1}, {"filter": "loss <"}):
        with pytest.raises(InvalidInput):
            runs.rows("x", **wrong)


def test_columns_say_how_common_and_how_different_they_are(runs: RunService, clock: ManualClock) -> None:
    for number in range(4):
        run(runs, clock, loss=number / 2, rate=number % 2, depth=3)
    run(runs, clock, extra="once")
    names = runs.columns("x")
    assert [(one.name, one.runs, one.values) for one in names.params] == [
        ("depth", 4, 1), ("rate", 4, 2), ("extra", 1, 1),
    ]  # fmt: skip
    assert [(one.name, one.runs, one.values) for one in names.metrics] == [("loss", 4, 4)]
    assert runs.columns("nowhere").params == ()


def test_groups_sum_up_and_open(runs: RunService, clock: ManualClock) -> None:
    for number in range(6):
        run(runs, clock, loss=float(number), kind="a'\"b" if number % 2 else 3)
    run(runs, clock)
    groups = runs.groups("params.kind", "x", columns=["params.kind", "metrics.loss"])
    assert [(one.value, one.runs, one.cells) for one in groups] == [
        ('"a\'\\"b"', 3, (None, (3.0, 1.0, 5.0))),
        ("3", 3, (None, (2.0, 0.0, 4.0))),
        (None, 1, (None, (None, None, None))),
    ]
    for group in groups:
        assert runs.rows("x", group="params.kind", group_value=group.value).total == group.runs
    assert [(one.value, one.runs) for one in runs.groups("status", "x")] == [("RUNNING", 7)]
    assert runs.rows("x", group="status", group_value="RUNNING").total == 7
    with pytest.raises(InvalidInput):
        runs.groups("metrics.loss", "x")


def test_a_tree_shows_every_run_once_however_it_is_paged(runs: RunService, clock: ManualClock) -> None:
    chance = random.Random(7)
    made: list[str] = []
    for number in range(60):
        parent = chance.choice(made) if made and chance.random() < 0.6 else ""
        made.append(run(runs, clock, loss=chance.random(), parent=parent, even=number % 2))
    lost = run(runs, clock, parent="run-that-is-gone", even=0)
    own = run(runs, clock, even=0)
    runs.log_tags(own, {PARENT: own})
    everyone = {*made, lost, own}
    for filter_, order, size in (("", "-started", 7), ("", "metrics.loss", 5), ("params.even = 0", "-metrics.loss", 4)):
        wanted = {one.id for one in runs.rows("x", filter=filter_, limit=1000).rows}
        assert wanted <= everyone
        seen: list[str] = []

        def walk(parent: str = "", filter_: str = filter_, order: str = order, size: int = size, seen=seen) -> int:
            start = 0
            while True:
                page = runs.rows("x", filter=filter_, order=order, tree=True, parent=parent, offset=start, limit=size)
                for one in page.rows:
                    seen.append(one.id)
                    if one.children:
                        assert walk(one.id) == one.children
                start += size
                if start >= page.total:
                    return page.total

        walk()
        assert len(seen) == len(set(seen))
        assert set(seen) == wanted


def test_a_series_is_whole(runs: RunService, clock: ManualClock) -> None:
    made = run(runs, clock)
    values = [1.0, math.nan, math.inf, -2.5]
    runs.log_metrics(made, [MetricPoint(name="m", value="NaN" if math.isnan(v) else "Infinity" if math.isinf(v) else v,
                                        step=5 - n) for n, v in enumerate(values)])  # fmt: skip
    steps, found, times = runs.series(made, "m", times=True)
    assert steps.tolist() == [2, 3, 4, 5]
    assert np.array_equal(found, np.array(values[::-1]), equal_nan=True)
    assert times is not None
    assert times.tolist() == [clock.now().timestamp()] * 4
    assert runs.series(made, "m", times=False)[2] is None
    with pytest.raises(NotFound):
        runs.series("no-run", "m", times=False)
