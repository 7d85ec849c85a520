from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from kilter.cli.main import GROUPS, main, usage
from kilter.core.errors import tree

COMMANDS = [name for group in GROUPS.values() for name in group]


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("KILTER_STORE", "KILTER_TOKEN", "KILTER_HOME"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments, environment=None):
    return subprocess.run(
        [sys.executable, "-m", "kilter.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def test_help_names_every_command_and_imports_nothing_heavy():
    code = "import sys, kilter.cli.main as m; m.main(['--help']); print(sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert f"  {name} " in found.stdout
    loaded = found.stdout.splitlines()[-1]
    for heavy in ("numpy", "polars", "sqlalchemy", "litestar", "httpx", "msgspec", "rich", "argparse"):
        assert f"'{heavy}'" not in loaded, heavy


def test_help_is_quick_beside_a_bare_interpreter():
    def best(*arguments):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            times.append(time.perf_counter() - began)
        return min(times)

    assert best("-m", "kilter.cli.main", "--help") - best("-c", "pass") < 0.25


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_without_opening_anything(command, capsys, tmp_path):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: kilter {command}" in text
    assert "--json" in text
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_the_usage_is_shown(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out.strip() == usage().strip()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kilter ")


@pytest.mark.parametrize(
    ("arguments", "code", "detail"),
    [
        (["stauts"], 2, "there is no command 'stauts'"),
        (["--nothing"], 2, "no command"),
        (["status", "--nothing"], 2, "unrecognized arguments: --nothing"),
        (["plan"], 2, "required: file"),
        (["plan", "missing.py"], 2, "no such file"),
        (["promote", "flight-delay"], 2, "names no version"),
        (["status", "--env", "moon"], 2, "no environment"),
        (["status", "--store", "ftp://x"], 2, "is no store"),
        (["server", "--store", "http://127.0.0.1:1"], 2, "runs on a store, not on a server"),
        (["link"], 1, "no server runs"),
        (["init", "--template", "none"], 2, "no template"),
        (["data", "append", "flights", "missing.csv", "--key", "a", "--time", "b"], 2, "no such file"),
        (["data", "append", "flights", "missing.csv"], 1, "no table 'flights'"),
        (["status", "nothing"], 1, "nothing"),
        (["up", "--host", "0.0.0.0"], 1, "needs a token"),  # noqa: S104
        (["up", "--port", "99999"], 2, "no port"),
    ],
)
def test_errors_are_told_to_people_and_to_programs(arguments, code, detail, capsys):
    assert main(arguments) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert detail in told.err
    assert main([*arguments, "--json"]) == code
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert detail in document["detail"]
    assert tree()[document["type"].removeprefix("kilter:")].exit_code == code
    assert told.err == ""


def test_a_near_command_is_offered(capsys):
    assert main(["stauts"]) == 2
    assert "did you mean `kilter status`?" in capsys.readouterr().err


def test_options_stand_before_and_after_the_command(capsys, tmp_path):
    for arguments in (
        ["--json", "--store", "a", "journal", "list"],
        ["journal", "--json", "--store", "a", "list"],
        ["journal", "list", "--store", "a", "--json"],
    ):
        assert main(arguments) == 0, arguments
        assert json.loads(capsys.readouterr().out) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_environment_decides_where(capsys, tmp_path, monkeypatch):
    (tmp_path / "kilter.toml").write_text('[env.dev]\nstore = "here"\n[env.prod]\nstore = "there"\n')
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert main(["status", "--json"]) == 0
    assert main(["status", "--env", "prod", "--json"]) == 0
    capsys.readouterr()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "here", "kilter.toml", "there"]
    (tmp_path / "kilter.toml").write_text("[env.dev]\nlabel = 'late'\n")
    assert main(["status"]) == 2
    assert "label" in capsys.readouterr().err


def test_data_from_files(capsys, tmp_path):
    rows = "id,at,delay,name\n1,2013-03-01T00:00:00Z,3.5,a\n2,2013-03-01T01:00:00Z,,b\n"
    (tmp_path / "rows.csv").write_text(rows)
    (tmp_path / "more.jsonl").write_text('{"id": 3, "at": "2013-03-02T00:00:00Z", "delay": 1.0, "name": "c"}\n')
    append = ["data", "append", "flights", "rows.csv", "more.jsonl", "--key", "id", "--time", "at", "--json"]
    assert main(append) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert main(append) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 0
    assert main(["data", "describe", "flights", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["rows"], described["nulls"]["delay"]) == (3, 1)
    (tmp_path / "bad.parquet").write_text("no parquet")
    assert main(["data", "append", "flights", "bad.parquet"]) == 2
    assert main(["data", "append", "flights", str(tmp_path / "rows.txt")]) == 2


def test_a_verified_journal_and_a_broken_one(capsys, tmp_path):
    import sqlalchemy as sa

    from kilter.loop.workspace import Workspace

    with Workspace.open(tmp_path / ".kilter") as workspace, workspace.database.transaction() as connection:
        for number in range(3):
            workspace.journal_log.append(connection, "Happened", "loop", {"number": number})
    assert main(["journal", "verify"]) == 0
    assert "3 events are whole" in capsys.readouterr().out
    assert main(["journal", "follow", "--after", "1", "--count", "2", "--json"]) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [2, 3]
    with Workspace.open(tmp_path / ".kilter") as workspace, workspace.database.transaction() as connection:
        connection.execute(sa.text("UPDATE journal SET data = replace(data, '1', '7') WHERE seq = 2"))
    assert main(["journal", "verify"]) == 1
    assert "event 2" in capsys.readouterr().err


def test_what_is_stored_cannot_command_the_terminal(capsys, tmp_path):
    from kilter.loop.workspace import Workspace

    with Workspace.open(tmp_path / ".kilter") as workspace, workspace.database.transaction() as connection:
        workspace.journal_log.append(connection, "Happened", "loop", {"text": "\x1b]0;owned\x07"})
    assert main(["journal", "list"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m kilter.cli.main --help | head -1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert found.stderr == ""


def test_init_writes_what_is_shipped_and_overwrites_nothing(capsys, tmp_path):
    from kilter.cli.init import templates

    for name in templates():
        folder = tmp_path / name
        assert main(["init", str(folder), "--template", name, "--json"]) == 0
        written = json.loads(capsys.readouterr().out)["files"]
        assert written
        assert all((folder / file).is_file() for file in written)
        assert main(["init", str(folder), "--template", name]) == 5
        capsys.readouterr()
