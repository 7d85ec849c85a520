"""Two controllers on one store: one works, the other waits, and neither a kill nor a stall lets both do anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from kilter.engines.sql.tables import leases
from kilter.loop.controller import LEASE_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.crash]


class Process:
    """A ``kilter controller``."""

    def __init__(self, house) -> None:
        self.house = house
        self.words = (house.store.folder / f"controller-{time.monotonic_ns()}.txt").open("w+")
        command = house.arguments("controller", "--clock", f"file:{house.store.folder / 'clock'}")
        self.process = subprocess.Popen([sys.executable, "-m", "kilter.cli.main", *command], stderr=self.words)

    def holds(self) -> bool:
        """Say whether the lease is this process's, and has not run out on the others."""
        with self.house.workspace.database.reading() as connection:
            holder = connection.execute(sa.select(leases.c.holder).where(leases.c.name == "controller")).scalar()
        return (holder or "").endswith(f"/{self.process.pid}")

    def said(self) -> str:
        self.words.seek(0)
        return self.words.read()

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.words.close()


@pytest.fixture(params=["folder", "database"])
def one(request, house, tmp_path):
    """A house on each kind of store."""
    if request.param == "folder":
        return house(tmp_path / "store")
    postgres, bucket = request.getfixturevalue("postgres_url"), request.getfixturevalue("s3_url")
    return house(f"{postgres}&objects={quote(bucket, safe='')}", tmp_path / "home")


@pytest.fixture
def controller(one):
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(one))
        return started[-1]

    yield start
    for process in started:
        process.close()


def test_one_works_and_the_other_waits_for_its_lease(one, controller, shop, visited):
    kilter = one.workspace
    kilter.loops.apply(shop, "shop.py", by="test")
    kilter.data.ingest("visits", visited(one.clock.now()))
    one.serve()
    first = controller()
    one.until(first.holds)
    second = controller()
    one.until(lambda: "another controller works on this store" in second.said())
    one.settle("shop", lambda status: status.summary.champion == 1)
    assert first.holds()

    # The first stands still, as a machine that swaps or sleeps: after its lease the second takes over, and not before.
    first.signal(signal.SIGSTOP)
    began = time.monotonic()
    one.until(second.holds)
    waited = time.monotonic() - began
    assert LEASE_SECONDS / 2 < waited < LEASE_SECONDS + 10
    one.clock.set(one.clock.now() + timedelta(hours=2))
    kilter.loops.retrain("shop", by="test")
    first.signal(signal.SIGCONT)  # it wakes up in the middle of what it was doing
    one.until(lambda: kilter.loops.status("shop").summary.version == 2 or kilter.models.models()[0].versions == 2)
    one.until(lambda: "another controller works on this store" in first.said())
    assert second.holds()

    # The second is killed: the first goes on where it was.
    second.signal(signal.SIGKILL)
    second.process.wait()
    began = time.monotonic()
    one.until(first.holds)
    assert time.monotonic() - began < LEASE_SECONDS + 10
    one.clock.set(one.clock.now() + timedelta(hours=2))
    one.settle("shop", lambda status: status.summary.confirmed)

    # Whatever was asked for was answered once, and nothing was trained twice.
    events = kilter.journal_log.events(limit=1000)
    assert kilter.journal_log.verify().ok
    asked = Counter(event.data["id"] for event in events if "id" in event.data)
    answered = Counter(event.data["action"] for event in events if "action" in event.data)
    assert set(asked.values()) == {1}
    assert set(answered.values()) == {1}
    assert answered.keys() <= asked.keys()
    assert [event.kind for event in events].count("TrainingFinished") == 2
    assert kilter.models.models()[0].versions == 2
    assert len(kilter.runs.list("shop").runs) == 2
    first.signal(signal.SIGTERM)
    assert first.process.wait(30) == 0
