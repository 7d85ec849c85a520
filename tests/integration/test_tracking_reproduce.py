"""A run is had again, to the last bit; or it is said which input differs, and which result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kilter.cli.main import main

PROGRAM = """
import random, sys
from pathlib import Path

import kilter

with kilter.run("again", seed=1, params={"scale": float(sys.argv[1])}, store=Path("store").absolute(), system_metrics=False) as run:
    run.dataset("rows", Path("rows.csv").absolute())
    rows = [float(line) for line in Path("rows.csv").read_text().split()]
    dice = random.Random(1)
    for step in range(5):
        run.metric("loss", sum(rows) * float(sys.argv[1]) + dice.random(), step)
    run.data("model.bin", bytes(dice.randrange(256) for _ in range(32)))
    if float(sys.argv[1]) > 2:
        run.metric("wild", random.SystemRandom().random())
    run.flush()
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "train.py").write_text(PROGRAM)
    (folder / "rows.csv").write_text("1\n2\n3\n")
    (folder / ".gitignore").write_text("store\n__pycache__\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    monkeypatch.chdir(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def train(folder: Path, *words: str) -> str:
    subprocess.run([sys.executable, "train.py", *words], cwd=folder, check=True, capture_output=True)
    return json.loads(kilter_says(folder, "runs", "list"))["runs"][0]["id"]


def kilter_says(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "kilter.cli.main", *words, "--store", str(folder / "store"), "--json"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode in {0, 1}, done.stderr + done.stdout
    return done.stdout


def asked(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, dict]:
    try:
        code = main(["reproduce", *words, "--store", str(folder / "store"), "--json"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bits(work, capsys):
    (work / "train.py").write_text(PROGRAM + "# not committed\n")
    run = train(work, "0.5")
    code, found = asked(capsys, work, run)
    assert (code, found["verdict"], found["differences"]) == (0, "same inputs", [])
    git(work, "checkout", "-q", "train.py")
    code, found = asked(capsys, work, run)  # the change that was not committed has gone
    assert code == 1
    assert {(one["input"], one["name"]) for one in found["differences"]} == {
        ("code", "program"),
        ("code", "uncommitted changes"),
    }
    code, found = asked(capsys, work, run, "--run")  # but the run has it
    assert (code, found["verdict"], found["results"], found["compared"]) == (0, "identical", [], 2)
    again = json.loads(kilter_says(work, "runs", "get", found["again"]))
    assert (again["tags"]["reproduces"], again["status"]) == (run, "FINISHED")
    assert git(work, "worktree", "list").count("\n") == 1
    assert git(work, "status", "--porcelain") == ""


@pytest.mark.slow
def test_what_differs_is_named(work, capsys):
    run = train(work, "3")
    (work / "rows.csv").write_text("1\n2\n4\n")
    code, found = asked(capsys, work, run)
    assert (code, found["verdict"]) == (1, "inputs differ")
    assert ("data", "rows") in {(one["input"], one["name"]) for one in found["differences"]}
    code, found = asked(capsys, work, run, "--run")  # in the worktree the data are as they were
    assert (code, found["verdict"]) == (1, "different")
    assert [one["name"] for one in found["results"]] == ["wild"]


def test_what_cannot_be_run_again_says_why(work, capsys):
    run = train(work, "1", "--password", "hunter2")
    code, found = asked(capsys, work, run, "--run")
    assert (code, "secrets" in found["detail"]) == (2, True)
    assert "hunter2" not in kilter_says(work, "runs", "artifact", run, "recorded.json")
    code, found = asked(capsys, work, "run_none")
    assert (code, found["type"]) == (1, "kilter:not-found")
