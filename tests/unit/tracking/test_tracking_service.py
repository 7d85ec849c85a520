from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.records import DatasetInput, MetricPoint, spelled
from kilter.tracking.service import LEASE_SECONDS, RunService


@pytest.fixture
def wall(clock: ManualClock) -> ManualClock:
    return ManualClock(clock.now() + timedelta(days=4000))


@pytest.fixture
def runs(database: Database, clock: ManualClock, wall: ManualClock, tmp_path: Path) -> RunService:
    return RunService(database, ObjectStore.open(str(tmp_path / "objects")), clock, wall)


def points(name: str, *values: float) -> list[MetricPoint]:
    return [MetricPoint(name=name, value=spelled(value), step=step) for step, value in enumerate(values)]


def test_a_run_keeps_what_it_was_given(runs: RunService, clock: ManualClock) -> None:
    run = runs.start(
        "flight-delay",
        params={"trees": 80, "rate": 0.1, "on": True, "none": None, "list": [1, "a"], "odd": float("inf")},
        tags={"why": "decay"},
        data_digest="d" * 64,
        seed=2**40,
        spec="e" * 64,
    )
    assert runs.get(run.id) == run
    assert run.params == {"trees": 80, "rate": 0.1, "on": True, "none": None, "list": [1, "a"], "odd": "inf"}
    assert (run.name, run.status, run.started_at, run.seed) == (run.id, "RUNNING", clock.now(), 2**40)
    ended = runs.finish(run.id)
    assert (ended.status, ended.ended_at) == ("FINISHED", clock.now())
    assert runs.finish(run.id) == ended


def test_every_float_comes_back_exactly(runs: RunService) -> None:
    values = [0.1, 1e308, 5e-324, -1e-300, math.inf, -math.inf, math.nan, 1 / 3]
    run = runs.start("x").id
    runs.log_metrics(run, points("loss", *values))
    found = [point.number for point in runs.metrics(run, "loss")]
    assert [str(value) for value in found] == [str(value) for value in values]
    (summary,) = runs.get(run).metrics
    assert (summary.count, summary.last, summary.least, summary.greatest) == (8, 1 / 3, -1e-300, 1e308)


def test_a_batch_is_all_or_none(runs: RunService) -> None:
    run = runs.start("x").id
    with pytest.raises(InvalidInput, match="name of a metric"):
        runs.log_metrics(run, [*points("fine", 1.0), MetricPoint(name="", value=1.0)])
    assert runs.metrics(run, "fine") == ()


def test_a_batch_is_added_once_per_key(runs: RunService) -> None:
    run = runs.start("x").id
    for _ in range(3):
        runs.log_metrics(run, points("loss", 1.0, 2.0), key="1")
    runs.log_metrics(run, points("loss", 3.0), key="2")
    assert [point.number for point in runs.metrics(run, "loss")] == [1.0, 3.0, 2.0]
    assert runs.start("x", key="k").id == runs.start("x", key="k").id


def test_the_newest_value_is_the_one_of_the_greatest_step(runs: RunService) -> None:
    run = runs.start("x").id
    runs.log_metrics(run, [MetricPoint(name="a", value=5.0, step=9), MetricPoint(name="a", value=1.0, step=3)])
    runs.log_metrics(run, [MetricPoint(name="a", value=7.0, step=4)])
    assert runs.get(run).metric("a") == 5.0
    assert [point.step for point in runs.metrics(run, "a", after=3)] == [4, 9]


def test_a_parameter_does_not_change(runs: RunService) -> None:
    run = runs.start("x", params={"a": 1}).id
    runs.log_params(run, {"a": 1, "b": 2})
    with pytest.raises(Conflict, match="can't become 3"):
        runs.log_params(run, {"c": 1, "a": 3})
    assert runs.get(run).params == {"a": 1, "b": 2}


def test_files_are_kept_by_name(runs: RunService) -> None:
    run = runs.start("x").id
    runs.log_artifact(run, "plots/roc.png", b"one")
    runs.log_artifact(run, "plots//roc.png", b"two")
    assert runs.artifact(run, "plots/roc.png") == b"two"
    assert [found.name for found in runs.get(run).artifacts] == ["plots/roc.png"]
    for name in ("", "/etc/passwd", "../up", "a/../../up", "..", "a\\b"):
        with pytest.raises(InvalidInput, match="file's name"):
            runs.log_artifact(run, name, b"")
    with pytest.raises(NotFound, match="no file"):
        runs.artifact(run, "plots/pr.png")


def test_a_dead_run_says_so_and_may_come_back(runs: RunService, wall: ManualClock, clock: ManualClock) -> None:
    dead, alive = runs.start("x").id, runs.start("x").id
    clock.advance(timedelta(days=300))  # the loop's clock says nothing about a process
    assert runs.interrupt_orphans() == ()
    wall.advance(timedelta(seconds=LEASE_SECONDS - 1))
    runs.heartbeat(alive)
    wall.advance(timedelta(seconds=2))
    assert runs.interrupt_orphans() == (dead,)
    assert runs.get(dead).status == "INTERRUPTED"
    runs.log_metrics(dead, points("loss", 1.0))  # it was only slow
    assert runs.get(dead).status == "RUNNING"
    runs.finish(dead, "FAILED", "boom")
    with pytest.raises(Conflict, match="ended as FAILED"):
        runs.log_metrics(dead, points("loss", 2.0))
    with pytest.raises(Conflict, match="ended as FAILED"):
        runs.finish(dead)


def test_runs_are_listed_page_by_page(runs: RunService, clock: ManualClock) -> None:
    made = []
    for i in range(7):
        run = runs.start("a" if i % 2 else "b", params={"trees": 10 * i, "kind": "gbm"}).id
        runs.log_metrics(run, points("auc", 0.5 + (i * 3 % 7) / 100))
        made.append(run)
        if i != 3:
            clock.advance(timedelta(minutes=1))  # two runs at the same moment are told apart by their ids
    for order, expected in {
        "-started": made[::-1],
        "-metrics.auc": sorted(made, key=lambda run: -(runs.get(run).metric("auc") or 0)),
        "metrics.auc": sorted(made, key=lambda run: runs.get(run).metric("auc") or 0),
    }.items():
        found, cursor = [], None
        while True:
            page = runs.list(order=order, limit=3, cursor=cursor)
            found += [run.id for run in page.runs]
            cursor = page.cursor
            if cursor is None:
                break
        if order.endswith("started"):
            assert sorted(found) == sorted(expected)
            assert found[0] == expected[0]
        else:
            assert found == expected
    assert len(runs.list("a").runs) == 3
    assert {(found.name, found.runs) for found in runs.experiments()} == {("a", 3), ("b", 4)}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("metrics.auc > 0.52", 2),
        ("params.trees >= 20 and params.trees < 40", 2),
        ("params.kind = 'gbm' AND metrics.auc <= 0.51", 2),
        ("params.on = true", 1),
        ("tags.team = 'red; DROP TABLE runs'", 1),
        ("status = 'RUNNING'", 5),
        ('status != "RUNNING"', 0),
        ("metrics.`valid/log_loss` < 1e-3", 1),
    ],
)
def test_runs_are_filtered(runs: RunService, text: str, count: int) -> None:
    for i in range(5):
        run = runs.start("x", params={"trees": 10 * i, "kind": "gbm"}).id
        runs.log_metrics(run, points("auc", 0.5 + i / 100))
    runs.log_params(run, {"on": True})
    runs.log_tags(run, {"team": "red; DROP TABLE runs"})
    runs.log_metrics(run, points("valid/log_loss", 0.0001))
    assert len(runs.list(filter=text).runs) == count


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("dataset.name = 'rows'", {"a", "both"}),
        ("datasets.name LIKE 'ro%'", {"a", "both"}),
        ("dataset.name ILIKE 'OTHER'", {"b", "both"}),
        ("dataset.name != 'rows'", {"b", "both"}),
        ("dataset.name = 'rows' and dataset.name = 'other'", {"both"}),
        ("dataset.`digest` IN ('1', '3')", {"a", "both"}),
        ("dataset.digest NOT IN ('1', '2')", {"both"}),
        ("dataset.context = 'eval'", {"b", "both"}),
        ("dataset.context != 'eval'", {"a"}),
        ("dataset.context = 'eval' and status = 'RUNNING' and dataset.name = 'other'", {"b", "both"}),
    ],
)
def test_runs_are_found_by_the_data_that_they_read(runs: RunService, text: str, found: set[str]) -> None:
    def read(name: str, digest: str, context: str) -> DatasetInput:
        tags = {"mlflow.data.context": context} if context else {}
        return DatasetInput(name=name, digest=digest, source_type="local", source="{}", tags=tags)

    for name, inputs in {
        "none": [],
        "a": [read("rows", "1", "training")],
        "b": [read("other", "2", "eval")],
        "both": [read("rows", "3", ""), read("other", "2", "eval")],
    }.items():
        run = runs.start("x", name=name).id
        if inputs:
            runs.log_inputs(run, inputs)
    assert {run.name for run in runs.list(filter=text).runs} == found


@pytest.mark.parametrize(
    "text", ["dataset.source = 'x'", "dataset.name > 'x'", "dataset.name = 5", "dataset.name IS NULL"]
)
def test_data_are_asked_for_by_three_fields(runs: RunService, text: str) -> None:
    with pytest.raises(InvalidInput, match=r"filter: data .*Allowed: "):
        runs.list(filter=text)


@pytest.mark.parametrize(
    "text",
    ["auc > 0.5", "metrics.auc >", "metrics.auc > 'a'", "status = 'A' or status = 'B'", "nonsense", "status = 'A' and"],
)
def test_a_filter_that_cannot_be_read_says_what_can(runs: RunService, text: str) -> None:
    with pytest.raises(InvalidInput, match="filter: "):
        runs.list(filter=text)


def test_wrong_pages_are_refused(runs: RunService) -> None:
    for arguments in ({"order": "colour"}, {"limit": 0}, {"cursor": "nonsense"}, {"cursor": "WyJhIl0="}):
        with pytest.raises(InvalidInput):
            runs.list(**arguments)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        runs.get("run_1")
    with pytest.raises(NotFound):
        runs.log_metrics("run_1", [])
    with pytest.raises(InvalidInput):
        runs.finish(runs.start("x").id, "RUNNING")
