"""Runs go on while their server is away, and everything arrives: at once when it is back, or with ``kilter sync``."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kilter
from kilter.cli.main import main
from kilter.core.clock import SystemClock
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.operations.client import Remote
from kilter.server.ports import free_port
from kilter.testing.server import RunningServer
from kilter.tracking.sdk.sync import left, sync_buffer
from kilter.tracking.service import RunService


class Server(RunningServer):
    """A server that goes and comes back, with a client that goes with it."""

    def __init__(self, store: Path) -> None:
        super().__init__(store, free_port("127.0.0.1", 0))
        self.remote: Remote | None = None

    def stop(self) -> None:
        """Take it away without a word."""
        if self.remote is not None:
            self.remote.close()
        self.kill()

    def runs(self) -> RunService:
        self.remote = self.remote or Remote(self.url)
        return self.remote.service("runs", RunService)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_BUFFER", str(tmp_path / "buffer"))
    monkeypatch.setenv("KILTER_SYSTEM_METRICS", "0")
    monkeypatch.setenv("KILTER_TOKEN", "integration-test-token")
    made = Server(tmp_path / "store")
    yield made
    made.stop()


def embedded(store: Path) -> RunService:
    return RunService(
        Database.open(f"sqlite:///{store / 'kilter.db'}"), ObjectStore.open(str(store / "objects")), SystemClock()
    )


@pytest.mark.slow
def test_a_training_goes_on_while_the_server_is_away(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_PATIENCE", "20")
    server.start()
    with kilter.run("outage", params={"lr": 0.1}, store=server.url) as run:
        for step in range(300):
            run.metric("loss", 1 / (step + 1), step)
        assert run.wait()
        server.stop()
        slowest = 0.0
        for step in range(300, 10_000):
            began = time.perf_counter()
            run.metric("loss", 1 / (step + 1), step)
            slowest = max(slowest, time.perf_counter() - began)
            if step % 100 == 0:
                time.sleep(0.02)
        run.text("notes", "written while nobody listened")
        assert slowest < 1.0
        server.start()
    found = server.runs().get(run.id)
    assert (found.status, found.params, found.metric("loss")) == ("FINISHED", {"lr": 0.1}, 1 / 10_000)
    points = server.runs().metrics(run.id, "loss")
    assert [point.step for point in points] == list(range(10_000))
    assert server.runs().artifact(run.id, "notes.txt") == b"written while nobody listened"
    assert left([tmp_path / "buffer"]) == []


def test_a_run_that_never_met_its_server_is_sent_by_sync(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KILTER_PATIENCE", "0.2")
    big = os.urandom(9 << 20)  # two parts
    with kilter.run("offline", name="first", store=server.url, seed=7) as run:
        run.history("loss", [1.0, 0.5, float("nan")])
        run.data("weights.bin", big)
        run.model("net", _file(tmp_path / "net.bin", b"net"), type="custom", params={"depth": 3})
    assert "kilter sync" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sync", "--json"])
    (waiting,) = json.loads(capsys.readouterr().out)
    assert (waiting["state"], waiting["run"]) == ("waiting", run.id)
    server.start()
    assert main(["sync", run.id, "--json"]) == 0
    (sent,) = json.loads(capsys.readouterr().out)
    assert (sent["state"], sent["refused"]) == ("sent", 0)
    assert main(["sync", run.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    runs = server.runs()
    found = runs.get(run.id)
    assert (found.status, found.name, found.seed) == ("FINISHED", "first", 7)
    assert [point.value for point in runs.metrics(run.id, "loss")] == [1.0, 0.5, "NaN"]
    assert {kept.name: kept.size for kept in found.artifacts}["weights.bin"] == len(big)
    (use,) = found.inputs.models
    assert runs.logged_model(use.model).params == {"depth": "3"}


def test_two_syncs_at_once_send_everything_once(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_BUFFER", str(tmp_path / "buffer"))
    monkeypatch.setenv("KILTER_PATIENCE", "0")
    store = tmp_path / "store"
    program = (
        "import os, kilter\n"
        f"run = kilter.run('x', store={str(store)!r}, system_metrics=False, record=False)\n"
        "run.start()\n"
        "run._sender.close(0)\n"  # nobody sends
        "for step in range(5000): run.metric('loss', step, step)\n"
        "run.flush()\n"
        "print(run.id, flush=True)\n"
        "os._exit(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    identity = done.stdout.strip()
    ((folder, _),) = left([tmp_path / "buffer"])
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        states = [one.state for one in pool.map(sync_buffer, [folder, folder])]
    assert set(states) <= {"sent", "busy"}
    assert "sent" in states
    points = embedded(store).metrics(identity, "loss")
    assert [point.step for point in points] == list(range(5000))
    assert embedded(store).get(identity).status == "INTERRUPTED"


def _child(run: kilter.tracking.fluent.ActiveRun, place: int) -> None:
    for step in range(100):
        run.metric(f"child-{place}", step, step)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_other_processes_log_to_the_same_run(tmp_path, method, monkeypatch):
    monkeypatch.setenv("KILTER_SYSTEM_METRICS", "0")
    context = multiprocessing.get_context(method)
    with kilter.run("processes", store=tmp_path / "store") as run:
        run.metric("own", 1.0)
        children = [context.Process(target=_child, args=(run, place)) for place in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        run.metric("own", 2.0)
    found = embedded(tmp_path / "store").get(run.id)
    assert found.status == "FINISHED"
    assert {metric.name: metric.count for metric in found.metrics} == {"own": 2, "child-0": 100, "child-1": 100}


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
