"""``kilter serve`` with flags, and what ``kilter endpoints running`` says of it."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from kilter.core.clock import SystemClock
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.loop.store import Store
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant
from kilter.serving.records import TrafficPlan
from kilter.serving.service import EndpointService


def kilter(*arguments):
    return [sys.executable, "-m", "kilter.cli.main", *arguments]


@pytest.fixture
def store(tmp_path):
    """A store with one endpoint."""
    found = Store.parse(str(tmp_path / "store"), None)
    found.folder.mkdir()
    database = Database.open(found.database)
    database.migrate()
    encoding, table = Encoding(("x",), ("numeric",), {}), Table("t", "id", "at")
    bundle = package(Constant(0.5), encoding, np.zeros((1, 1)), [], ObjectStore.open(found.objects), table=table)
    plan = TrafficPlan(loop="late", champion=1, bundles={1: bundle.digest})
    EndpointService(database, SystemClock()).set_plan(plan)
    database.close()
    return found


def test_what_runs_is_told(store):
    where = ["--store", str(store.folder)]
    asked = subprocess.run(kilter("endpoints", "running", *where), capture_output=True, text=True, check=False)
    assert asked.returncode == 1
    assert "kilter serve" in asked.stderr
    front = subprocess.Popen(kilter("serve", *where, "--port", "0", "--replicas", "2", "--memory", "1GB"))
    try:
        end = time.monotonic() + 60
        while True:
            asked = subprocess.run(
                kilter("endpoints", "running", "--json", *where), capture_output=True, text=True, check=False
            )
            if asked.returncode == 0 and json.loads(asked.stdout) and json.loads(asked.stdout)[0]["versions"]:
                break
            assert time.monotonic() < end, asked.stderr
        (endpoint,) = json.loads(asked.stdout)
        (version,) = endpoint["versions"]
        # with a budget of memory, an endpoint at rest sleeps until it is asked
        assert (endpoint["loop"], endpoint["generation"], version["ready"], version["awake"]) == (
            "late",
            1,
            True,
            False,
        )
        text = subprocess.run(kilter("endpoints", "running", *where), capture_output=True, text=True, check=True).stdout
        assert "asleep" in text
    finally:
        front.terminate()
        front.wait(30)
