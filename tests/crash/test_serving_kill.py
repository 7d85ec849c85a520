"""``kill -9`` of workers and of the front itself, under load."""

import os
import random
import signal
import threading
import time
import warnings
from pathlib import Path

import httpx
import numpy as np
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.packaging.bundle import package
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.records import PredictionBatch, TrafficPlan
from kilter.testing.front import RunningFront

pytestmark = pytest.mark.crash

AT = "2013-03-01T10:00:00Z"
CLIENTS = 4


class Load:
    """Clients that ask without pause, each with rows of its own, and keep every answer.

    Args:
        front: Whom they ask.
        retry: Ask again when the connection breaks, as a client would when a server is restarted; with a key.
    """

    def __init__(self, front, *, retry=False):
        self.front = front
        self.retry = retry
        self.answers = {}
        self.failed = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number):
        client, url = httpx.Client(timeout=20), None
        count = 0
        while not self._stopping.is_set():
            count += 1
            names = [f"{number}-{count}-{place}" for place in range(1 + count % 3)]
            rows = [{"id": name, "at": AT, "x": float(count % 7), "y": 0.5} for name in names]
            while True:
                url = str(self.front.client.base_url)
                try:
                    answer = client.post(
                        f"{url}/predict/late", json={"rows": rows}, headers={"idempotency-key": names[0]}
                    )
                except httpx.TransportError as error:
                    if not self.retry:
                        self.failed.append(repr(error))
                        break
                    if self._stopping.is_set():
                        break
                    time.sleep(0.02)
                    continue
                if answer.status_code == 200:
                    for name, one in zip(names, answer.json()["predictions"], strict=True):
                        self.answers[name] = one
                else:
                    self.failed.append(answer.text)
                break
        client.close()


def two_models(front):
    lightgbm = pytest.importorskip("lightgbm")
    generator = np.random.default_rng(0)
    X = generator.normal(size=(500, 2))
    bundles = {}
    for version in (1, 2):
        y = (X[:, version - 1] > 0).astype(int)
        model = lightgbm.LGBMClassifier(n_estimators=20, verbosity=-1, n_jobs=1).fit(X, y)
        encoding = Encoding(("x", "y"), ("numeric",) * 2, {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bundles[version] = package(model, encoding, X, [], front.objects, table=Table("t", "id", "at")).digest
    return bundles


def recorded(front):
    """Every recorded row: id -> (key, value, version, arm); and how often each key was recorded."""
    log = PredictionLog.open(front.folder / "log")
    rows, times = {}, {}
    for position, batch in log.read():
        if isinstance(batch, PredictionBatch):
            for number, key in enumerate(batch.keys):
                found = (key, batch.values[number], batch.versions[number], batch.arms[number])
                rows[f"main-{position:x}-{number:x}"] = found
                times[key] = times.get(key, 0) + 1
    log.close()
    return rows, times


def assert_on_record(front, answers):
    rows, times = recorded(front)
    for name, one in answers.items():
        assert rows[one["id"]] == (name, one["value"], one["version"], one["arm"])
    return times


def test_killing_workers_fails_no_request_and_every_answer_is_on_record(tmp_path):
    randomly = random.Random(0)
    with RunningFront(tmp_path) as front:
        bundles = two_models(front)
        front.plan(
            TrafficPlan(loop="late", champion=1, challenger=2, mode="canary", share=50, bundles=bundles, fallback=0.5)
        )
        front.start()
        killed = 0
        with Load(front) as load:
            while killed < 30:
                time.sleep(randomly.uniform(0.01, 0.15))
                for version in (1, 2) if randomly.random() < 0.3 else (randomly.choice((1, 2)),):
                    for pid in front.pids("late", version):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
            front.until(lambda: front.client.get("/readyz").status_code == 200)
        assert load.failed == []
        assert len(load.answers) > 50
        times = assert_on_record(front, load.answers)
        assert set(times.values()) == {1}
        honest = {("champion", 1), ("challenger", 2), ("fallback", 1), ("fallback", 2), ("fallback", 0)}
        assert {(one["arm"], one["version"]) for one in load.answers.values()} <= honest
        assert front.metric("worker_restarts", loop="late") >= killed // 2


def test_a_worker_that_hangs_is_ended_and_its_requests_are_answered(tmp_path):
    with RunningFront(tmp_path, stall=0.5, deadline=5.0) as front:
        front.plan(TrafficPlan(loop="late", champion=1, bundles=two_models(front), fallback=0.5))
        front.start()
        pid = front.pids("late", 1)[0]
        os.kill(pid, signal.SIGSTOP)
        answer = front.predict("late", [{"id": "a", "at": AT, "x": 1.0, "y": 1.0}]).json()["predictions"][0]
        assert (answer["arm"], answer["version"]) == ("champion", 1)
        assert front.pids("late", 1) != [pid]


def test_readiness_falls_while_the_champion_is_dead_and_the_warm_version_answers(tmp_path):
    with RunningFront(tmp_path, patience=0.0) as front:
        front.plan(TrafficPlan(loop="late", champion=2, warm=(1,), bundles=two_models(front), fallback=0.5))
        front.start()
        os.kill(front.pids("late", 2)[0], signal.SIGKILL)
        seen = set()
        for _ in range(200):
            seen.add(front.client.get("/readyz").status_code)
            answer = front.predict("late", [{"id": "a", "at": AT, "x": 1.0, "y": 1.0}]).json()["predictions"][0]
            seen.add((answer["arm"], answer["version"]))
            if {503, ("fallback", 1)} <= seen and front.client.get("/readyz").status_code == 200:
                break
        assert {503, ("fallback", 1)} <= seen
        front.until(lambda: front.client.get("/readyz").status_code == 200)


def test_killing_the_front_loses_no_acknowledged_prediction_and_repeats_none(tmp_path):
    randomly = random.Random(1)
    with RunningFront(tmp_path) as front:
        front.plan(TrafficPlan(loop="late", champion=1, bundles=two_models(front), fallback=0.5))
        front.start()
        workers = []
        with Load(front, retry=True) as load:
            for _ in range(4):
                time.sleep(randomly.uniform(0.2, 0.5))
                workers += front.pids("late", 1)
                front.stop(signal.SIGKILL)
                front.start()  # takes the log over: the kernel has freed the dead writer's lock
            time.sleep(0.2)
        assert load.failed == []
        assert len(load.answers) > 20
        times = assert_on_record(front, load.answers)
        assert set(times.values()) == {1}, "a request that was sent again under its key has one record"
        front.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
