"""Evaluation datasets and their records, on every engine of the metadata."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from kilter.core.clock import ManualClock
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.llm.datasets import EvaluationDatasetService
from kilter.llm.records import DatasetRecord
from kilter.tracking.tables import experiments


@pytest.fixture
def datasets(database: Database, clock: ManualClock) -> EvaluationDatasetService:
    with database.transaction() as connection:
        for number in (0, 7):
            if connection.execute(sa.select(experiments.c.id).where(experiments.c.id == number)).first() is None:
                row = {"id": number, "name": f"e{number}", "created_at": clock.now(), "changed_at": clock.now()}
                connection.execute(experiments.insert().values(**row))
    return EvaluationDatasetService(database, clock)


def record(place: int, **more: object) -> DatasetRecord:
    return DatasetRecord(inputs={"q": place}, **more)  # type: ignore[arg-type]


def test_the_same_inputs_are_the_same_record(datasets: EvaluationDatasetService, clock: ManualClock) -> None:
    made = datasets.create("golden", {"mlflow.user": "ann", "k": "v"}, [7])
    assert (made.created_by, made.experiments, made.records, made.schema) == ("ann", (7,), 0, None)
    first = datasets.write(
        made.id, [record(1, outputs="a", expectations={"x": 1}, tags={"t": 1}), record(2), record(2, outputs=[1])]
    )
    assert (first.inserted, first.updated) == (2, 1)
    clock.advance(timedelta(seconds=1))
    again = datasets.write(made.id, [record(1, expectations={"y": None}, tags={"mlflow.user": "bob"}), record(3)])
    assert (again.inserted, again.updated) == (1, 1)
    one, two, three = datasets.records(made.id).records
    assert (one.outputs, one.expectations, one.tags) == ("a", {"x": 1, "y": None}, {"t": 1, "mlflow.user": "bob"})
    assert (one.changed_by, one.changed_ms - one.created_ms) == ("bob", 1000)
    assert (two.outputs, three.outputs) == ([1], None)
    read = datasets.get(made.id)
    assert (read.records, read.changed_by) == (3, "bob")
    assert read.schema == {
        "inputs": {"q": "integer"},
        "outputs": "string",
        "expectations": {"x": "integer", "y": "null"},
        "version": "1.0",
    }
    assert read.digest != made.digest


def test_records_come_page_by_page_in_the_order_in_which_they_came(datasets: EvaluationDatasetService) -> None:
    made = datasets.create("many")
    datasets.write(made.id, [record(place) for place in range(1203)])
    seen, cursor = [], None
    while True:
        page = datasets.records(made.id, 500, cursor)
        seen += [one.inputs["q"] for one in page.records]
        cursor = page.cursor
        if cursor is None:
            break
        datasets.write(made.id, [record(-len(seen))])
    assert seen == [*range(1203), -500, -1000]
    ids = [one.id for one in datasets.records(made.id, 2).records]
    assert datasets.delete_records(made.id, [*ids, "dr-none"]) == 2
    assert datasets.get(made.id).records == 1203
    with pytest.raises(InvalidInput, match="cursor"):
        datasets.records(made.id, 10, "x")


def test_datasets_are_searched_tagged_shared_and_deleted(
    datasets: EvaluationDatasetService, clock: ManualClock
) -> None:
    made = []
    for name in ("b", "a", "c"):
        made.append(datasets.create(name, {"n": name}, [7] if name != "c" else []))
        clock.advance(timedelta(seconds=1))

    def names(filter: str = "", *order: str, among: list[int] | None = None) -> str:  # noqa: A002
        return "".join(one.name for one in datasets.list(filter, order, among=among).datasets)

    assert names() == "cab"
    assert names("", "name ASC") == "abc"
    assert names("tags.n = 'a'") == names("name LIKE 'a%'") == names("name IN ('a')") == "a"
    assert names(f"created_time >= {made[1].created_ms}") == "ca"
    assert names(among=[7]) == "ab"
    page = datasets.list("", ["name"], 2)
    assert [one.name for one in datasets.list("", ["name"], 2, page.cursor).datasets] == ["c"]
    for filter, order in (("size = 'x'", ()), ("name > 5", ()), ("", ("size",)), ("", ("name; DROP",))):  # noqa: A001
        with pytest.raises(InvalidInput):
            datasets.list(filter, order)
    assert datasets.add_experiments(made[2].id, [0, 7, 7]).experiments == (0, 7)
    assert datasets.remove_experiments(made[2].id, [7, 99]).experiments == (0,)
    with pytest.raises(NotFound, match="99"):
        datasets.add_experiments(made[2].id, [99])
    datasets.tag(made[0].id, {"n": "other"})
    datasets.untag(made[0].id, "n")
    datasets.untag(made[0].id, "n")
    assert datasets.get(made[0].id).tags == {}
    datasets.write(made[0].id, [record(1)])
    datasets.delete(made[0].id)
    datasets.delete(made[0].id)
    for act in (
        lambda: datasets.get(made[0].id),
        lambda: datasets.write(made[0].id, [record(1)]),
        lambda: datasets.records(made[0].id),
        lambda: datasets.tag(made[0].id, {"a": "b"}),
    ):
        with pytest.raises(NotFound):
            act()
