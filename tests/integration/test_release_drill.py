"""A rollback is rehearsed on a live endpoint: nobody gets another answer, and what would not work is found."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime, timedelta

import msgspec
import numpy as np
import pytest

from kilter.cli.main import main
from kilter.core.errors import Conflict, Unavailable
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.loop.tables import loops
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant
from kilter.serving.records import TrafficPlan

ROW = {"visit": "a", "at": "2013-03-01T10:00:00Z", "price": 1.0, "hour": 3}


def constant(house, value):
    encoding = Encoding(("price", "hour"), ("numeric", "numeric"), {})
    table = Table("visits", "visit", "at")
    return package(Constant(value), encoding, np.zeros((1, 2)), [], house.workspace.objects, table=table).digest


def remember(house, **state):
    """Write what the loop remembers, as after a promotion."""
    row = house.workspace.loops.ledger.row("shop")
    changed = msgspec.to_builtins(msgspec.structs.replace(row.state, **state))
    with house.workspace.database.transaction() as connection:
        connection.execute(loops.update().where(loops.c.name == "shop").values(state=changed))


@pytest.fixture
def promoted(house, tmp_path, shop):
    """A live endpoint on which v2 has taken over from v1, which is still loaded."""
    built = house(tmp_path / "store")
    built.workspace.loops.apply(shop, "shop.py", by="test")
    now = built.clock.now()
    remember(built, champion=2, previous=1, previous_until=now + timedelta(days=2), now=now)
    bundles = {1: constant(built, 0.1), 2: constant(built, 0.2)}
    built.workspace.endpoints.set_plan(TrafficPlan(loop="shop", champion=2, warm=(1,), bundles=bundles, fallback=0.9))
    built.serve()
    built.until(lambda: built.workspace.endpoints.applied("shop") == 1)
    return built


def workers(house, version):
    (found,) = [one for one in house._client.get("/models").json()["endpoints"] if one["loop"] == "shop"]
    return next(one["pids"] for one in found["versions"] if one["version"] == version)


def test_a_drill_proves_the_way_back_and_nobody_notices(promoted, capsys):
    answers, stop = set(), threading.Event()

    def ask():
        while not stop.is_set():
            answer = promoted.post("shop", [ROW])
            (one,) = answer.json()["predictions"]
            answers.add((answer.status_code, one["value"], one["version"], one["arm"]))

    asking = threading.Thread(target=ask)
    asking.start()
    before = workers(promoted, 1), workers(promoted, 2)
    found = promoted.workspace.loops.drill("shop", by="someone")
    stop.set()
    asking.join()
    assert found.passed, found.reason
    assert (found.champion, found.to) == (2, 1)
    assert found.there > 0 < found.back
    assert answers == {(200, 0.2, 2, "champion")}
    assert (workers(promoted, 1), workers(promoted, 2)) == before, "no process was started for it"
    plan = promoted.workspace.endpoints.plan("shop")
    assert (plan.champion, plan.rehearsed, plan.generation) == (2, None, 3)
    assert promoted.workspace.loops.status("shop").drill == found
    (event,) = promoted.workspace.journal.events(kind="RollbackDrilled")
    assert event.data["there"] == found.there
    assert main(promoted.arguments("status", "shop")) == 0
    assert "drill        passed on 2013-03-01 00:00: to v1 in" in capsys.readouterr().out


def test_a_version_whose_worker_has_died_fails_the_drill_and_the_endpoint_stays(promoted):
    for pid in workers(promoted, 1):
        os.kill(pid, signal.SIGSTOP)  # it is there, and answers nothing
    try:
        found = promoted.workspace.loops.drill("shop")
    finally:
        for pid in workers(promoted, 1):
            os.kill(pid, signal.SIGCONT)
    assert not found.passed
    assert "did not answer" in found.reason
    assert promoted.post("shop", [ROW]).json()["predictions"][0]["value"] == 0.2
    assert promoted.workspace.endpoints.plan("shop").rehearsed is None
    assert promoted.workspace.loops.status("shop").drill.sentence().startswith("failed on")
    deadline = time.monotonic() + 20
    while not (found := promoted.workspace.loops.drill("shop")).passed:
        assert time.monotonic() < deadline, found.reason


def test_the_command_says_it_and_keeps_its_exit_code(promoted, capsys):
    assert main(promoted.arguments("drill", "rollback", "shop")) == 0
    assert "passed on" in capsys.readouterr().out
    assert main(promoted.arguments("drill", "rollback", "shop", "--json")) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["passed"] is True


def test_without_a_way_back_or_a_front_there_is_nothing_to_rehearse(house, tmp_path, shop):
    built = house(tmp_path / "store")
    built.workspace.loops.apply(shop, "shop.py", by="test")
    with pytest.raises(Conflict, match="no previous champion"):
        built.workspace.loops.drill("shop")
    remember(built, champion=2, previous=1)
    bundles = {1: constant(built, 0.1), 2: constant(built, 0.2)}
    built.workspace.endpoints.set_plan(TrafficPlan(loop="shop", champion=2, bundles=bundles))
    with pytest.raises(Conflict, match="another plan"):
        built.workspace.loops.drill("shop")
    built.workspace.endpoints.set_plan(TrafficPlan(loop="shop", champion=2, warm=(1,), bundles=bundles))
    with pytest.raises(Unavailable, match="no front"):
        built.workspace.loops.drill("shop")
    assert isinstance(built.clock.now(), datetime)
