from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from kilter.core.errors import InvalidInput
from kilter.operations.running import RunFolder, Running

NOW = datetime(2013, 3, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("KILTER_TOKEN", raising=False)


def test_a_process_says_that_it_runs_and_takes_it_back(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.read("server") is None
    said = Running("server", os.getpid(), NOW, "127.0.0.1", 8700, "http://127.0.0.1:8700")
    folder.write(said)
    assert folder.living("server") == said
    folder.remove("server", 1)
    assert folder.read("server") == said
    folder.remove("server", os.getpid())
    assert folder.read("server") is None


def test_what_is_torn_or_dead_is_not_there(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.make()
    (folder.path / "server.json").write_text('{"name": "ser')
    assert folder.read("server") is None
    folder.write(Running("server", 2**22 + 1, NOW))
    assert folder.living("server") is None


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.token() is None
    made = set()
    threads = [threading.Thread(target=lambda: made.add(RunFolder(tmp_path / "run").make_token())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == {folder.token()}
    assert stat.S_IMODE((folder.path / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.path.iterdir()) == ["token"]


def test_a_torn_token_is_made_again(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.make()
    (folder.path / "token").write_text("torn")
    assert len(folder.make_token()) > 30


def test_the_environment_comes_first_and_must_be_strong(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setenv("KILTER_TOKEN", "a-long-enough-token")
    assert folder.make_token() == "a-long-enough-token"
    assert not (folder.path / "token").exists()
    for weak in ("short", "with space in the middle", "ünïcödé-tokens-are-not-headers"):
        monkeypatch.setenv("KILTER_TOKEN", weak)
        with pytest.raises(InvalidInput) as caught:
            folder.token()
        assert weak not in str(caught.value)


def test_a_name_is_held_by_one_process_until_it_dies_and_its_mark_stays(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from kilter.operations.running import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1])); print(folder.hold('controller'), flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    mark = holder.stdout.readline().strip()
    folder = RunFolder(tmp_path)
    assert mark
    assert folder.hold("controller") == ""
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert folder.hold("controller") == folder.hold("controller") == mark
    assert RunFolder(tmp_path).hold("controller") == ""
    folder.let_go("controller")
    assert RunFolder(tmp_path).hold("controller") == mark
