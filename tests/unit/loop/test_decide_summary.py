"""What status and page say about a loop follows from its state alone."""

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from kilter.loop.policy import Policy
from kilter.loop.records import LoopState, Pending, Promote, Release, RollBack, SetTraffic, StartTraining
from kilter.loop.summary import next_deadline, summary, traffic, traffic_number, traffic_of

NOW = datetime(2013, 3, 1, 18, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = Policy(
    loop="flight-delay",
    owner="ops@example.org",
    spec="spec-1",
    on=("decay",),
    cooldown=86400.0,
    budget=600.0,
    canary_steps=(5, 25),
    canary_bake=86400.0,
    canary_limit=86400.0,
)
IDLE = LoopState(policy=POLICY, champion=1, last_training=NOW, budget_day="2013-03-01", spent=450.0, now=NOW)
CANARY = Release(work="canary", trigger="alarm: decay", policy=POLICY, version=2, step=1, since=NOW, due=NOW + DAY)


def test_an_idle_loop_waits_for_an_event() -> None:
    said = summary(IDLE)
    assert (said.work, said.mode, said.share, said.confirmed, said.deadline) == ("idle", "solo", 0, True, None)
    assert said.waiting == "an alarm, a new declaration or a request"
    assert said.budget_left == 150.0
    assert summary(IDLE, NOW + DAY).budget_left == 600.0


def test_an_alarm_waits_for_its_cooldown() -> None:
    said = summary(replace(IDLE, alarms=("decay",)))
    assert said.deadline == NOW + DAY
    assert said.waiting == "a training (alarm: decay) waits for its cooldown or budget until 2013-03-02 18:00"


def test_a_request_waits_for_the_next_day_when_the_budget_is_spent() -> None:
    assert next_deadline(replace(IDLE, requested="ada", spent=600.0)) == datetime(2013, 3, 2, tzinfo=UTC)
    assert next_deadline(replace(IDLE, requested="ada", policy=replace(POLICY, budget=0.0))) is None


def test_a_canary_waits_for_its_bake_and_without_proof_for_its_limit() -> None:
    first, last = replace(CANARY, step=0), CANARY
    assert next_deadline(replace(IDLE, release=first)) == NOW + DAY
    assert next_deadline(replace(IDLE, release=last)) == NOW + 2 * DAY
    said = summary(replace(IDLE, release=last))
    assert (said.stage, said.mode, said.share, said.version) == ("canary", "canary", 25, 2)
    assert said.waiting == "labels for the canary until 2013-03-03 18:00"


def test_what_is_pending_is_not_confirmed_and_what_failed_waits() -> None:
    action = SetTraffic(id="flight-delay/9", champion=1, challenger=2, mode="canary", share=25, warm=(7,))
    release = replace(CANARY, since=None, due=None)
    state = replace(IDLE, release=release, pending=(Pending(action=action),))
    said = summary(state)
    assert (said.confirmed, said.waiting, traffic(state)) == (False, "the endpoint to take up the challenger", action)
    later = NOW + timedelta(seconds=10)
    failed = replace(state, pending=(Pending(action=action, not_before=later),))
    assert (next_deadline(failed), summary(failed).retrying) == (later, 1)


def test_a_paused_loop_says_so() -> None:
    said = summary(replace(IDLE, paused="paused by ada: holiday", alarms=("decay",)))
    assert (said.paused, said.deadline) == ("paused by ada: holiday", None)
    assert said.waiting.startswith("paused")


def test_before_the_first_champion_there_is_no_traffic() -> None:
    training = StartTraining(id="flight-delay/1", trigger="first", spec="spec-1", at=NOW)
    release = Release(work="training", trigger="first", policy=POLICY)
    state = LoopState(policy=POLICY, release=release, pending=(Pending(action=training),))
    said = summary(state)
    assert (said.mode, traffic(state), said.waiting) == (None, None, "the training to end")


def test_every_traffic_action_says_how_the_endpoint_serves() -> None:
    promote = Promote(id="a/3", version=2, previous=1)
    assert traffic_of(promote) == SetTraffic(id="a/3", champion=2, warm=(1,))
    back = RollBack(id="a/4", version=2, to=1, reason="breach", warm=(7,))
    assert traffic_of(back) == SetTraffic(id="a/4", champion=1, warm=(7,))
    assert traffic_number("a/12") == 12
