"""Several changes in one transaction, and the one version that stands for its model whatever happens."""

from __future__ import annotations

import random
import threading
from contextlib import suppress

import pytest

from kilter.core.clock import ManualClock
from kilter.core.digests import digest
from kilter.core.errors import Conflict, InvalidInput, KilterError, NotFound
from kilter.engines.sql.database import Database
from kilter.registry.rules import PACKAGE
from kilter.registry.service import ModelService
from kilter.registry.together import Stale, Taken, Upload, state_of

UPLOAD = Upload(source=PACKAGE, location=PACKAGE)


@pytest.fixture
def models(database: Database, clock: ManualClock) -> ModelService:
    return ModelService(database, clock)


def loops(models: ModelService, database: Database, champion: int | None = None) -> None:
    for key in (b"1", b"2"):
        models.register("flight", digest(key), run="r", spec=digest(b"s"), data_digest=digest(b"d"), trigger="decay")
    if champion is not None:
        with database.transaction() as connection:
            models.set_alias(connection, "flight", "champion", champion)


def test_a_new_model_comes_with_its_first_version_and_its_default(models: ModelService) -> None:
    version, change = models.publish_new(
        "fraud",
        Upload(source=PACKAGE, location=PACKAGE, aliases=("gold",), tags={"a": "b"}),
        "ana",
        "cards",
        {"t": "u"},
    )
    assert (version.version, sorted(version.aliases), version.tags) == (1, ["default", "gold"], {"a": "b"})
    assert (models.change(change).sentence(), models.change(change).by) == ("registered from model-package", "ana")
    assert (models.registered("fraud").description, models.registered("fraud").tags) == ("cards", {"t": "u"})
    with pytest.raises(Taken):
        models.publish_new("fraud", UPLOAD, "ana")
    assert models.publish("fraud", UPLOAD, "ana")[0].version == 2
    assert models.shown("fraud").version.version == 1


def test_nothing_is_left_of_an_upload_that_is_refused(models: ModelService) -> None:
    for upload in (
        Upload(source="file:///etc/passwd", location=PACKAGE),
        Upload(source=PACKAGE, location="http://elsewhere"),
        Upload(source=PACKAGE, location=PACKAGE, aliases=("v7",)),
        Upload(source=PACKAGE, location=PACKAGE, tags={"kilter.stage": "champion"}),
    ):
        with pytest.raises(InvalidInput):
            models.publish_new("fraud", upload, "ana")
    with pytest.raises(NotFound):
        models.registered("fraud")
    with pytest.raises(NotFound):
        models.publish("fraud", UPLOAD, "ana")


def test_a_model_without_versions_takes_its_first(models: ModelService) -> None:
    models.create("fraud", "cards", {"a": "b"})
    with pytest.raises(NotFound):
        models.shown("fraud")
    assert models.standing([models.registered("fraud")]) == {}
    models.publish_new("fraud", UPLOAD, "ana", tags={"c": "d"})
    assert (models.registered("fraud").description, models.registered("fraud").tags) == ("cards", {"a": "b", "c": "d"})


def test_all_aliases_are_merged_or_none(models: ModelService) -> None:
    models.publish_new("fraud", Upload(source=PACKAGE, location=PACKAGE, aliases=("gold",)), "ana")
    models.publish("fraud", UPLOAD, "ana")
    models.merge_aliases("fraud", 2, ["blue", "default"], ["gold"], "ana")  # gold is not on version 2
    assert models.registered("fraud").aliases == {"blue": 2, "default": 2, "gold": 1}
    with pytest.raises(Conflict):
        models.merge_aliases("fraud", 2, ["gold"], ["blue", "default"], "ana")
    with pytest.raises(InvalidInput):
        models.merge_aliases("fraud", 2, ["gold", "latest"], (), "ana")
    assert models.registered("fraud").aliases == {"blue": 2, "default": 2, "gold": 1}


def test_a_loops_default_is_its_champion(models: ModelService, database: Database) -> None:
    loops(models, database)
    assert models.shown("flight").standing == 1
    with database.transaction() as connection:
        models.set_alias(connection, "flight", "champion", 2)
    assert (models.shown("flight").standing, models.shown("flight", "default").version.version) == (2, 2)
    for add, remove in ((["mine", "champion"], []), (["mine", "default"], []), ([], ["default"]), ([], ["champion"])):
        with pytest.raises(Conflict, match="moved by its loop"):
            models.merge_aliases("flight", 1, add, remove, "ana")
    assert models.registered("flight").aliases == {"champion": 2}
    for act in (
        lambda: models.publish("flight", UPLOAD, "ana"),
        lambda: models.publish_new("flight", UPLOAD, "ana"),
        lambda: models.remove_version("flight", 1, "ana"),
        lambda: models.remove("flight", "ana"),
    ):
        with pytest.raises(Conflict):
            act()
    # an alias of that name that somebody set through another face doesn't move it
    models.assign_alias("flight", "default", 1)
    assert models.shown("flight", "default").version.version == 2


def test_what_was_changed_meanwhile_is_not_overwritten(models: ModelService) -> None:
    models.publish_new("fraud", UPLOAD, "ana", "one")
    seen = models.shown("fraud")
    models.revise("fraud", description="two", tags={"a": "b"}, seen=state_of(seen.model), by="ana")
    with pytest.raises(Stale):
        models.revise("fraud", description="three", seen=state_of(seen.model), by="bo")
    models.revise("fraud", 1, description="first", seen=state_of(seen.version), by="bo")  # the version is as it was
    models.revise("fraud", gone=["a"], by="bo")
    now = models.shown("fraud")
    assert (now.model.description, now.model.tags, now.version.description) == ("two", {}, "first")


def test_one_of_many_makes_the_model_and_all_add_versions(models: ModelService) -> None:
    made: list[int] = []

    def work() -> None:
        with suppress(Taken):
            made.append(models.publish_new("fraud", UPLOAD, "ana")[0].version)
        for _ in range(3):
            models.publish("fraud", Upload(source=PACKAGE, location=PACKAGE, aliases=("default",)), "ana")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = models.search_versions(model="fraud").versions
    assert made == [1]
    assert sorted(version.version for version in versions) == list(range(1, 14))
    assert sum("default" in version.aliases for version in versions) == 1


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_exactly_one_version_stands_for_a_model(models: ModelService, seed: int) -> None:
    chance = random.Random(seed)
    models.create("fraud")
    number = 0
    for _ in range(60):
        number = chance.randint(1, number + 1) if number else 0
        with suppress(KilterError):
            match chance.randrange(8):
                case 0 | 1:
                    models.add_version("fraud", PACKAGE)
                case 2:
                    models.publish("fraud", Upload(source=PACKAGE, location=PACKAGE, aliases=("default",)), "ana")
                case 3:
                    models.remove_version("fraud", number, "ana")
                case 4:
                    models.delete_version("fraud", number)
                case 5:
                    models.merge_aliases("fraud", number, ["default"], (), "ana")
                case 6:
                    models.merge_aliases("fraud", number, (), ["default"], "ana")
                case _:
                    models.drop_alias("fraud", "default")
        there = [version.version for version in models.search_versions(model="fraud").versions]
        number = max(there, default=number)
        standing = models.standing([models.registered("fraud")])
        assert bool(standing) == bool(there)
        if there:
            assert standing["fraud"].version in there
            assert models.shown("fraud").standing == standing["fraud"].version == models.shown("fraud").version.version
