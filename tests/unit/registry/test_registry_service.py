from __future__ import annotations

import threading

import pytest

from kilter.core.clock import ManualClock
from kilter.core.digests import digest
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.core.evidence import Finding, Interval
from kilter.engines.sql.database import Database
from kilter.registry.records import Lineage, ModelVersion
from kilter.registry.service import ModelService, split_reference


@pytest.fixture
def models(database: Database, clock: ManualClock) -> ModelService:
    return ModelService(database, clock)


def add(models: ModelService, key: str = "", model: str = "flight-delay") -> ModelVersion:
    return models.register(
        model,
        digest(key.encode()),
        run="run_1",
        spec=digest(b"spec"),
        data_digest=digest(b"data"),
        trigger="decay(log_loss)",
        key=key,
        params={"trees": 80, "rate": 0.1},
        seed=7,
    )


def test_versions_count_from_one_for_each_model(models: ModelService) -> None:
    assert [add(models, f"flight-delay/{i}").version for i in range(3)] == [1, 2, 3]
    assert add(models, "fraud/1", model="fraud").version == 1
    assert [found.version for found in models.versions("flight-delay")] == [3, 2, 1]


def test_the_same_key_is_the_same_version_and_leaves_no_gap(models: ModelService) -> None:
    first = add(models, "flight-delay/1")
    assert add(models, "flight-delay/1") == first
    assert add(models, "flight-delay/2").version == 2


def test_numbers_have_no_gaps_when_many_register_at_once(models: ModelService) -> None:
    def work(name: str) -> None:
        for i in range(5):
            add(models, f"{name}/{i}")

    threads = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found.version for found in models.versions("flight-delay")) == list(range(1, 21))


def test_a_mark_is_kept_with_its_history(models: ModelService, database: Database, clock: ManualClock) -> None:
    add(models, "a")
    with database.transaction() as connection:
        models.mark(connection, "flight-delay", 1, "gated", "gates passed")
        models.mark(connection, "flight-delay", 1, "gated", "gates passed")
        models.mark(connection, "flight-delay", 1, "shadow", "14 days")
    history = models.history("flight-delay", 1)
    assert [mark.stage for mark in history.stages] == ["candidate", "gated", "shadow"]
    assert (history.version.stage, history.version.reason) == ("shadow", "14 days")
    assert history.stages[0].at == clock.now()


def test_a_mark_is_undone_with_its_transaction(models: ModelService, database: Database) -> None:
    add(models, "a")

    def write() -> None:
        with database.transaction() as connection:
            models.mark(connection, "flight-delay", 1, "rejected", "no")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert models.get("flight-delay", 1).stage == "candidate"


def test_there_is_one_champion(models: ModelService, database: Database) -> None:
    add(models, "a")
    add(models, "b")
    with database.transaction() as connection:
        models.set_alias(connection, "flight-delay", "champion", 1)
        models.set_alias(connection, "flight-delay", "challenger", 2)
    assert models.get("flight-delay").version == 1
    assert models.get("flight-delay", "challenger").version == 2
    with database.transaction() as connection:
        models.set_alias(connection, "flight-delay", "champion", 2)
        models.set_alias(connection, "flight-delay", "challenger", None)
        assert models.alias(connection, "flight-delay", "champion") == 2
        assert models.alias(connection, "flight-delay", "challenger") is None
    assert [(found.version, found.aliases) for found in models.versions("flight-delay")] == [
        (2, ("champion",)),
        (1, ()),
    ]
    assert [(model.name, model.versions, model.champion) for model in models.models()] == [("flight-delay", 2, 2)]


def test_an_alias_needs_a_version(models: ModelService, database: Database) -> None:
    add(models, "a")
    with pytest.raises(NotFound, match="version 9"), database.transaction() as connection:
        models.set_alias(connection, "flight-delay", "champion", 9)
    with pytest.raises(NotFound, match="no champion"):
        models.get("flight-delay")
    with pytest.raises(NotFound, match="flight-delya"):
        models.get("flight-delya")


def test_evidence_comes_back_as_it_was_and_open_ends_stay_open(models: ModelService, database: Database) -> None:
    add(models, "a")
    sound = Finding(
        "beats_champion(log_loss)", "pass", Interval(-0.0197, None, -0.0102, 0.95), "< 0", 6000, "bootstrap"
    )
    odd = Finding(
        "at_least(auc)",
        "fail",
        Interval(float("nan"), float("-inf"), float("inf"), 0.95),
        ">= 0.65",
        0,
        "bootstrap",
        {"worst": float("inf"), "n": 3, "who": "UA", "none": None},
    )
    with database.transaction() as connection:
        models.add_evidence(connection, "flight-delay", 1, "gates", [sound, odd])
    (found,) = models.history("flight-delay@v1").evidence
    assert found.findings[0] == sound
    assert found.findings[1].value is None
    assert found.findings[1].detail == {"worst": "inf", "n": 3, "who": "UA", "none": None, "estimate": "nan"}


def test_lineage_is_kept_with_the_version(models: ModelService) -> None:
    add(models, "a")
    assert models.lineage("flight-delay@1") == Lineage(
        run="run_1",
        spec=digest(b"spec"),
        data_digest=digest(b"data"),
        params={"trees": 80, "rate": 0.1},
        seed=7,
    )


def test_a_second_yes_of_the_same_person_is_the_first(models: ModelService, clock: ManualClock) -> None:
    add(models, "a")
    first = models.approve("flight-delay", "v1", "ana", "looks right")
    assert models.approve("flight-delay", 1, "ana", "again") == first
    models.approve("flight-delay", 1, "bo")
    assert [yes.by for yes in models.history("flight-delay", 1).approvals] == ["ana", "bo"]
    with pytest.raises(InvalidInput, match="needs a name"):
        models.approve("flight-delay", 1, " ")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("m", 7), ("m", 7)),
        (("m", "@champion"), ("m", "champion")),
        (("m@v7", "champion"), ("m", "v7")),
        (("m@v7", 7), ("m", "v7")),
    ],
)
def test_references(given: tuple[str, int | str], expected: tuple[str, int | str]) -> None:
    assert split_reference(*given) == expected


def test_wrong_references_say_what_is_allowed(models: ModelService) -> None:
    add(models, "a")
    with pytest.raises(Conflict, match="two versions"):
        models.get("flight-delay@v7", 8)
    with pytest.raises(InvalidInput, match="is not a version"):
        models.get("flight-delay", "newest")
    with pytest.raises(InvalidInput, match="hyphens"):
        add(models, "a", model="Flight Delay")
    with pytest.raises(InvalidInput, match="64 hexadecimal"):
        models.register("m", "abc", run="r", spec="s", data_digest="d", trigger="t")
