"""``kilter up``: what it refuses to start on, and that its parts live and die as they should."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from kilter.cli.main import main
from kilter.operations.running import RunFolder

pytestmark = pytest.mark.crash

PARTS = ("server", "serve", "controller")


class Up:
    """A running ``kilter up --json``; its lines are read as they come."""

    def __init__(self, store, *arguments: str) -> None:
        self.folder = RunFolder(store / "run")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kilter.cli.main", "up", "--store", str(store), "--port", "0", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.told: list[dict[str, object]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.told.append(json.loads(line))

    def wait(self, event: str, part: str = "", after: int = 0, seconds: float = 90.0) -> dict[str, object]:
        return until(
            lambda: next(
                (one for one in self.told[after:] if one.get("event") == event and one.get("part", "") == part), None
            ),
            seconds,
            lambda: f"{event} {part}: {self.told} {self.process.poll()}",
        )

    def pid(self, part: str) -> int:
        return next(
            one["pid"] for one in reversed(self.told) if one.get("event") == "started" and one.get("part") == part
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        self.process.stdout.close()


def until(found: Callable[[], object], seconds: float, otherwise: Callable[[], str]):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (value := found()) is not None and value is not False:
            return value
        time.sleep(0.05)
    raise AssertionError(otherwise())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def up(tmp_path):
    started = Up(tmp_path / "store")
    yield started
    started.close()


def test_parts_come_back_and_leave_together(up, tmp_path, capsys):
    told = up.wait("up")
    for part in PARTS:
        assert up.folder.living(part).pid == up.pid(part)
    assert httpx.get(f"{told['page']}/readyz", timeout=10).status_code == 200

    # A second one is told who is there, and changes nothing.
    assert main(["up", "--store", str(tmp_path / "store"), "--json"]) == 5
    refused = json.loads(capsys.readouterr().out)
    assert f"process {up.process.pid}" in refused["detail"]

    for part in PARTS:
        seen, old = len(up.told), up.pid(part)
        os.kill(old, signal.SIGKILL)
        assert "signal 9" in up.wait("died", part, seen)["detail"]
        up.wait("ready", part, seen)
        assert up.pid(part) != old
        assert up.folder.living(part).pid == up.pid(part)

    pids = [up.pid(part) for part in PARTS]
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(40) == 0
    assert not any(alive(pid) for pid in pids)
    up.wait("stopped")
    assert sorted(path.name for path in up.folder.path.glob("*.json")) == []


def test_children_do_not_outlive_a_killed_supervisor(up, tmp_path):
    up.wait("up")
    pids = [up.pid(part) for part in PARTS]
    up.process.kill()
    up.process.wait()
    until(lambda: not any(alive(pid) for pid in pids), 30, lambda: f"{[pid for pid in pids if alive(pid)]} live on")
    # The lock died with it: the next one starts on what it left behind.
    again = Up(tmp_path / "store")
    try:
        again.wait("up")
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(40) == 0
    finally:
        again.close()


def test_a_port_in_use_is_told_before_anything_starts(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["up", "--store", str(tmp_path / "store"), "--port", str(port), "--json"]) == 5
        told = json.loads(capsys.readouterr().out)
        assert (told["type"], told["where"]) == ("kilter:conflict", "--port")
        assert str(port) in told["detail"]
        given = ["--port", "0", "--serve-port", str(port)]
        assert main(["up", "--store", str(tmp_path / "store"), *given, "--json"]) == 5
        assert json.loads(capsys.readouterr().out)["where"] == "--serve-port"
        assert main(["server", "--store", str(tmp_path / "store"), "--port", str(port), "--json"]) == 5
        capsys.readouterr()
    assert not (tmp_path / "store" / "kilter.db").exists()


def test_a_folder_that_is_no_store_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["up", "--store", str(tmp_path), "--json"]) == 2
    assert "thesis.txt" in json.loads(capsys.readouterr().out)["detail"]
    assert main(["up", "--store", str(tmp_path / "thesis.txt"), "--json"]) == 2
    assert "file, not a folder" in json.loads(capsys.readouterr().out)["detail"]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written(capsys):
    assert main(["up", "--store", "/proc/kilter", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["type"] == "kilter:unavailable"
    assert "can't be written" in told["detail"]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00torn", b"not a database at all"])
def test_a_half_written_store_is_told_and_kept(tmp_path, capsys, content):
    store = tmp_path / "store"
    store.mkdir()
    (store / "kilter.db").write_bytes(content)
    code = main(["status", "--store", str(store), "--json"])
    told = json.loads(capsys.readouterr().out)
    if content:
        assert code == 1
        assert told["type"] == "kilter:damaged", told
        assert (store / "kilter.db").read_bytes() == content
    else:
        assert (code, told) == (0, [])  # an empty file is what a crash before the first write leaves


def test_beyond_loopback_needs_a_token_and_tls(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("KILTER_TOKEN", raising=False)
    for command in ("up", "server"):
        asked = [command, "--store", str(tmp_path / "store"), "--host", "0.0.0.0", "--port", "0", "--json"]  # noqa: S104
        assert main(asked) == 1
        assert "needs a token" in json.loads(capsys.readouterr().out)["detail"]
        monkeypatch.setenv("KILTER_TOKEN", "a-token-of-the-tests")
        assert main(asked) == 1
        assert "TLS" in json.loads(capsys.readouterr().out)["detail"]
        monkeypatch.delenv("KILTER_TOKEN")


def test_a_part_that_cannot_start_ends_everything_with_its_words(tmp_path, capsys):
    store = tmp_path / "store"
    store.mkdir()
    (store / "kilter.db").write_bytes(b"not a database at all")
    assert main(["up", "--store", str(store), "--port", "0"]) == 1
    assert "no SQLite database" in capsys.readouterr().err
    assert not (store / "run" / "up.json").exists()
    # What only the parts can see: a database that begins well and ends too early.
    (store / "kilter.db").write_bytes(b"SQLite format 3\x00torn")
    assert main(["up", "--store", str(store), "--port", "0"]) == 1
    told = capsys.readouterr().err
    assert "ends again and again" in told
    assert "no SQLite database" in told
