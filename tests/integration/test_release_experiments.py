"""An experiment on a live endpoint: several versions answer, keys stay where they are, and the outcomes decide."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import msgspec
import numpy as np
import pytest

from kilter.cli.main import main
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.loop.experiments import carried
from kilter.loop.tables import loops
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant
from kilter.release.records import Arm
from kilter.serving.records import TrafficPlan

ARMS = [Arm(name="control", version=1), Arm(name="blue", version=2), Arm(name="green", version=3, share=2.0)]


def register(house, name, values):
    """Register constant models, one version per value, and let the first answer."""
    encoding = Encoding(("price", "hour"), ("numeric", "numeric"), {})
    table = Table("visits", "visit", "at")
    digests = [
        package(Constant(value), encoding, np.zeros((1, 2)), [], house.workspace.objects, table=table).digest
        for value in values
    ]
    for digest in digests:
        house.workspace.models.register(name, digest, "run", "spec", "data", "test")
    house.workspace.endpoints.set_plan(TrafficPlan(loop=name, champion=1, bundles={1: digests[0]}, fallback=0.9))


def ask(house, loop, keys):
    """Ask for one row per key, and return the predictions."""
    rows = [{"visit": key, "at": "2013-03-01T10:00:00Z", "price": 1.0, "hour": 3} for key in keys]
    answer = house.post(loop, rows)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


@pytest.fixture
def button(house, tmp_path):
    """A live endpoint without a loop, with three versions."""
    built = house(tmp_path / "store")
    register(built, "button", [0.1, 0.2, 0.3])
    built.serve()
    built.until(lambda: built.workspace.endpoints.applied("button") == 1)
    return built


def served(house, loop):
    house.until(lambda: house.workspace.endpoints.applied(loop) == house.workspace.endpoints.plan(loop).generation)


def test_from_the_start_to_the_end_of_an_experiment(button, capsys):
    experiments, releases = button.workspace.experiments, button.workspace.releases
    for user in range(60):  # the pre-period: some buy more than others, and are known by their key
        releases.observe("button", "revenue", float(user % 20), key=f"user {user}")
    button.clock.set(button.clock.now() + timedelta(days=1))
    ask(button, "button", ["before"])

    experiments.start("button", "colours", ARMS, "revenue", high=40.0, pre="7d", by="someone")
    assert main(button.arguments("experiment", "status", "button")) == 0
    listed = capsys.readouterr().out  # a narrow terminal folds the column
    assert all(arm in listed for arm in ("control=v1", "blue=v2", "green=v3"))
    served(button, "button")

    dealt = {}
    for start in range(0, 600, 50):
        keys = [f"user {user}" for user in range(start, start + 50)]
        for key, one in zip(keys, ask(button, "button", keys), strict=True):
            dealt[key] = one
            assert one["value"] == {1: 0.1, 2: 0.2, 3: 0.3}[one["version"]]
            assert one["arm"] == ("champion" if one["version"] == 1 else "challenger")
    again = ask(button, "button", list(dealt)[:100])
    assert [one["version"] for one in again] == [one["version"] for one in dealt.values()][:100], "a key stays"

    for user, (key, one) in enumerate(dealt.items()):
        value = user % 20 + {1: 0.0, 2: 18.0, 3: 0.0}[one["version"]]
        whose = {"prediction": one["id"]} if user % 2 else {"key": key}
        releases.observe("button", "revenue", float(value), **whose, request_id=f"order {user}")
    found = experiments.status("button", "colours")
    assert [(arm.name, arm.version) for arm in found.arms] == [("control", 1), ("blue", 2), ("green", 3)]
    assert [arm.share for arm in found.arms] == pytest.approx([0.25, 0.25, 0.5])
    assert sum(arm.units for arm in found.arms) == sum(arm.outcomes for arm in found.arms) == 600
    assert {one.arm: one.verdict for one in found.comparisons} == {"blue": "better", "green": "inconclusive"}
    blue = found.comparisons[0]
    assert blue.effect.low <= 18.0 <= blue.effect.high
    assert blue.variance_left < 1.0, "the keys that were known before say something"
    assert not found.sample_ratio.mismatched

    assert main(button.arguments("experiment", "status", "button", "colours")) == 0
    shown = capsys.readouterr().out
    assert "blue is better than control (+" in shown
    assert "green against control: inconclusive" in shown
    assert main(button.arguments("experiment", "status", "button", "colours", "--json")) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["comparisons"][0]["verdict"] == "better"

    assert main(button.arguments("experiment", "stop", "button", "colours", "--reason", "blue it is")) == 0
    served(button, "button")
    plan = button.workspace.endpoints.plan("button")
    assert (plan.mode, plan.champion, plan.split, list(plan.bundles)) == ("solo", 1, {}, [1])
    assert {one["version"] for one in ask(button, "button", list(dealt)[:20])} == {1}
    after = experiments.status("button", "colours")
    assert (after.phase, after.comparisons) == ("stopped", found.comparisons)
    assert main(button.arguments("experiment", "list")) == 0
    assert "stopped" in capsys.readouterr().out
    kinds = [event.kind for event in button.workspace.journal.events(subject="button")]
    assert kinds == ["ExperimentStarted", "ExperimentStopped"]


def test_the_command_starts_what_the_operation_starts(button, capsys):
    command = ["experiment", "start", "button", "colours", "--metric", "revenue", "--high", "40", "--bandit"]
    arms = [word for arm in ("control=v1", "blue=v2:0.5", "green=3:1") for word in ("--arm", arm)]
    assert main(button.arguments(*command, *arms)) == 0
    assert "button: experiment colours (running), revenue, more is better" in capsys.readouterr().out
    plan = button.workspace.experiments.status("button", "colours").plan
    assert [(arm.name, arm.version, arm.share) for arm in plan.arms] == [
        ("control", 1, 1.0),
        ("blue", 2, 0.5),
        ("green", 3, 1.0),
    ]
    assert (plan.allocation, plan.high) == ("thompson", 40.0)
    assert main(button.arguments(*command, "--arm", "blue")) == 2
    assert "is no arm" in capsys.readouterr().err


def test_an_arm_whose_outcomes_get_lost_stops_all_conclusions(button):
    experiments, releases = button.workspace.experiments, button.workspace.releases
    experiments.start("button", "colours", ARMS, "revenue", high=10.0)
    served(button, "button")
    keys = [f"user {user}" for user in range(1500)]
    for start in range(0, 1500, 500):
        for key, one in zip(keys[start : start + 500], ask(button, "button", keys[start : start + 500]), strict=True):
            if one["version"] != 3 or int(key.split()[1]) % 4 == 0:
                releases.observe("button", "revenue", 9.0 if one["version"] == 2 else 1.0, key=key)
    found = experiments.status("button", "colours")
    assert found.sample_ratio.mismatched
    assert found.sample_ratio.dealt < 1000 < found.sample_ratio.counted
    assert {one.verdict for one in found.comparisons} == {"inconclusive"}


def test_a_bandit_draws_its_shares_anew_and_logs_them_with_every_row(button):
    experiments, releases = button.workspace.experiments, button.workspace.releases
    experiments.start("button", "colours", ARMS[:2], "clicks", allocation="thompson", every="1h", floor=0.1)
    served(button, "button")
    for key in (f"user {user}" for user in range(200)):
        (one,) = ask(button, "button", [key])
        releases.observe("button", "clicks", 1.0 if one["version"] == 2 else 0.0, prediction=one["id"])
    assert experiments.weigh() == 0, "its time has not come"
    button.clock.set(button.clock.now() + timedelta(hours=1))
    assert experiments.weigh() == 1
    assert experiments.weigh() == 0
    split = button.workspace.endpoints.plan("button").split
    assert split == pytest.approx({1: 0.1, 2: 0.9})
    served(button, "button")
    counted = defaultdict(int)
    for one in ask(button, "button", [f"new {user}" for user in range(400)]):
        counted[one["version"]] += 1
    assert counted[2] > 300
    found = experiments.status("button", "colours")
    assert found.comparisons[0].verdict == "better"
    assert not found.sample_ratio.mismatched, "each row is held against the shares that it was dealt by"


def test_a_version_that_fails_is_charged_for_it(button):
    experiments = button.workspace.experiments
    experiments.start("button", "colours", ARMS[:2], "errors")
    served(button, "button")
    ask(button, "button", [f"user {user}" for user in range(50)])
    found = experiments.status("button", "colours")
    assert [arm.outcomes for arm in found.arms] == [arm.units for arm in found.arms]
    assert all(arm.value.estimate == pytest.approx(0.0, abs=0.1) for arm in found.arms)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"name": "Colours"}, "name"),
        ({"arms": ARMS[:1]}, "arms"),
        ({"arms": [ARMS[1], ARMS[0]]}, "arms[0].version"),
        ({"arms": [ARMS[0], Arm(name="blue", version=1)]}, "arms.version"),
        ({"arms": [ARMS[0], Arm(name="blue", version=2, share=0.0)]}, "arms[1].share"),
        ({"arms": [ARMS[0], Arm(name="blue", version=2, share=1e-6)]}, "arms.share"),
        ({"metric": "loss"}, "metric"),
        ({"high": 0.0}, "high"),
        ({"within": "2d"}, "missing"),
        ({"within": "2d", "missing": 5.0}, "missing"),
        ({"pre": "long"}, "pre"),
        ({"confidence": 1.0}, "confidence"),
        ({"floor": 0.9}, "floor"),
    ],
)
def test_what_cannot_work_is_refused_and_names_its_field(button, given, where):
    asked = {"loop": "button", "name": "colours", "arms": ARMS[:2], "metric": "revenue"} | given
    with pytest.raises(InvalidInput) as error:
        button.workspace.experiments.start(**asked)
    assert error.value.where == where
    assert button.workspace.endpoints.plan("button").mode == "solo"


def test_one_experiment_at_a_time_and_a_name_stands_for_one(button):
    experiments = button.workspace.experiments
    with pytest.raises(NotFound, match="such experiment"):
        experiments.status("button", "colours")
    with pytest.raises(NotFound):
        experiments.start("button", "colours", [ARMS[0], Arm(name="blue", version=9)], "revenue")
    experiments.start("button", "colours", ARMS, "revenue")
    with pytest.raises(Conflict, match="split of 'colours'"):
        experiments.start("button", "shapes", ARMS, "revenue")
    experiments.stop("button", "colours")
    with pytest.raises(Conflict, match="started before"):
        experiments.start("button", "colours", ARMS, "revenue")


def test_on_a_loop_it_freezes_releases_and_a_rollback_ends_it(house, tmp_path, shop):
    built = house(tmp_path / "store")
    built.workspace.loops.apply(shop, "shop.py", by="test")
    register(built, "shop", [0.1, 0.2])
    row = built.workspace.loops.ledger.row("shop")
    state = msgspec.to_builtins(msgspec.structs.replace(row.state, champion=1, now=built.clock.now()))
    with built.workspace.database.transaction() as connection:
        connection.execute(loops.update().where(loops.c.name == "shop").values(state=state))
    experiments = built.workspace.experiments
    experiments.start("shop", "colours", ARMS[:2], "loss")
    assert built.workspace.loops.status("shop").summary.frozen == "experiment colours runs"
    found = experiments.status("shop", "colours")
    assert (found.phase, [arm.value for arm in found.arms]) == ("running", [None, None])

    plan = built.workspace.endpoints.plan("shop")
    unloaded = TrafficPlan(loop="shop", champion=1, bundles={1: plan.bundles[1]}, fallback=0.9)
    kept = carried(unloaded, plan)
    assert (kept.mode, kept.split, kept.experiment) == ("split", plan.split, "colours"), "it goes on"
    back = TrafficPlan(loop="shop", champion=2, bundles={2: plan.bundles[2]})
    assert carried(back, plan) is back
    built.workspace.endpoints.set_plan(back)
    assert experiments.status("shop", "colours").phase == "interrupted"
    experiments.stop("shop", "colours")
    assert built.workspace.endpoints.plan("shop").champion == 2
    assert built.workspace.loops.status("shop").summary.frozen == ""
