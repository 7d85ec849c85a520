"""A life without a gap: versions are swapped, workers and the front are killed, and all the while somebody asks.

``KILTER_SWAPS=100`` runs the full size: 100 swaps, 20 kills of workers, 5 of the front.
"""

import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import httpx
import msgspec
import pytest

from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.records import PredictionBatch, TrafficPlan
from kilter.serving.settings import Settings
from kilter.serving.workers.memory import held_by
from kilter.testing.front import RunningFront

pytestmark = pytest.mark.crash

AT = "2013-03-01T10:00:00Z"
SWAPS = int(os.environ.get("KILTER_SWAPS", "6"))
KILLS = max(SWAPS // 5, 3)
FRONTS = max(SWAPS // 20, 1)
CLIENTS = 4
PAUSE = 0.002


class Load:
    """Clients that ask steadily, with a key each, and keep what they were answered; they ask again only a front that is gone."""

    def __init__(self, front):
        self.front = front
        self.url = str(front.client.base_url)
        self.answers = {}
        self.failed = []
        self.broken = 0
        self._down = threading.Event()
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

    def kill_front(self):
        """Kill the front, and start its successor."""
        self._down.set()
        self.front.stop(signal.SIGKILL)
        self.front.start()
        self.url = str(self.front.client.base_url)
        self._down.clear()

    def _ask(self, number):
        with httpx.Client(timeout=20) as client:
            count = 0
            while not self._stopping.is_set():
                count += 1
                self._once(client, [f"{number}-{count}-{place}" for place in range(1 + count % 3)])
                time.sleep(PAUSE)

    def _once(self, client, names):
        rows = [{"id": name, "at": AT, "x": 1.0} for name in names]
        while True:
            try:
                answer = client.post(
                    f"{self.url}/predict/late", json={"rows": rows}, headers={"idempotency-key": names[0]}
                )
            except httpx.TransportError as error:
                if not self._down.is_set() and self.url in str(error.request.url):
                    self.failed.append(repr(error))
                    return
                self.broken += 1
                if self._stopping.is_set():
                    return
                time.sleep(0.01)
                continue
            if answer.is_success:
                self.answers.update(zip(names, answer.json()["predictions"], strict=True))
            else:
                self.failed.append(answer.text)
            return


def steady(front, load, seconds=0.2):
    """Let the load go on for a while, and return what the front and its workers hold."""
    before = len(load.answers)
    front.until(lambda: len(load.answers) > before + 50)
    time.sleep(seconds)
    pids = [front.process.pid, *front.pids("late", front.models("late")["champion"])]
    return sum(map(held_by, pids))


def assert_on_record(front, answers):
    log = PredictionLog.open(front.folder / "log")
    rows, times = {}, {}
    for position, batch in log.read():
        if isinstance(batch, PredictionBatch):
            for number, key in enumerate(batch.keys):
                rows[f"main-{position:x}-{number:x}"] = (key, batch.values[number], batch.versions[number])
                times[key] = times.get(key, 0) + 1
    log.close()
    for name, one in answers.items():
        assert rows[one["id"]] == (name, one["value"], one["version"])
    assert set(times.values()) == {1}


def test_swaps_and_kills_fail_no_request_and_what_was_answered_is_in_the_log(tmp_path):
    randomly = random.Random(3)
    with RunningFront(tmp_path, settings=Settings(replicas=2)) as front:
        # 0.5 can only be told apart by the version that answers; every version answers its own number
        bundles = {version: front.constant(float(version)) for version in range(1, SWAPS + 2)}
        plan = TrafficPlan(loop="late", champion=1, bundles=bundles)
        front.plan(plan)
        front.start()
        with Load(front) as load:
            steady(front, load)
            begun = steady(front, load)
            for version in range(2, SWAPS + 2):
                plan = msgspec.structs.replace(plan, champion=version, warm=(version - 1,))
                front.plan(plan)
            plan = msgspec.structs.replace(plan, warm=())
            front.plan(plan)
            front.until(lambda: len(front.models("late")["versions"]) == 1)
            held = steady(front, load, 1.0)
            for _ in range(KILLS):
                front.until(lambda: len(front.pids("late", plan.champion)) == 2)
                os.kill(randomly.choice(front.pids("late", plan.champion)), signal.SIGKILL)
                time.sleep(randomly.uniform(0.0, 0.1))
            front.until(lambda: len(front.pids("late", plan.champion)) == 2)
            restarts = front.metric("worker_restarts", loop="late")
            orphans = []
            for _ in range(FRONTS):
                orphans += front.pids("late", plan.champion)
                load.kill_front()
                steady(front, load)
        assert load.failed == []
        assert {one["arm"] for one in load.answers.values()} == {"champion"}
        assert all(one["value"] == float(one["version"]) for one in load.answers.values())
        assert {one["version"] for one in load.answers.values()} >= {1, SWAPS + 1}
        assert restarts >= KILLS
        assert_on_record(front, load.answers)
        assert held <= 1.1 * begun, "memory comes back after swaps"
        front.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans), 10)
        report = {
            "swaps": SWAPS,
            "worker_kills": KILLS,
            "front_kills": FRONTS,
            "answered_rows": len(load.answers),
            "failed": len(load.failed),
            "asked_again_while_the_front_was_gone": load.broken,
            "memory_begun_mb": round(begun / 1e6, 1),
            "memory_after_swaps_mb": round(held / 1e6, 1),
        }
        print(json.dumps(report))
