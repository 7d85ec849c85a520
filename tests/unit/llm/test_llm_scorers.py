"""Scorers and their versions, on every engine of the metadata."""

from __future__ import annotations

import concurrent.futures

import pytest
import sqlalchemy as sa

from kilter.core.clock import ManualClock
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.llm.records import ScorerList
from kilter.llm.scorers import ScorerService
from kilter.tracking.tables import experiments


@pytest.fixture
def scorers(database: Database, clock: ManualClock) -> ScorerService:
    with database.transaction() as connection:
        for number in (0, 7, 8):
            if connection.execute(sa.select(experiments.c.id).where(experiments.c.id == number)).first() is None:
                row = {"id": number, "name": f"e{number}", "created_at": clock.now(), "changed_at": clock.now()}
                connection.execute(experiments.insert().values(**row))
    return ScorerService(database, clock)


def said(found: ScorerList) -> list[tuple[int, str, int, str]]:
    return [(one.experiment, one.name, one.version, one.text) for one in found.scorers]


def test_a_name_has_versions(scorers: ScorerService) -> None:
    first = scorers.register(7, "polite", '{"v": 1}')
    second = scorers.register(7, "polite", '{"v": 2}')
    scorers.register(7, "brief", "{}")
    scorers.register(8, "polite", "{}")
    assert (first.version, second.version, first.id) == (1, 2, second.id)
    assert scorers.get(7, "polite") == second
    assert scorers.get(7, "polite", 1) == first
    assert said(scorers.versions(7, "polite")) == [(7, "polite", 1, '{"v": 1}'), (7, "polite", 2, '{"v": 2}')]
    assert said(scorers.list([7])) == [(7, "brief", 1, "{}"), (7, "polite", 2, '{"v": 2}')]
    assert [one.experiment for one in scorers.list().scorers] == [7, 7, 8]
    assert said(scorers.list([])) == []


def test_what_is_deleted_is_gone_and_its_number_is_not_given_again(scorers: ScorerService) -> None:
    for text in ("[1]", "1", "no", "{"):
        with pytest.raises(InvalidInput, match="JSON object"):
            scorers.register(7, "x", text)
    scorers.register(7, "x", "{}")
    scorers.register(7, "x", "{}")
    scorers.delete(7, "x", 2)
    assert scorers.register(7, "x", "{}").version == 3
    for version in (2, 9):
        with pytest.raises(NotFound, match=f"'x' and version {version} not found for experiment 7"):
            scorers.get(7, "x", version)
        with pytest.raises(NotFound, match=f"version {version}"):
            scorers.delete(7, "x", version)
    scorers.delete(7, "x", 1)
    scorers.delete(7, "x", 3)  # the last one takes the scorer with it
    scorers.register(7, "y", "{}")
    scorers.register(7, "y", "{}")
    scorers.delete(7, "y")
    assert said(scorers.list()) == []
    for act in (scorers.get, scorers.delete, scorers.versions):
        with pytest.raises(NotFound, match="Scorer with name 'y' not found"):
            act(7, "y")


def test_a_deleted_experiment_shows_none(scorers: ScorerService, database: Database, clock: ManualClock) -> None:
    scorers.register(8, "x", "{}")
    with pytest.raises(NotFound, match="id=99"):
        scorers.register(99, "x", "{}")
    with database.transaction() as connection:
        connection.execute(experiments.update().where(experiments.c.id == 8).values(deleted_at=clock.now()))
    assert said(scorers.list()) == said(scorers.list([8])) == []


@pytest.mark.parametrize(
    "text",
    ['{"call_source": "import os"}', '{"ensemble_scorer_data": {"scorers": [{"a": [{"call_source": "x"}]}]}}'],
)
def test_code_is_not_kept(scorers: ScorerService, text: str) -> None:
    with pytest.raises(InvalidInput, match="Python"):
        scorers.register(7, "x", text)
    assert scorers.register(7, "x", '{"call_source": null}').version == 1


@pytest.mark.parametrize("name", ["", " ", "n" * 251, "a\x00b"])
def test_a_name_is_needed(scorers: ScorerService, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        scorers.register(7, name, "{}")


def test_those_that_come_at_once_get_a_number_each(scorers: ScorerService) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: scorers.register(7, "x", "{}"), range(12)))
    assert sorted(one.version for one in made) == list(range(1, 13))
    assert len({one.id for one in made}) == 1
