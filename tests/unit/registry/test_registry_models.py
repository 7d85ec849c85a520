"""Models that people register, on every engine of the metadata."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from kilter.core.clock import ManualClock
from kilter.core.digests import digest
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.registry.records import ModelVersion
from kilter.registry.service import ModelService

SOURCE = "mlflow-artifacts:/1/run/artifacts/model"


@pytest.fixture
def models(database: Database, clock: ManualClock) -> ModelService:
    return ModelService(database, clock)


def train(models: ModelService, key: str = "", model: str = "flight-delay") -> ModelVersion:
    return models.register(
        model, digest(key.encode()), run="run_1", spec=digest(b"s"), data_digest=digest(b"d"), trigger="decay", key=key
    )


def test_a_model_is_made_described_tagged_renamed_and_deleted(models: ModelService, clock: ManualClock) -> None:
    made = models.create("House <prices>", "about it", {"team": "ops"}, by="ana")
    assert (made.name, made.owner, made.description, made.tags) == (
        "House <prices>",
        "client",
        "about it",
        {"team": "ops"},
    )
    assert (made.latest, made.aliases, made.created_at) == ((), {}, clock.now())
    with pytest.raises(Conflict, match="already"):
        models.create("House <prices>")
    clock.advance(timedelta(seconds=1))
    models.describe("House <prices>", "better", by="bo", reason="clearer")
    models.describe("House <prices>", "better", by="bo")
    models.tag("House <prices>", {"team": "ml", "tier": "1"}, by="bo")
    models.untag("House <prices>", "tier")
    models.untag("House <prices>", "never")
    assert models.registered("House <prices>").changed_at == clock.now()
    models.create("taken")
    with pytest.raises(Conflict, match="already"):
        models.rename("House <prices>", "taken")
    assert models.rename("House <prices>", "prices", by="cy").tags == {"team": "ml"}
    with pytest.raises(NotFound, match="House <prices>"):
        models.registered("House <prices>")
    models.delete("prices", by="di", reason="done")
    with pytest.raises(NotFound):
        models.registered("prices")
    said = [(one.model, one.sentence(), one.by) for one in models.changes("prices")]
    assert said == [
        ("House <prices>", "made", "ana"),
        ("House <prices>", "description: about it -> better", "bo"),
        ("House <prices>", "tag team: ops -> ml", "bo"),
        ("House <prices>", "tag tier set to 1", "bo"),
        ("House <prices>", "tag tier taken from 1", ""),
        ("House <prices>", "model name: House <prices> -> prices", "cy"),
        ("prices", "model taken from prices", "di"),
    ]
    assert models.changes("House <prices>") == models.changes("prices")
    with pytest.raises(NotFound, match="never"):
        models.changes("never")


def test_a_name_that_is_made_again_begins_anew(models: ModelService) -> None:
    models.create("m")
    models.add_version("m", SOURCE)
    models.assign_alias("m", "best", 1)
    models.add_version("m", SOURCE)
    models.delete_version("m", 2)
    assert models.add_version("m", SOURCE).version == 3
    models.delete("m")
    models.create("m")
    made = models.add_version("m", SOURCE)
    assert (made.version, made.aliases, made.tags) == (1, (), {})
    assert models.registered("m").aliases == {}


def test_numbers_have_no_gaps_when_many_register_at_once(models: ModelService) -> None:
    models.create("m")

    def work() -> None:
        for _ in range(5):
            models.add_version("m", SOURCE)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = models.search_versions("name = 'm'", order="version_number").versions
    assert [one.version for one in found] == list(range(1, 21))


def test_only_one_of_many_makes_a_model(models: ModelService) -> None:
    outcomes: list[str] = []

    def work() -> None:
        try:
            models.create("m")
            outcomes.append("made")
        except Conflict:
            outcomes.append("there")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["there"] * 5


def test_stages_archive_and_approvals_are_kept_with_who_and_why(models: ModelService) -> None:
    models.create("m")
    for _ in range(3):
        models.add_version("m", SOURCE, user="ana")
    models.set_stage("m", 1, "production", by="ana")
    models.set_stage("m", 2, "PRODUCTION", archive_existing=True, by="bo", reason="better")
    assert [one.stage for one in models.search_versions(order="version_number", model="m").versions] == [
        "Archived",
        "Production",
        "None",
    ]
    assert [one.version for one in models.latest("m", ("production",))] == [2]
    assert models.set_approval("m", 2, "approved", "cy", "looked at it").approval == "approved"
    assert models.set_approval("m", 2, "approved", "di").approval == "approved"
    models.set_approval("m", 2, "rejected", "di", "drifts")
    assert [(one.sentence(), one.by, one.reason) for one in models.changes("m", 2)] == [
        (f"registered from {SOURCE}", "ana", ""),
        ("stage: None -> Production", "bo", "better"),
        ("approval: pending -> approved", "cy", "looked at it"),
        ("approval: approved -> rejected", "di", "drifts"),
    ]
    models.set_stage("m", 3, "Production", archive_existing=True)
    assert models.changes("m", 2)[-1].reason == "version 3 became Production"
    assert models.changes("m", 1)[-1].reason == "better"
    for refused in (
        lambda: models.set_stage("m", 1, "prod"),
        lambda: models.set_stage("m", 1, "Archived", archive_existing=True),
        lambda: models.set_approval("m", 1, "maybe", "ana"),
        lambda: models.set_approval("m", 1, "approved", " "),
    ):
        with pytest.raises(InvalidInput):
            refused()
    with pytest.raises(NotFound, match="version 9"):
        models.set_stage("m", 9, "Staging")


def test_what_a_loop_made_is_shown_and_kept(models: ModelService, database: Database) -> None:
    train(models, "a")
    train(models, "b")
    with database.transaction() as connection:
        models.set_alias(connection, "flight-delay", "champion", 1)
        models.set_alias(connection, "flight-delay", "champion", 2)
        models.set_alias(connection, "flight-delay", "champion", 2)
    found = models.registered("flight-delay")
    assert (found.owner, found.aliases) == ("loop", {"champion": 2})
    version = models.registered_version("flight-delay", "champion")
    assert (version.version, version.state, version.run, version.source) == (2, "candidate", "run_1", "")
    models.assign_alias("flight-delay", "blessed", 1)
    assert models.get("flight-delay@blessed").version == 1
    models.approve("flight-delay", 2, "ana", "good")
    assert models.registered_version("flight-delay", 2).approval == "approved"
    moves = [one.sentence() for one in models.changes("flight-delay") if one.what == "alias"]
    assert moves == ["alias champion set to 1", "alias champion: 1 -> 2", "alias blessed set to 1"]
    for refused, words in (
        (lambda: models.assign_alias("flight-delay", "champion", 1), "kilter promote"),
        (lambda: models.assign_alias("flight-delay", "Challenger", 1), "kilter rollback"),
        (lambda: models.drop_alias("flight-delay", "champion"), "kilter promote"),
        (lambda: models.add_version("flight-delay", SOURCE), "belongs to a loop"),
        (lambda: models.delete_version("flight-delay", 1), "belongs to a loop"),
        (lambda: models.rename("flight-delay", "x"), "belongs to a loop"),
        (lambda: models.delete("flight-delay"), "belongs to a loop"),
        (lambda: models.set_approval("flight-delay", 1, "approved", "ana"), "kilter approve"),
    ):
        with pytest.raises(Conflict, match=words):
            refused()


def test_a_loop_claims_its_name_before_it_has_versions(models: ModelService, database: Database) -> None:
    models.create("mine")
    models.add_version("mine", SOURCE)
    with database.transaction() as connection:
        models.claim(connection, "flight-delay")
        models.claim(connection, "flight-delay")
    with pytest.raises(Conflict, match="not this loop's"), database.transaction() as connection:
        models.claim(connection, "mine")
    assert (models.registered("flight-delay").owner, models.registered("mine").owner) == ("loop", "client")
    with pytest.raises(Conflict, match="belongs to a loop"):
        models.add_version("flight-delay", SOURCE)
    with pytest.raises(NotFound, match="no model is named"):
        models.get("flight-delay", 1)
    assert train(models, "a").version == 1


def test_a_loop_takes_an_empty_model_of_its_name_and_no_other(models: ModelService) -> None:
    models.create("fraud", "made before the loop", {"team": "ops"})
    assert train(models, "a", "fraud").version == 1
    found = models.registered("fraud")
    assert (found.owner, found.description, found.tags) == ("loop", "made before the loop", {"team": "ops"})
    models.create("churn")
    models.add_version("churn", SOURCE)
    with pytest.raises(Conflict, match="not this loop's"):
        train(models, "b", "churn")
    models.rename("churn", "old-churn")
    assert train(models, "b", "churn").version == 1
    with pytest.raises(NotFound, match="registered by a client"):
        models.get("old-churn", 1)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "..", "../x", ".", "x" * 257, "a\x00b"])
def test_names_that_are_none(models: ModelService, name: str) -> None:
    with pytest.raises(InvalidInput):
        models.create(name)


@pytest.mark.parametrize("alias", ["", "a b", "latest", "LATEST", "v1", "V22", "a@b", "x" * 256, "a\n"])
def test_aliases_that_are_none(models: ModelService, alias: str) -> None:
    models.create("m")
    models.add_version("m", SOURCE)
    with pytest.raises(InvalidInput):
        models.assign_alias("m", alias, 1)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://host/x",
        "s3://key:secret@b/x",
        "runs:/r/../x",
        "mlflow-artifacts:/%2e%2e/x",
    ],
)
def test_sources_that_lead_elsewhere(models: ModelService, source: str) -> None:
    models.create("m")
    with pytest.raises(InvalidInput):
        models.add_version("m", source)
    with pytest.raises(InvalidInput):
        models.add_version("m", SOURCE, location=source or "x")


def test_tags_and_texts_that_cant_be_kept(models: ModelService) -> None:
    models.create("m")
    for tags in ({"": "x"}, {"a!": "x"}, {"../a": "x"}, {"a": "\x00"}, {"x" * 251: "y"}, {"a": "x" * 100_001}):
        with pytest.raises(InvalidInput):
            models.tag("m", tags)
    with pytest.raises(InvalidInput, match="said by the loop"):
        models.tag("m", {"kilter.stage": "champion"})
    with pytest.raises(InvalidInput):
        models.describe("m", "x" * 100_001)
    assert models.registered("m").tags == {}


def test_searches(models: ModelService, clock: ManualClock) -> None:
    for place, name in enumerate(("b", "a", "c")):
        clock.advance(timedelta(seconds=1))
        models.create(name, tags={"n": str(place), "team": "ops"})
        models.add_version(name, f"runs:/r{place}/m", run=f"r{place}", tags={"k": "v"})
    models.create("p", tags={"mlflow.prompt.is_prompt": "true"})
    models.add_version("p", "dummy-source", tags={"mlflow.prompt.is_prompt": "true"})

    def names(text: str = "", order: str = "") -> list[str]:
        return [model.name for model in models.search(text, order).models]

    assert names() == ["a", "b", "c"]
    assert names(order="-changed") == ["c", "a", "b"]
    assert names("tags.`mlflow.prompt.is_prompt` = 'true'") == ["p"]
    assert names("tags.`mlflow.prompt.is_prompt` != 'true'") == ["a", "b", "c"]
    assert names("tags.n = '1' and name ILIKE 'A'") == ["a"]
    page = models.search(limit=2)
    assert page.cursor is not None
    assert [model.name for model in models.search(limit=2, cursor=page.cursor).models] == ["c"]
    with pytest.raises(InvalidInput, match="another order"):
        models.search("name = 'a'", cursor=page.cursor)
    found = models.search_versions("run_id IN ('r0', 'r2')", "name").versions
    assert [(one.model, one.run) for one in found] == [("b", "r0"), ("c", "r2")]
    assert [one.model for one in models.search_versions("tags.k = 'v'").versions] == ["c", "a", "b"]
    assert [one.model for one in models.search_versions(model="p").versions] == ["p"]
    for text in ("x = 'y'", "name > 'a'", "version_number LIKE '1'", "tags.k IS NULL", "run_id = 3"):
        with pytest.raises(InvalidInput):
            models.search_versions(text)
    for limit in (0, 10_001):
        with pytest.raises(InvalidInput):
            models.search_versions(limit=limit)


def test_many_models_cost_a_few_questions(models: ModelService, database: Database) -> None:
    for place in range(30):
        models.create(f"m{place:02}", tags={"a": "b"})
        models.add_version(f"m{place:02}", SOURCE, tags={"c": "d"})
    asked: list[str] = []
    listen = lambda _c, _u, statement, *_rest: asked.append(statement)  # noqa: E731
    sa.event.listen(database._reading, "before_cursor_execute", listen)
    assert len(models.search(limit=30).models) == 30
    assert len([text for text in asked if text.startswith("SELECT")]) <= 10
