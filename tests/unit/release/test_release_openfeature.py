"""Flags read what the routers say, and a flag of the application holds a release back; with the real OpenFeature SDK."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import Unavailable
from kilter.loop.workspace import Workspace
from kilter.serving.answering.router import Router, Split
from kilter.serving.records import TrafficPlan

openfeature = pytest.importorskip("openfeature")

from openfeature import api  # noqa: E402
from openfeature.evaluation_context import EvaluationContext  # noqa: E402
from openfeature.event import ProviderEventDetails  # noqa: E402
from openfeature.flag_evaluation import Reason  # noqa: E402
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider  # noqa: E402

from kilter.release.openfeature import ReleaseProvider, ReleaseSwitch  # noqa: E402

FLIGHTS = Path(__file__).parents[3] / "examples" / "flights" / "flight_delay.py"
BUNDLES = {1: "a", 2: "b", 3: "c"}
CANARY = TrafficPlan(loop="delay", champion=1, challenger=2, mode="canary", share=25, bundles=BUNDLES)


class Plans:
    """Endpoints whose plan can be changed, and that count how often they are asked."""

    def __init__(self, plan):
        self.known, self.asked, self.endpoints = plan, 0, self

    def plan(self, _loop):
        self.asked += 1
        if isinstance(self.known, Exception):
            raise self.known
        return self.known


@pytest.fixture
def flags() -> Iterator[SimpleNamespace]:
    now = SimpleNamespace(seconds=0.0)
    plans = Plans(CANARY)
    api.set_provider(ReleaseProvider(plans, clock=lambda: now.seconds), domain="releases")
    yield SimpleNamespace(client=api.get_client("releases"), plans=plans, now=now)
    api.clear_providers()


def user(key):
    return EvaluationContext(targeting_key=key)


def test_a_flag_says_what_the_router_of_the_endpoint_says(flags):
    router = Router("delay", 2, 25)
    for number in range(200):
        key = f"user {number}"
        arm = router.arm(key)
        found = flags.client.get_string_details("delay", "none", user(key))
        assert (found.variant, found.reason) == (arm, Reason.SPLIT)
        assert found.value == ("v2" if arm == "challenger" else "v1")
        assert flags.client.get_boolean_value("delay", False, user(key)) == (arm == "challenger")
        assert flags.client.get_integer_value("delay", 0, user(key)) == (2 if arm == "challenger" else 1)
        assert flags.client.get_float_value("delay", 0.0, user(key)) == (0.25 if arm == "challenger" else 0.75)
    assert flags.plans.asked == 1, "a plan is known for a while"


def test_an_experiment_has_an_arm_per_version(flags):
    split = {1: 0.5, 2: 0.3, 3: 0.2}
    flags.plans.known = TrafficPlan(
        loop="delay", champion=1, mode="split", split=split, experiment="blue", bundles=BUNDLES, generation=7
    )
    dealt = Split("delay", "blue", split)
    for number in range(100):
        version = dealt.version(f"user {number}")
        found = flags.client.get_object_details("delay", {}, user(f"user {number}"))
        arm = "champion" if version == 1 else f"v{version}"
        assert found.value == {
            "version": version, "arm": arm, "mode": "split", "share": split[version], "experiment": "blue"
        }  # fmt: skip
        assert (found.variant, found.flag_metadata) == (arm, {"generation": 7, "mode": "split"})


def test_a_release_that_ends_is_seen_within_a_second(flags):
    taken = next(key for key in map(str, range(100)) if Router("delay", 2, 25).arm(key) == "challenger")
    assert flags.client.get_boolean_value("delay", False, user(taken))
    flags.plans.known = TrafficPlan(loop="delay", champion=1, bundles=BUNDLES)
    flags.now.seconds += 0.9
    found = flags.client.get_boolean_details("delay", True, user(taken))
    assert (found.value, found.reason, found.variant) == (False, Reason.STATIC, "champion")


@pytest.mark.parametrize(
    ("plan", "key", "code"),
    [
        (CANARY, None, "TARGETING_KEY_MISSING"),
        (Unavailable("the store is down"), "user 1", "PROVIDER_NOT_READY"),
    ],
)
def test_what_cannot_be_said_gives_the_default_and_the_reason(flags, plan, key, code):
    flags.plans.known = plan
    found = flags.client.get_string_details("delay", "none", None if key is None else user(key))
    assert (found.value, found.reason, found.error_code.value) == ("none", Reason.ERROR, code)


def test_an_endpoint_without_a_model_or_that_is_not_there(tmp_path):
    with Workspace.open(tmp_path, ManualClock(__import__("datetime").datetime(2013, 3, 1))) as workspace:
        workspace.endpoints.set_plan(TrafficPlan(loop="delay", champion=None, fallback=0.2))
        provider = ReleaseProvider(workspace)
        assert provider.resolve_string_details("delay", "none").reason == Reason.DISABLED
        assert provider.resolve_string_details("nowhere", "none").error_code.value == "FLAG_NOT_FOUND"
    assert provider.get_metadata().name == "kilter"


class TestSwitch:
    @pytest.fixture
    def switched(self, tmp_path):
        flags = {"releases": InMemoryFlag("on", {"on": True, "off": False})}
        provider = InMemoryProvider(flags)
        api.set_provider(provider, domain="app")
        with Workspace.open(tmp_path) as workspace:
            workspace.loops.apply(FLIGHTS.read_text(), "flight_delay.py", by="test")
            switch = ReleaseSwitch(api.get_client("app"), workspace, "flight-delay", "releases")

            def turn(position, *, look=True):
                provider._flags["releases"] = InMemoryFlag(position, {"on": True, "off": False})
                provider.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=["releases"]))
                if not look:
                    return None
                switch.check()
                return workspace.loops.status("flight-delay").summary.paused

            yield SimpleNamespace(turn=turn, workspace=workspace, switch=switch)
            switch.close()
        api.clear_providers()

    def test_a_flag_that_is_turned_off_pauses_the_loop_and_on_lets_it_go_on(self, switched):
        assert switched.workspace.loops.status("flight-delay").summary.paused is None
        paused = switched.turn("off")
        assert paused == "paused by flag releases: the flag releases is off"
        assert not switched.switch.check()
        assert switched.turn("on") is None

    def test_the_providers_event_is_enough(self, switched):
        switched.turn("off", look=False)
        deadline = time.monotonic() + 10
        while switched.workspace.loops.status("flight-delay").summary.paused is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_what_a_person_has_paused_stays_paused(self, switched):
        switched.workspace.loops.pause("flight-delay", "I know better", "owner")
        switched.turn("off")
        assert switched.turn("on") == "paused by owner: I know better"

    def test_a_flag_that_cannot_be_evaluated_changes_nothing(self, switched):
        switched.switch._flag = "unknown"
        assert switched.turn("off") is None
