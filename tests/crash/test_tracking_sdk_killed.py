"""Trainings and servers are killed at any moment: what reached the disk arrives, once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from kilter.loop.workspace import Workspace
from kilter.testing.server import RunningServer
from kilter.tracking.sdk.sync import left, sync_buffer

KILLS = int(os.environ.get("KILTER_KILLS", "3"))
RUNS = 4

TRAINING = """
import sys, time, kilter
with kilter.run("killed", store=sys.argv[1], system_metrics=False, record=False) as run:
    print(run.id, flush=True)
    for step in range(int(sys.argv[2])):
        run.metric("loss", step * 0.5, step)
        run.metric("other", -step, step)
        if step % 500 == 499:
            run.params({f"p{step}": step})
            run.flush()
            print(step + 1, flush=True)
        if step % 50 == 0:
            time.sleep(0.001)
    print("done", flush=True)
"""


@pytest.mark.slow
def test_a_training_that_is_killed_loses_nothing_that_was_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_BUFFER", str(tmp_path / "buffer"))
    store = tmp_path / "store"
    Workspace.open(store).close()
    dice = random.Random(KILLS)
    flushed: dict[str, int] = {}
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, str(store), "1000000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        identity = process.stdout.readline().strip()
        deadline = time.monotonic() + dice.uniform(0.2, 2.5)
        flushed[identity] = 0
        while time.monotonic() < deadline:
            flushed[identity] = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        if rest and rest[-1].isdigit():
            flushed[identity] = int(rest[-1])
    for folder, _ in left([tmp_path / "buffer"]):
        assert sync_buffer(folder).state == "sent"
    assert left([tmp_path / "buffer"]) == []
    with Workspace.open(store) as workspace:
        for identity, least in flushed.items():
            run = workspace.runs.get(identity)
            assert run.status == "INTERRUPTED"
            for name, factor in (("loss", 0.5), ("other", -1)):
                points = workspace.runs.metric_points(identity, name, limit=10_000_000)
                assert len(points) >= least
                assert [point.step for point in points] == list(range(len(points)))
                assert all(point.value == point.step * factor for point in points)
                assert next(metric.count for metric in run.metrics if metric.name == name) == len(points)
            assert run.params == {f"p{step}": step for step in range(499, 499 + 500 * len(run.params), 500)}
            assert len(run.params) >= least // 500


@pytest.mark.slow
def test_a_server_that_is_killed_loses_and_doubles_nothing(tmp_path):
    steps = 6_000
    environment = {
        "KILTER_TOKEN": "killed-server-token",
        "KILTER_BUFFER": str(tmp_path / "buffer"),
        "KILTER_PATIENCE": "60",
    }
    store = tmp_path / "store"
    server = RunningServer(store, **environment).start()
    program = [sys.executable, "-c", TRAINING, server.url, str(steps)]
    trainings = [
        subprocess.Popen(
            program, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(RUNS)
    ]
    dice = random.Random(KILLS)
    for _ in range(KILLS):
        time.sleep(dice.uniform(0.3, 1.2))
        server.kill()
        server.start()
    identities = [training.communicate(timeout=120)[0].split()[0] for training in trainings]
    assert [training.returncode for training in trainings] == [0] * RUNS
    server.kill()
    assert left([tmp_path / "buffer"]) == []
    with Workspace.open(store) as workspace:
        for identity in identities:
            run = workspace.runs.get(identity)
            assert (run.status, len(run.params)) == ("FINISHED", steps // 500)
            for name in ("loss", "other"):
                points = workspace.runs.metric_points(identity, name, limit=10_000_000)
                assert [point.step for point in points] == list(range(steps))
        assert len(workspace.runs.list().runs) == RUNS
