"""``kilter models`` on a store: what it prints for programs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kilter.cli.main import main
from kilter.core.digests import digest
from kilter.loop.workspace import Workspace
from kilter.tracking.records import MetricPoint

SOURCE = "runs:/r/m"


@pytest.fixture
def store(tmp_path: Path) -> str:
    with Workspace.open(str(tmp_path / "store")) as workspace:
        models, runs = workspace.models, workspace.runs
        models.create("house prices", tags={"team": "ops"})
        for place in range(2):
            run = runs.start(
                "prices", params={"depth": place, "same": 1}, data_digest="d" * 64, code_digest=f"{place}" * 64
            )
            runs.log_metrics(run.id, [MetricPoint(name="auc", value=0.5 + place / 10)])
            models.add_version("house prices", SOURCE, run=run.id, tags={"n": str(place)})
            models.register(
                "flight",
                digest(b"%d" % place),
                run=run.id,
                spec=digest(b"s"),
                data_digest=digest(b"d"),
                trigger="decay",
                params={"trees": 80 + place},
                environment=digest(b"e"),
            )
        with workspace.database.transaction() as connection:
            models.set_alias(connection, "flight", "champion", 2)
    return str(tmp_path / "store")


@pytest.fixture
def kilter(store: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str, code: int = 0) -> Any:
        assert main(["models", *words, "--store", store, "--json"]) == code
        captured = capsys.readouterr()
        return json.loads(captured.out)

    return run


def test_models_of_both_owners_are_listed_and_shown(kilter: Any) -> None:
    found = kilter("list", "--order", "name")["models"]
    assert [(one["name"], one["owner"], one["aliases"]) for one in found] == [
        ("flight", "loop", {"champion": 2}),
        ("house prices", "client", {}),
    ]
    assert [one["name"] for one in kilter("list", "--filter", "tags.team = 'ops'")["models"]] == ["house prices"]
    assert kilter("show", "flight@champion")["version"] == 2
    assert [one["version"] for one in kilter("versions", "house prices")] == [2, 1]
    assert [one["bundle"] for one in kilter("versions", "flight")] == [digest(b"1"), digest(b"0")]


def test_what_is_said_is_kept_with_who_and_why(kilter: Any) -> None:
    assert kilter("alias", "house prices@v1", "best", "--reason", "wins")["aliases"] == {"best": 1}
    assert kilter("tag", "house prices@best", "a=b=c", "--delete", "n") == {"a": "b=c"}
    kilter("describe", "house prices@1", "the first")
    assert kilter("stage", "house prices@best", "production")["stage"] == "Production"
    assert kilter("approve-state", "house prices@1", "approved", "--reason", "read")["approval"] == "approved"
    assert kilter("alias", "house prices", "best", "--delete")["aliases"] == {}
    said = [(one["what"], one["field"], one["after"], one["reason"]) for one in kilter("history", "house prices@1")]
    assert said == [
        ("version", "", SOURCE, ""),
        ("alias", "best", "1", "wins"),
        ("tag", "a", "b=c", ""),
        ("tag", "n", None, ""),
        ("description", "", "the first", ""),
        ("stage", "", "Production", ""),
        ("approval", "", "approved", "read"),
        ("alias", "best", None, ""),
    ]
    assert all(one["by"] for one in kilter("history", "house prices@1")[1:])
    assert kilter("rename", "house prices", "prices")["name"] == "prices"
    kilter("delete", "prices@2")
    kilter("delete", "prices", "--reason", "done")
    assert kilter("history", "prices")[-1]["reason"] == "done"
    assert [one["name"] for one in kilter("list")["models"]] == ["flight"]


def test_two_versions_side_by_side(kilter: Any) -> None:
    found = kilter("compare", "house prices@v1", "house prices@v2")
    assert (found["left"], found["right"]) == ("house prices@v1", "house prices@v2")
    by_name = {(one["part"], one["name"]): (one["left"], one["right"], one["same"]) for one in found["differences"]}
    assert by_name["metric", "auc"] == (0.5, 0.6, False)
    assert by_name["param", "depth"] == (0, 1, False)
    assert by_name["param", "same"] == (1, 1, True)
    assert by_name["lineage", "data_digest"] == ("d" * 64, "d" * 64, True)
    assert by_name["lineage", "code_digest"] == ("0" * 64, "1" * 64, False)
    assert by_name["tag", "n"] == ("0", "1", False)
    loops = kilter("compare", "flight@1", "flight@champion")
    by_name = {(one["part"], one["name"]): (one["left"], one["right"], one["same"]) for one in loops["differences"]}
    assert by_name["param", "trees"] == (80, 81, False)
    assert by_name["lineage", "environment"] == (digest(b"e"), digest(b"e"), True)
    assert by_name["lineage", "bundle"] == (digest(b"0"), digest(b"1"), False)


def test_what_a_loop_owns_is_refused_with_what_to_do(kilter: Any) -> None:
    for words, fix in (
        (("alias", "flight@v1", "champion"), "kilter promote"),
        (("alias", "flight", "champion", "--delete"), "kilter promote"),
        (("delete", "flight"), "another name"),
        (("rename", "flight", "x"), "another name"),
        (("approve-state", "flight@v1", "approved"), "kilter approve"),
    ):
        refused = kilter(*words, code=5)
        assert fix in refused["fix"], refused
    assert kilter("history", "flight@v2")["changes"][-1]["field"] == "champion"


@pytest.mark.parametrize(
    "words",
    [
        ("show", "none"),
        ("show", "flight@9"),
        ("compare", "flight@1", "flight@1"),
        ("compare", "flight@1", "none@1"),
        ("alias", "house prices", "best"),
        ("tag", "house prices"),
        ("tag", "house prices", "novalue"),
        ("stage", "house prices@1", "prod"),
        ("list", "--filter", "nonsense"),
        ("history", "never"),
    ],
)
def test_mistakes_are_said(words: tuple[str, ...], store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *words, "--store", store]) in {1, 2}
    assert "error:" in capsys.readouterr().err
