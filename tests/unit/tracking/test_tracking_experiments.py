"""Experiments, orders, inputs and logged models, on every engine of the metadata."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from kilter.core.clock import ManualClock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.filters import condition
from kilter.tracking.orders import Orders, terms_of
from kilter.tracking.records import DatasetInput, MetricPoint, ModelMetric, ModelUse
from kilter.tracking.service import RunService
from kilter.tracking.tables import experiments
from kilter.tracking.transfer import send_file


@pytest.fixture
def wall(clock: ManualClock) -> ManualClock:
    return ManualClock(clock.now())


@pytest.fixture
def runs(database: Database, clock: ManualClock, wall: ManualClock, tmp_path: Path) -> RunService:
    with database.transaction() as connection:  # the tests share a PostgreSQL whose tables are emptied between them
        if connection.execute(sa.select(experiments.c.id).where(experiments.c.id == 0)).first() is None:
            row = {"id": 0, "name": "Default", "created_at": clock.now(), "changed_at": clock.now()}
            connection.execute(experiments.insert().values(**row))
    return RunService(database, ObjectStore.open(str(tmp_path / "objects")), clock, wall)


def test_an_experiment_is_made_renamed_put_away_and_brought_back(runs: RunService, clock: ManualClock) -> None:
    made = runs.create_experiment("first", {"team": "ops"})
    assert runs.experiment(number=made.number) == runs.experiment("first") == made
    with pytest.raises(Conflict, match="already"):
        runs.create_experiment("first")
    run = runs.start("first").id
    gone = runs.start("first").id
    runs.delete(gone)
    clock.advance(timedelta(seconds=1))
    renamed = runs.rename_experiment(made.number, "second")
    assert (renamed.name, renamed.number, renamed.changed_at) == ("second", made.number, clock.now())
    assert (runs.get(run).experiment, runs.get(run).experiment_number) == ("second", made.number)
    clock.advance(timedelta(seconds=1))
    assert runs.delete_experiment(made.number).deleted_at == clock.now()
    assert runs.get(run).deleted_at == clock.now()
    for refused in (
        lambda: runs.start("second"),
        lambda: runs.tag_experiment(made.number, {"a": "b"}),
        lambda: runs.rename_experiment(made.number, "third"),
        lambda: runs.log_params(run, {"a": 1}),
    ):
        with pytest.raises(Conflict, match="deleted"):
            refused()
    with pytest.raises(NotFound, match="already"):
        runs.delete_experiment(made.number)
    assert runs.restore_experiment(made.number).deleted_at is None
    assert runs.get(run).deleted_at is None
    assert runs.get(gone).deleted_at is not None  # it was put away by itself, and stays so
    runs.tag_experiment(made.number, {"team": "ml", "b": "1"})
    assert runs.untag_experiment(made.number, "b").tags == {"team": "ml"}
    with pytest.raises(NotFound, match="no tag"):
        runs.untag_experiment(made.number, "b")


def test_the_first_run_of_a_name_makes_its_experiment(runs: RunService) -> None:
    run = runs.start("new")
    assert runs.experiment("new").number == run.experiment_number
    assert runs.experiment(number=0).name == "Default"
    for wrong in ("", "  ", "x" * 501, "a\x00b"):
        with pytest.raises(InvalidInput, match="name of an experiment"):
            runs.start(wrong)


def test_experiments_are_searched_by_pages(runs: RunService, clock: ManualClock) -> None:
    for place in range(5):
        clock.advance(timedelta(seconds=1))
        runs.create_experiment(f"e{place}", {"even": str(place % 2 == 0)})
    found, cursor = [], None
    while True:
        page = runs.search_experiments("name LIKE 'e%'", order="-name", limit=2, cursor=cursor)
        found += [one.name for one in page.experiments]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == ["e4", "e3", "e2", "e1", "e0"]
    assert [one.name for one in runs.search_experiments("tags.even = 'True'", order="created").experiments] == [
        "e0",
        "e2",
        "e4",
    ]
    runs.delete_experiment(runs.experiment("e1").number)
    assert [one.name for one in runs.search_experiments(view="deleted").experiments] == ["e1"]
    assert {one.name for one in runs.search_experiments(view="all").experiments} == {
        "Default",
        *(f"e{n}" for n in range(5)),
    }


def test_orders_put_those_without_the_field_last_and_page_on(runs: RunService, clock: ManualClock) -> None:
    for place, value in enumerate((0.3, None, 0.1, 0.3, float("nan"), 0.2)):
        clock.advance(timedelta(seconds=1))
        run = runs.start("x", f"r{place}", params={"depth": place % 2}, tags={"t": "ab"[place % 2]}).id
        if value is not None:
            runs.log_metrics(run, [MetricPoint(name="m", value=value if value == value else "NaN")])  # noqa: PLR0124

    def ordered(order: str) -> list[str]:
        return [run.name for run in runs.list("x", order=order).runs]

    assert ordered("metrics.m")[:4] == ["r2", "r5", "r3", "r0"]
    assert ordered("-metrics.m")[:4] == ["r3", "r0", "r5", "r2"]
    assert set(ordered("-metrics.m")[4:]) == {"r1", "r4"}
    assert ordered("tags.t, -started") == ["r4", "r2", "r0", "r5", "r3", "r1"]
    assert ordered("params.depth DESC, name") == ["r1", "r3", "r5", "r0", "r2", "r4"]
    for order in ("metrics.m", "-metrics.m", "started", "-started", "tags.t, name"):
        pages, cursor = [], None
        while True:
            page = runs.list("x", order=order, limit=2, cursor=cursor)
            pages += [run.name for run in page.runs]
            cursor = page.cursor
            if cursor is None:
                break
        assert pages == ordered(order)
    with pytest.raises(InvalidInput, match="another order"):
        runs.list("x", order="name", cursor=runs.list("x", order="started", limit=1).cursor)


def test_text_comparisons_mind_the_case_only_where_they_say_so(runs: RunService) -> None:
    runs.start("x", "one", params={"kind": "Tree", "rate": 0.1, "on": True}, tags={"a": "50% [of] it*"})

    def found(text: str) -> int:
        return len(runs.list("x", text).runs)

    for text, count in {
        "params.kind LIKE 'Tr%'": 1,
        "params.kind LIKE 'tr%'": 0,
        "params.kind ILIKE 'tr__'": 1,
        "params.rate = '0.1'": 1,
        "params.rate = 0.1 and params.on = 'true'": 1,
        "params.on = 'True'": 1,
        "params.kind IN ('Tree', 'x')": 1,
        "tags.a LIKE '50%[of]%*'": 1,
        "tags.a LIKE '50% [of] it'": 0,
        "params.none IS NULL and tags.a IS NOT NULL": 1,
        "name NOT IN ('two')": 1,
    }.items():
        assert found(text) == count, text


def test_a_run_of_a_quiet_client_is_patient(runs: RunService, wall: ManualClock) -> None:
    run = runs.start("x", patience=3600).id
    wall.advance(timedelta(seconds=3500))
    assert runs.interrupt_orphans() == ()
    wall.advance(timedelta(seconds=200))
    assert runs.interrupt_orphans() == (run,)
    runs.log_batch(run, [MetricPoint(name="m", value=1.0)])
    assert runs.get(run).status == "RUNNING"
    runs.change(run, status="INTERRUPTED")
    runs.log_batch(run, [MetricPoint(name="m", value=1.0, step=1)])
    assert runs.get(run).status == "INTERRUPTED"  # its owner said so: what comes later does not change that
    for wrong in (0.0, 1e9):
        with pytest.raises(InvalidInput, match=r"seconds"):
            runs.start("x", patience=wrong)


def test_a_batch_without_a_key_adds_a_point_once(runs: RunService, clock: ManualClock) -> None:
    run = runs.start("x").id
    points = [MetricPoint(name="m", value=float(step), step=step, at=clock.now()) for step in range(4)]
    runs.log_batch(run, points)
    runs.log_batch(run, points[1:3])
    runs.log_batch(run, [*points[2:], MetricPoint(name="m", value=9.0, step=3, at=clock.now())])
    assert [point.number for point in runs.metrics(run, "m")] == [0.0, 1.0, 2.0, 3.0, 9.0]
    assert runs.get(run).metrics[0].count == 5


def test_inputs_and_logged_models(runs: RunService, tmp_path: Path) -> None:
    run = runs.start("x")
    number = run.experiment_number
    data = DatasetInput(name="rows", digest="d", tags={"context": "training"})
    model = runs.log_model(number, "clf", run.id, "agent", {"c": "1"}, {"t": "1"})
    runs.log_inputs(run.id, [data], [ModelUse(model=model.id, role="output", step=3)])
    runs.log_inputs(run.id, [DatasetInput(name="rows", digest="d")])
    assert runs.get(run.id).inputs == runs.inputs(run.id)
    assert runs.inputs(run.id).datasets == (data,)
    assert runs.inputs(run.id).models == (ModelUse(model=model.id, role="output", step=3),)
    with pytest.raises(NotFound, match="logged model"):
        runs.log_inputs(run.id, models=[ModelUse(model="m-none", role="input")])
    point = MetricPoint(name="acc", value=0.9, at=run.started_at)
    runs.log_batch(run.id, [point], of_models={model.id: [ModelMetric(point=point, run=run.id, dataset="rows")]})
    again = [ModelMetric(point=point, run=run.id, dataset="rows"), ModelMetric(point=point, run=run.id)] * 2
    for _ in range(2):
        runs.log_batch(run.id, [], of_models={model.id: again})
    said = [(one.point.name, one.dataset) for one in runs.logged_model(model.id).metrics]
    assert said == [("acc", "rows"), ("acc", "")]  # the same point is there once; of other data it is another
    runs.log_batch(
        run.id,
        [],
        of_models={model.id: [ModelMetric(point=msgspec.structs.replace(point, name="odd", value="NaN"))] * 2},
    )
    assert len(runs.logged_model(model.id).metrics) == 3
    with pytest.raises(NotFound, match="logged model"):
        runs.log_batch(run.id, [MetricPoint(name="b", value=1.0)], of_models={"m-none": [ModelMetric(point=point)]})
    assert runs.get(run.id).metric("b") is None  # all or none
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    kept = send_file(runs, file, name="a/model.bin", model=model.id)
    assert runs.model_files(model.id) == (kept,)
    assert runs.model_file(model.id, "a/model.bin") == b"weights"
    with pytest.raises(InvalidInput, match="file's name"):
        send_file(runs, file, name="../x", model=model.id)
    ready = runs.change_logged_model(model.id, "READY", tags={"t": "2"})
    assert (ready.status, ready.tags, ready.metrics[0].point) == ("READY", {"t": "2"}, point)
    with pytest.raises(Conflict, match="already"):
        runs.change_logged_model(model.id, params={"c": "2"})
    other = runs.log_model(number, "other")
    names = [one.name for one in runs.logged_models([number], "metrics.acc > 0.5 and params.c = '1'").models]
    assert names == ["clf"]
    assert [one.name for one in runs.logged_models([number], order="-metrics.acc").models] == ["clf", "other"]
    assert runs.drop_model_files(model.id, "a") == 1
    runs.delete_logged_model(model.id)
    assert [one.id for one in runs.logged_models([number]).models] == [other.id]
    assert runs.logged_model(model.id, deleted=True).deleted_at is not None


def test_curves_keep_their_ends(runs: RunService) -> None:
    run = runs.start("x").id
    runs.log_metrics(run, [MetricPoint(name="m", value=float(step), step=step * 3) for step in range(5000)])
    curve = runs.curve(run, "m", 200)
    assert 150 <= len(curve) <= 250
    assert (curve[0].step, curve[-1].step) == (0, 14997)
    assert [point.step for point in curve] == sorted(point.step for point in curve)
    assert len(runs.curve(run, "m", 200, 30, 60)) == 11
    assert runs.curve(run, "none", 200) == ()


@given(st.text(max_size=40))
def test_any_text_is_a_filter_and_an_order_or_is_refused(text: str) -> None:
    for read in (condition, terms_of, Orders):
        try:
            read(text)
        except InvalidInput as error:
            assert error.where in {"filter", "order"}  # noqa: PT017 - a text that can be read is as good
