from __future__ import annotations

from pathlib import Path

import pytest

from kilter.core.errors import DeclarationError, InvalidInput, NotFound
from kilter.loop.environment import Overlay, load_environment, resolve

SOUND = """
[env.dev]
store = "data/.kilter"
port = 8800

[env.prod]
store = "s3://models/kilter"
metadata = "env:DATABASE_URL"
approve = "owner"
budget = "10 cpu-min/day"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "kilter.toml").write_text(text)
    return folder


def test_an_environment_says_where_a_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SOUND)
    dev = load_environment(tmp_path)
    assert (dev.name, dev.store, dev.port, dev.approve) == ("dev", "data/.kilter", 8800, None)
    prod = load_environment(tmp_path / "kilter.toml", "prod")
    assert (prod.store, prod.port, prod.approve, prod.budget) == ("s3://models/kilter", 8700, "owner", "10 cpu-min/day")
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://me:pw@db/kilter")
    assert prod.url("metadata") == "postgresql+psycopg://me:pw@db/kilter"
    assert prod.url("objects") == ""


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_environment(tmp_path) == Overlay(name="dev", folder=str(tmp_path))
    assert load_environment(tmp_path, base=Overlay(name="dev", port=1)).port == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[env.prod]\ngates = []", "never change the gates"),
        ("[env.prod]\nlabel = 'x'", "never change the label"),
        ("[env.prod]\ndata = 'x'", "never change the data"),
        ("[env.prod]\nstor = 'x'", "did you mean 'store'"),
        ("[env.production]\nstore = 'x'", "did you mean 'prod'"),
        ("[env.prod]\nport = 99999", "is no port"),
        ("[env.prod]\nport = 'x'", "is no port"),
        ("[env.prod]\nreplicas = 0", "number of processes"),
        ("[env.prod]\napprove = 'boss'", "approve"),
        ("[env.prod]\nbudget = '10'", "is not a budget"),
        ("[env.prod]\nbudget = 10", "is not a budget"),
        ("[env.prod]\nmetadata = 'postgresql://me:pw@db/kilter'", "holds a password"),
        ("[env.prod]\nstore = 's3://b/p?secret_key=abc'", "holds a password"),
        ("[env.prod", "can't be read"),
        ("env = 3", "not a table"),
        ("[env]\nprod = 3", "not a table"),
    ],
)
def test_what_an_environment_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(DeclarationError, match=message) as caught:
        load_environment(tmp_path, "prod")
    assert str(tmp_path / "kilter.toml") in caught.value.where
    assert "xoxb" not in str(caught.value)
    assert "pw" not in str(caught.value)


def test_an_unknown_environment(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="dev or staging or prod"):
        load_environment(tmp_path, "production")  # type: ignore[arg-type]


def test_references(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" abc\n")
    assert resolve("env:TOKEN", variables={"TOKEN": "x"}) == "x"
    assert resolve("file:token", folder=str(tmp_path)) == "abc"
    with pytest.raises(NotFound, match="TOKEN is not set"):
        resolve("env:TOKEN", variables={})
    with pytest.raises(NotFound, match="can't be read"):
        resolve("file:none", folder=str(tmp_path))
    with pytest.raises(InvalidInput) as caught:
        resolve("hunter2")
    assert "hunter2" not in str(caught.value)
