"""Clients of MLflow log batches while the server is killed again and again: what was acknowledged is there, once and whole."""

from __future__ import annotations

import concurrent.futures
import http.client
import itertools
import json
import os
import random
import threading
import time

import pytest

from kilter.loop.workspace import Workspace
from kilter.testing.server import RunningServer

KILLS = int(os.environ.get("KILTER_KILLS", "5"))
CLIENTS = 4
POINTS = 50
MANY = 100
"""Points of one metric in a batch that are kept as columns."""

pytestmark = pytest.mark.slow


def post(port: int, path: str, body: dict) -> dict | None:
    """Return the answer, or None when there was none."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
    except (OSError, http.client.HTTPException):
        return None
    if answer.status == 503:
        return None
    assert answer.status == 200, content
    return json.loads(content)


def insist(port: int, path: str, body: dict, over: threading.Event) -> dict | None:
    """Send the same until it is answered, as MLflow's client does."""
    while not over.is_set():
        answer = post(port, path, body)
        if answer is not None:
            return answer
        time.sleep(0.05)
    return None


def test_no_acknowledged_batch_is_lost_torn_or_doubled(tmp_path):
    server = RunningServer(tmp_path / "store")
    server.start()
    runs = [post(server.port, "runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"] for _ in range(CLIENTS)]
    over = threading.Event()
    acknowledged: dict[str, int] = {}

    def log(run: str) -> None:
        for batch in itertools.count():
            points = [
                {"key": key, "value": batch + 0.5, "timestamp": 1000 + batch, "step": batch * POINTS + place}
                for place in range(POINTS)
                for key in ("a", "b")
            ]
            points += [
                {"key": "many", "value": 0.5, "timestamp": 1000 + batch, "step": batch * MANY + place}
                for place in range(MANY)
            ]
            single = {"run_id": run, "key": "single", "value": 0.5, "timestamp": 1000 + batch, "step": batch}
            if insist(server.port, "runs/log-batch", {"run_id": run, "metrics": points}, over) is None:
                return
            if insist(server.port, "runs/log-metric", single, over) is None:
                return
            acknowledged[run] = batch + 1
            time.sleep(0.002)

    dice = random.Random(KILLS)
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(log, run) for run in runs]
        for _ in range(KILLS):
            time.sleep(dice.uniform(0.2, 1.0))
            server.kill()
            server.start()
        time.sleep(0.5)
        over.set()
        for client in clients:
            client.result()
    server.kill()
    with Workspace.open(server.store) as workspace:
        for run in runs:
            assert acknowledged[run] > KILLS
            for key, size in (("a", POINTS), ("b", POINTS), ("many", MANY), ("single", 1)):
                points = workspace.runs.metric_points(run, key, limit=10_000_000)
                steps = [point.step for point in points]
                assert len(steps) >= acknowledged[run] * size, "an acknowledged batch is missing"
                assert len(steps) % size == 0, "a batch is half there"
                assert steps == list(range(len(steps))), "a batch is there twice, or a hole"
            summary = {metric.name: metric.count for metric in workspace.runs.get(run).metrics}
            assert summary["a"] == summary["b"] == summary["many"] * POINTS // MANY
            assert summary["single"] == len(points)
