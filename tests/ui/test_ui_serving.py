"""The pages of endpoints and of a release, during a real canary: a store, a server, and a front that answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.clock import SharedClock
from kilter.evaluation.declare import log_loss
from kilter.loop.deploy import packaged
from kilter.loop.workspace import Store, Workspace
from kilter.packaging.bundle import package
from kilter.release.declare import Agreement, Canary, Errors, Latency, Shadow
from kilter.serving.access.keys import new_key

from .conftest import CARRIERS, DESTINATIONS, LOOP, START, Site, Story, serve

pytestmark = [pytest.mark.ui, pytest.mark.xdist_group("ui")]

DAYS = 65
"""On that day the second version has answered half of the traffic for two days."""
COLUMNS = ("hour", "weekday", "distance", "carrier", "dest", "delay_3h", "departures_3h")
GUARDED = Canary(steps=(5, 25, 50), bake="2d", guards=(Errors(), Latency("50ms"), Agreement()))


class Served(Story):
    """The story with bundles that a front can load, and with guards on its canary."""

    def __init__(self, workspace: Workspace, clock: SharedClock, *, rows: int = 120) -> None:
        self.made: dict[int, str] = {}
        super().__init__(workspace, clock, rows=rows)
        self.steps = [Shadow(bake="14d"), GUARDED]

    def bundle(self, version: int) -> str:
        if version not in self.made:
            import lightgbm

            frame = pl.concat([self.world.day(day) for day in range(3 * version, 3 * version + 3)])
            inputs = frame.select(pl.col(f"x_{name}").alias(name) for name in COLUMNS)
            encoding = Encoding.fit(inputs, COLUMNS)
            rows = encoding.rows(inputs.to_dicts())
            model = lightgbm.LGBMClassifier(n_estimators=8, num_leaves=7, n_jobs=1, verbosity=-1)
            model.fit(rows, frame["label"].to_numpy())
            table = Table("flights", "flight_id", "sched_dep")
            self.made[version] = package(model, encoding, rows, [], self.workspace.objects, table=table).digest
        return self.made[version]

    def _judge_canary(self, version, now) -> None:
        recent = self._recent(self.started or START).with_columns(latency_us=pl.lit(4_000))
        self.workspace.releases.judge_canary(
            LOOP, version, GUARDED, log_loss, recent, since=self.started, at=now, predictions=recent
        )


def flight(number: int, **columns: object) -> dict[str, object]:
    """Return a row as the endpoint takes it."""
    return {
        "flight_id": f"F{number}",
        "sched_dep": "2013-05-05T12:00:00Z",
        "hour": 5 + number % 18,
        "weekday": number % 7,
        "distance": 300 + 7 * number,
        "carrier": CARRIERS[number % len(CARRIERS)],
        "dest": DESTINATIONS[number % len(DESTINATIONS)],
        "delay_3h": number % 40,
        "departures_3h": 50,
        **columns,
    }


class Running(Site):
    """The served store with its front, and the key that opens the endpoint."""

    front: str = ""
    key: str = ""

    def ask(self, *numbers: int, version: int | None = None) -> list[dict]:
        place = "" if version is None else f"/versions/{version}"
        answer = httpx.post(
            f"{self.front}/predict/{LOOP}{place}",
            json={"rows": [flight(one) for one in numbers]},
            headers={"authorization": f"Bearer {self.key}", "user-agent": "python-requests/2.32"},
            timeout=20,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"]


def make_canary(folder: Path) -> tuple[Running, list[subprocess.Popen[bytes]]]:
    """Make a store in the midst of a canary, and start its server and its front; the caller ends them."""
    pytest.importorskip("lightgbm")
    linear = pytest.importorskip("sklearn.linear_model")
    pytest.importorskip("skops")
    clock = SharedClock(folder / "clock")
    clock.set(START)
    story = Served(Workspace.open(folder, clock), clock)
    story.play(DAYS)
    X = np.random.default_rng(3).normal(size=(60, 3))
    story.workspace.deployments.deploy("churn", packaged(linear.LogisticRegression().fit(X, X[:, 0] > 0), X[:5]))
    key, digest = new_key()
    story.workspace.keys.create("billing", digest, [LOOP])
    command = [sys.executable, "-m", "kilter.cli.main", "serve", "--store", str(folder), "--port", "0"]
    with (folder / "front.log").open("wb") as log:
        front = subprocess.Popen([*command, "--clock", f"file:{folder / 'clock'}"], stdout=log, stderr=log)
    server, url = serve(folder)
    running = Running(url, folder, story)
    running.key = key
    endpoints, run = story.workspace.endpoints, Store.parse(folder).run
    deadline = time.monotonic() + 60
    while not (living := run.living("serve")) or any(
        {one.applied for one in endpoints.status(name)} != {endpoints.plan(name).generation} for name in (LOOP, "churn")
    ):
        assert front.poll() is None, (folder / "front.log").read_text()
        assert time.monotonic() < deadline, endpoints.status(LOOP)
        time.sleep(0.05)
    running.front = living.url
    now = clock.now()
    for minute in range(50):
        clock.set(now + timedelta(minutes=minute))
        running.ask(*range(4 * minute, 4 * minute + 2 + minute % 3))
    running.ask(900, version=1)
    return running, [front, server]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("canary") / "store"
    folder.mkdir()
    running, processes = make_canary(folder)
    yield running
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(20)
    running.story.workspace.close()
