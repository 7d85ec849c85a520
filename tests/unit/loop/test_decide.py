"""The rules of ``decide``, one by one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from kilter.core.evidence import Finding
from kilter.loop.decide import decide, pending_actions
from kilter.loop.policy import Policy
from kilter.loop.records import (
    ActionFailed,
    Actions,
    AlarmCleared,
    AlarmRaised,
    Applied,
    Approved,
    Awaited,
    CanaryJudged,
    Events,
    FreezeRequested,
    GatesJudged,
    JudgeGates,
    JudgeShadow,
    LoopState,
    Mark,
    Notify,
    PauseRequested,
    Promote,
    PromoteRequested,
    ResumeRequested,
    RetrainRequested,
    RollBack,
    RollbackRequested,
    SetTraffic,
    ShadowJudged,
    StartTraining,
    Tick,
    TrafficSet,
    TrainingFailed,
    TrainingFinished,
    UnfreezeRequested,
    VersionArrived,
)
from kilter.loop.summary import summary

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2013, 3, 1, tzinfo=UTC)
FINDING = Finding(name="decay", verdict="fail", value=None, allowed="< 0", rows=100, rule="paired")
POLICY = Policy(
    loop="flight-delay",
    owner="ops@example.org",
    spec="spec-1",
    on=("decay",),
    cooldown=7 * 86400.0,
    budget=600.0,
    max_rejections=3,
    shadow_bake=4 * 86400.0,
    shadow_limit=6 * 86400.0,
    canary_steps=(5, 25),
    canary_bake=86400.0,
    canary_limit=2 * 86400.0,
    keep_warm=86400.0,
)


class Life:
    """A loop that is told its events by name; remembers what each one led to."""

    def __init__(self, **policy: Any) -> None:
        self.policy = replace(POLICY, **policy)
        self.state = LoopState(policy=self.policy)
        self.now = START
        self.actions: tuple[Actions, ...] = ()

    def tell(self, kind: type, /, **fields: Any) -> tuple[Actions, ...]:
        event: Events = kind(at=self.now, **fields)
        self.state, self.actions = decide(self.state, event)
        return self.actions

    def after(self, time: timedelta) -> tuple[Actions, ...]:
        self.now += time
        return self.tell(Tick)

    def pending(self) -> Awaited:
        (entry,) = self.state.pending
        return entry.action

    def answer(self, kind: type, /, **fields: Any) -> tuple[Actions, ...]:
        return self.tell(kind, action=self.pending().id, **fields)

    def one(self, kind: type) -> Any:
        (found,) = [action for action in self.actions if isinstance(action, kind)]
        return found

    def has(self, kind: type) -> bool:
        return any(isinstance(action, kind) for action in self.actions)

    def stages(self) -> list[tuple[int, str]]:
        return [(action.version, action.stage) for action in self.actions if isinstance(action, Mark)]

    @property
    def work(self) -> str:
        return "idle" if self.state.release is None else self.state.release.work

    # The usual ways, to begin a test where it matters.

    def applied(self) -> "Life":
        self.tell(Applied, policy=self.policy)
        return self

    def trained(self, version: int, cpu: float = 10.0) -> "Life":
        self.answer(TrainingFinished, version=version, run=f"run-{version}", cpu_seconds=cpu)
        return self

    def gated(self, version: int) -> "Life":
        self.trained(version).answer(GatesJudged, version=version, verdict="pass", findings=(FINDING,))
        return self

    def with_champion(self) -> "Life":
        self.applied().gated(1)
        if self.work == "approval":
            self.tell(Approved, version=1, by="owner")
        self.answer(TrafficSet)
        assert self.state.champion == 1
        return self

    def challenged(self) -> "Life":
        self.with_champion()
        self.now += 10 * DAY
        self.tell(AlarmRaised, monitor="decay", version=1, finding=FINDING)
        return self.gated(2)

    def in_shadow(self) -> "Life":
        self.challenged().answer(TrafficSet)
        return self

    def in_canary(self) -> "Life":
        self.in_shadow().after(4 * DAY)
        self.answer(ShadowJudged, version=2, verdict="pass", finding=FINDING)
        self.answer(TrafficSet)
        return self

    def promoted(self) -> "Life":
        self.in_canary().tell(CanaryJudged, version=2, verdict="pass", finding=FINDING)
        self.after(DAY)
        self.answer(TrafficSet)
        self.after(DAY)
        self.answer(TrafficSet)
        assert self.state.champion == 2
        return self


# ---------------------------------------------------------------- the whole way


def test_first_model_needs_its_gates_and_nobody_to_compare_with() -> None:
    life = Life().applied()
    assert life.one(StartTraining).trigger == "first"
    life.trained(1)
    assert life.stages() == [(1, "candidate")]
    assert life.one(JudgeGates).champion is None
    life.answer(GatesJudged, version=1, verdict="pass", findings=())
    assert life.stages() == [(1, "gated")]
    assert life.one(Promote) == Promote(id=life.pending().id, version=1, previous=None)
    life.answer(TrafficSet)
    assert life.stages() == [(1, "champion")]
    assert (life.state.champion, life.state.previous, life.work) == (1, None, "idle")


def test_a_challenger_goes_through_shadow_and_every_step_of_the_canary() -> None:
    life = Life().challenged()
    assert life.one(SetTraffic) == SetTraffic(id=life.pending().id, champion=1, challenger=2, mode="shadow")
    life.answer(TrafficSet)
    assert life.stages() == [(2, "shadow")]
    assert life.after(4 * DAY - timedelta(microseconds=1)) == ()
    life.after(timedelta(microseconds=1))
    assert life.one(JudgeShadow).look == 1
    life.answer(ShadowJudged, version=2, verdict="pass", finding=FINDING)
    assert (life.one(SetTraffic).mode, life.one(SetTraffic).share) == ("canary", 5)
    life.answer(TrafficSet)
    assert life.stages() == [(2, "canary")]
    life.tell(CanaryJudged, version=2, verdict="pass", finding=FINDING)
    assert life.actions == (), "a proof does not shorten the bake"
    life.after(DAY)
    assert life.one(SetTraffic).share == 25
    life.answer(TrafficSet)
    life.after(DAY)
    assert life.one(Promote) == Promote(id=life.pending().id, version=2, previous=1)
    life.answer(TrafficSet)
    assert life.stages() == [(1, "retired"), (2, "champion")]
    assert (life.state.champion, life.state.previous, life.state.alarms) == (2, 1, ())
    assert life.after(DAY - timedelta(seconds=1)) == ()
    life.after(timedelta(seconds=1))
    assert life.one(SetTraffic) == SetTraffic(id=life.pending().id, champion=2)
    life.answer(TrafficSet)
    assert (life.state.previous, life.state.pending, life.work) == (None, (), "idle")


@pytest.mark.parametrize(
    ("policy", "first"),
    [
        ({"shadow_bake": None}, "SetTraffic canary 5"),
        ({"canary_steps": ()}, "SetTraffic shadow 0"),
        ({"shadow_bake": None, "canary_steps": ()}, "Promote"),
    ],
)
def test_steps_that_are_not_declared_are_left_out(policy: dict[str, Any], first: str) -> None:
    action = Life(**policy).challenged().pending()
    said = f" {action.mode} {action.share}" if isinstance(action, SetTraffic) else ""
    assert type(action).__name__ + said == first


def test_shadow_without_canary_promotes_after_its_proof() -> None:
    life = Life(canary_steps=()).in_shadow()
    life.after(4 * DAY)
    life.answer(ShadowJudged, version=2, verdict="pass", finding=FINDING)
    assert life.has(Promote)


# ---------------------------------------------------------------- when a training starts


def test_alarms_are_levels_and_the_cooldown_lies_between_trainings() -> None:
    life = Life().with_champion()
    life.tell(AlarmRaised, monitor="decay", version=1, finding=FINDING)
    assert life.actions == ()
    assert life.after(7 * DAY - HOUR) == ()
    life.after(HOUR)
    assert life.one(StartTraining).trigger == "alarm: decay"


def test_an_alarm_that_was_cleared_or_concerns_another_version_or_is_not_listened_to_starts_nothing() -> None:
    life = Life().with_champion()
    life.tell(AlarmRaised, monitor="decay", version=1, finding=FINDING)
    life.tell(AlarmCleared, monitor="decay", version=1)
    life.tell(AlarmRaised, monitor="decay", version=9, finding=FINDING)
    life.tell(AlarmRaised, monitor="drift", version=1, finding=FINDING)
    assert life.after(30 * DAY) == ()


def test_schedule() -> None:
    life = Life(every=30 * 86400.0).with_champion()
    assert life.after(30 * DAY - HOUR) == ()
    life.after(HOUR)
    assert life.one(StartTraining).trigger == "schedule"


def test_a_request_ignores_the_cooldown_but_not_the_budget() -> None:
    life = Life().applied().trained(1, cpu=600.0)
    life.answer(GatesJudged, version=1, verdict="pass", findings=())
    life.answer(TrafficSet)
    life.tell(RetrainRequested, by="ada")
    assert life.actions == (), "the day's budget is spent"
    life.after(DAY)
    assert (life.one(StartTraining).trigger, life.one(StartTraining).cpu_limit) == ("request by ada", 600.0)


def test_what_is_left_of_the_budget_limits_a_training_and_is_saved_when_it_cannot_pay_one() -> None:
    life = Life().applied().trained(1, cpu=250.0)
    life.answer(GatesJudged, version=1, verdict="pass", findings=())
    life.answer(TrafficSet)
    life.tell(RetrainRequested, by="ada")
    assert life.one(StartTraining).cpu_limit == 350.0
    life.answer(TrainingFailed, reason="no convergence", cpu_seconds=200.0)
    life.tell(RetrainRequested, by="ada")
    assert life.actions == (), "150 are left, and the last training took 250"
    life.after(DAY)
    assert life.one(StartTraining).cpu_limit == 600.0


def test_a_training_counts_on_the_day_on_which_it_ends() -> None:
    life = Life().applied()
    life.now += 30 * HOUR
    life.trained(1, cpu=600.0)
    assert (life.state.budget_day, life.state.spent) == ("2013-03-02", 600.0)


def test_a_changed_declaration_trains_at_once_and_the_same_one_changes_nothing() -> None:
    life = Life().with_champion()
    before = life.state
    assert life.tell(Applied, policy=life.policy) == ()
    assert life.state is before
    life.tell(Applied, policy=replace(life.policy, spec="spec-2", keep_warm=5.0), rebuild=False)
    assert (life.actions, life.state.policy.spec) == ((), "spec-2")
    life.tell(Applied, policy=replace(life.policy, spec="spec-3"))
    assert (life.one(StartTraining).trigger, life.one(StartTraining).spec) == ("declaration", "spec-3")


def test_a_declaration_during_a_release_waits_and_leaves_that_release_alone() -> None:
    life = Life().in_shadow()
    life.tell(Applied, policy=replace(life.policy, spec="spec-2", shadow_bake=60.0, canary_steps=(50,)))
    assert life.after(HOUR) == ()
    life.after(4 * DAY)
    life.answer(ShadowJudged, version=2, verdict="fail", finding=FINDING)
    life.answer(TrafficSet)
    assert (life.one(StartTraining).trigger, life.one(StartTraining).spec) == ("declaration", "spec-2")


def test_one_release_at_a_time() -> None:
    life = Life().in_shadow()
    life.tell(RetrainRequested, by="ada")
    life.tell(AlarmRaised, monitor="decay", version=1, finding=FINDING)
    assert not life.has(StartTraining)
    assert life.after(HOUR) == ()


def test_failed_trainings_wait_for_the_cooldown_and_pause_the_loop_in_the_end() -> None:
    life = Life(max_failures=2).applied()
    life.answer(TrainingFailed, reason="broken", cpu_seconds=5.0)
    assert (life.actions, life.state.failures, life.state.spent) == ((), 1, 5.0)
    life.after(7 * DAY)
    life.answer(TrainingFailed, reason="broken", cpu_seconds=5.0)
    assert "2 trainings in a row failed" in life.one(Notify).body
    life.tell(ResumeRequested, by="ada")
    assert (life.state.failures, life.state.paused) == (0, None)


def test_a_fixed_declaration_is_tried_at_once_after_failures() -> None:
    life = Life().applied()
    life.answer(TrainingFailed, reason="broken", cpu_seconds=5.0)
    life.tell(Applied, policy=replace(life.policy, spec="spec-2"))
    assert life.one(StartTraining).spec == "spec-2"


# ---------------------------------------------------------------- gates and approval


@pytest.mark.parametrize(("verdict", "stage"), [("fail", "rejected"), ("inconclusive", "inconclusive")])
def test_gates_that_are_not_passed_end_the_release(verdict: str, stage: str) -> None:
    life = Life().with_champion()
    life.tell(RetrainRequested, by="ada")
    life.trained(2).answer(GatesJudged, version=2, verdict=verdict, findings=(FINDING,))
    assert life.stages() == [(2, stage)]
    assert (life.work, life.state.rejections) == ("idle", 1)


def test_too_many_rejections_in_a_row_pause_the_loop() -> None:
    life = Life().with_champion()
    for version in (2, 3, 4):
        life.tell(RetrainRequested, by="ada")
        life.trained(version).answer(GatesJudged, version=version, verdict="fail", findings=(FINDING,))
    assert life.one(Notify).title == "flight-delay has paused itself"
    life.tell(RetrainRequested, by="ada")
    assert not life.has(StartTraining)


def test_an_approval_is_waited_for() -> None:
    life = Life(approval="owner").challenged()
    assert (life.work, life.one(Notify).to) == ("approval", "ops@example.org")
    assert life.tell(PromoteRequested, version=2, by="ada")[0] == life.one(Notify)
    assert life.tell(Approved, version=1, by="ada") == ()
    assert life.after(50 * DAY) == ()
    life.tell(Approved, version=2, by="ada")
    assert life.one(SetTraffic).mode == "shadow"


# ---------------------------------------------------------------- shadow and canary


def test_a_lost_shadow_is_taken_back() -> None:
    life = Life().in_shadow()
    life.after(4 * DAY)
    life.answer(ShadowJudged, version=2, verdict="fail", finding=FINDING)
    assert life.one(SetTraffic) == SetTraffic(id=life.pending().id, champion=1)
    assert life.stages() == [(2, "rejected")]
    life.answer(TrafficSet)
    assert (life.work, life.state.champion, life.state.rejections) == ("idle", 1, 1)


def test_an_open_shadow_is_looked_at_again_until_its_limit() -> None:
    life = Life().in_shadow()
    looks = []
    for wait in (4 * DAY, DAY, DAY):
        life.after(wait)
        looks.append((life.one(JudgeShadow).look, life.one(JudgeShadow).at - life.one(JudgeShadow).since))
        life.answer(ShadowJudged, version=2, verdict="inconclusive", finding=FINDING)
    assert looks == [(1, 4 * DAY), (2, 5 * DAY), (3, 6 * DAY)]
    assert life.stages() == [(2, "inconclusive")]
    assert life.has(SetTraffic)


def test_a_breach_rolls_back_at_once_even_while_the_next_step_is_pending() -> None:
    life = Life().in_canary()
    life.after(DAY)
    forward = life.one(SetTraffic)
    life.tell(CanaryJudged, version=2, verdict="fail", finding=FINDING)
    back = life.one(RollBack)
    assert (back.version, back.to, life.pending()) == (2, 1, back)
    assert life.stages() == [(2, "rolled_back")]
    assert life.has(Notify)
    assert life.tell(TrafficSet, action=forward.id) == (), "the step was superseded"
    life.tell(TrafficSet, action=back.id)
    assert (life.work, life.state.champion, life.state.rejections) == ("idle", 1, 1)


def test_a_canary_without_proof_waits_and_gives_up_at_its_limit() -> None:
    life = Life().in_canary()
    life.after(DAY)
    life.answer(TrafficSet)
    assert life.after(DAY) == ()
    assert life.after(2 * DAY - HOUR) == ()
    life.after(HOUR)
    assert (life.one(RollBack).to, life.stages()) == (1, [(2, "inconclusive")])


def test_a_proof_has_to_stand_when_it_is_used() -> None:
    life = Life().in_canary()
    life.tell(CanaryJudged, version=2, verdict="pass", finding=FINDING)
    life.tell(CanaryJudged, version=2, verdict="inconclusive", finding=FINDING)
    life.after(DAY)
    life.answer(TrafficSet)
    life.after(DAY)
    assert not life.has(Promote)
    life.tell(CanaryJudged, version=2, verdict="pass", finding=FINDING)
    assert life.has(Promote)


def test_a_clock_that_jumps_back_shortens_no_bake() -> None:
    life = Life().in_canary()
    life.now -= 5 * DAY
    assert life.tell(Tick) == ()
    assert life.after(5 * DAY) == ()
    assert life.after(DAY - HOUR) == ()
    assert life.after(HOUR) != ()
    assert life.tell(Tick) == (), "standing still fires nothing twice"


# ---------------------------------------------------------------- what people ask for


def test_the_champion_can_be_taken_back_while_the_one_before_is_loaded() -> None:
    life = Life().promoted()
    life.tell(RollbackRequested, by="ada", reason="complaints")
    assert (life.one(RollBack).version, life.one(RollBack).to) == (2, 1)
    life.answer(TrafficSet)
    assert life.stages() == [(2, "rolled_back"), (1, "champion")]
    assert (life.state.champion, life.state.previous) == (1, None)
    life.tell(RollbackRequested, by="ada", reason="again")
    assert [type(action) for action in life.actions] == [Notify], "there is nothing left to go back to"


@pytest.mark.parametrize("stage", ["challenged", "in_shadow", "in_canary"])
def test_a_release_in_flight_is_taken_back_first(stage: str) -> None:
    life = getattr(Life(), stage)()
    life.tell(RollbackRequested, by="ada", reason="doubt")
    assert life.stages() == [(2, "rolled_back")]
    life.answer(TrafficSet)
    assert (life.work, life.state.champion) == ("idle", 1)


def test_a_training_that_was_taken_back_ends_but_goes_no_further() -> None:
    life = Life().with_champion()
    life.tell(RetrainRequested, by="ada")
    assert life.tell(RollbackRequested, by="ada", reason="doubt") == ()
    life.trained(2)
    assert life.stages() == [(2, "candidate"), (2, "rolled_back")]
    assert (life.work, life.state.spent) == ("idle", 20.0)


def test_a_pause_takes_the_release_back_and_nothing_starts_until_resumed() -> None:
    life = Life().in_canary()
    life.tell(PauseRequested, by="ada", reason="holiday")
    assert (life.one(RollBack).to, life.stages()) == (1, [(2, "rolled_back")])
    life.answer(TrafficSet)
    assert life.after(30 * DAY) == ()
    life.tell(ResumeRequested, by="ada")
    assert life.one(StartTraining).trigger == "alarm: decay"


@pytest.mark.parametrize("resumed", [False, True])
def test_what_was_trained_or_judged_during_a_pause_goes_no_further(resumed: bool) -> None:
    life = Life().with_champion()
    life.tell(RetrainRequested, by="ada")
    life.trained(2).tell(PauseRequested, by="ada", reason="holiday")
    if resumed:
        life.tell(ResumeRequested, by="ada")
    life.answer(GatesJudged, version=2, verdict="pass", findings=())
    assert life.stages() == [(2, "gated"), (2, "inconclusive")]
    assert (life.state.pending, life.state.champion) == ((), 1)


def test_a_person_may_end_the_bake_of_a_gated_release_only() -> None:
    life = Life().with_champion()
    life.tell(RetrainRequested, by="ada")
    life.trained(2).tell(PromoteRequested, version=2, by="ada")
    assert [type(action) for action in life.actions] == [Notify]
    life.answer(GatesJudged, version=2, verdict="pass", findings=())
    life.tell(PromoteRequested, version=7, by="ada")
    assert [type(action) for action in life.actions] == [Notify]
    life.tell(PromoteRequested, version=2, by="ada")
    assert life.one(Promote).version == 2


# ---------------------------------------------------------------- failing actions, duplicates, restarts


def test_a_failed_action_is_asked_for_again_under_its_id_after_a_growing_pause() -> None:
    life = Life().in_canary()
    life.after(DAY)
    step = life.pending()
    for attempt, pause in enumerate((10, 20, 40, 80), start=1):
        life.answer(ActionFailed, reason="busy", attempt=attempt)
        life.answer(ActionFailed, reason="busy", attempt=attempt)
        assert life.after(timedelta(seconds=pause - 1)) == ()
        assert pending_actions(life.state, life.now) == ()
        assert life.after(timedelta(seconds=1)) == (step,)
        assert pending_actions(life.state, life.now) == (step,)
    life.answer(ActionFailed, reason="busy", attempt=5)
    assert life.has(RollBack), "a step forward is given up after five attempts"


@pytest.mark.parametrize("retryable", [True, False])
def test_a_way_back_is_tried_for_ever(retryable: bool) -> None:
    life = Life().in_canary()
    life.tell(CanaryJudged, version=2, verdict="fail", finding=FINDING)
    back = life.pending()
    told = 0
    for _ in range(30):
        life.answer(ActionFailed, reason="down", retryable=retryable)
        told += life.has(Notify)
        life.after(HOUR)
        assert back in life.actions
    assert told == 1


def test_gates_that_cannot_be_judged_have_failed() -> None:
    life = Life().with_champion()
    life.tell(RetrainRequested, by="ada")
    life.trained(2).answer(ActionFailed, reason="no holdout", retryable=False)
    assert life.stages() == [(2, "rejected")]


def test_a_training_that_cannot_start_has_failed_after_three_attempts() -> None:
    life = Life().applied()
    for _ in range(2):
        life.answer(ActionFailed, reason="no worker")
        life.after(HOUR)
        assert life.has(StartTraining)
    life.answer(ActionFailed, reason="no worker")
    assert (life.work, life.state.failures) == ("idle", 1)


def test_traffic_that_can_never_be_set_is_rolled_back() -> None:
    life = Life().challenged()
    life.answer(ActionFailed, reason="cannot be loaded", retryable=False)
    assert (life.one(RollBack).to, life.stages()) == (1, [(2, "rolled_back")])


def test_a_first_promotion_that_can_never_be_done_has_nothing_to_go_back_to() -> None:
    life = Life().applied().gated(1)
    life.answer(ActionFailed, reason="cannot be loaded", retryable=False)
    assert (life.work, life.stages(), life.state.champion) == ("idle", [(1, "rejected")], None)


def test_duplicates_and_strangers_change_nothing() -> None:
    life = Life().applied()
    training = life.pending()
    life.trained(1)
    before = life.state
    life.tell(TrainingFinished, action=training.id, version=1, run="run-1", cpu_seconds=10.0)
    life.tell(TrafficSet, action=life.pending().id)
    life.tell(GatesJudged, action=life.pending().id, version=5, verdict="pass", findings=())
    life.tell(ActionFailed, action="flight-delay/99", reason="stranger")
    life.tell(CanaryJudged, version=1, verdict="fail", finding=FINDING)
    life.tell(Approved, version=1, by="ada")
    life.now += HOUR
    life.tell(Tick)
    assert life.state is before


def test_the_previous_champion_stays_loaded_while_a_challenger_is_compared() -> None:
    life = Life(cooldown=0.0, keep_warm=2 * 86400.0).promoted()
    life.tell(RetrainRequested, by="ada")
    life.gated(3)
    assert life.one(SetTraffic).warm == (1,)
    life.answer(TrafficSet)
    assert life.after(3 * DAY) == ()
    life.tell(RollbackRequested, by="ada", reason="doubt")
    assert life.one(SetTraffic).warm == (1,)
    life.answer(TrafficSet)
    assert life.one(SetTraffic) == SetTraffic(id=life.pending().id, champion=2)


# ---------------------------------------------------------------- freezes


class TestFreeze:
    DAYS = ("2013-03-12 to 2013-03-14",)

    def test_what_would_begin_waits_for_the_end_of_the_window_and_then_begins_by_itself(self):
        life = Life(freeze=self.DAYS).with_champion()
        life.now = datetime(2013, 3, 12, 12, tzinfo=UTC)
        life.tell(AlarmRaised, monitor="decay", version=1, finding=FINDING)
        life.gated(2)
        assert life.work == "held"
        assert not life.has(SetTraffic)
        found = summary(life.state)
        assert (found.stage, found.frozen) == ("gated", self.DAYS[0])
        assert found.deadline == found.frozen_until == datetime(2013, 3, 15, tzinfo=UTC)
        assert not life.after(timedelta(days=2))
        life.now = datetime(2013, 3, 15, tzinfo=UTC)
        life.tell(Tick)
        assert life.work == "shadow"
        assert life.one(SetTraffic).mode == "shadow"

    def test_a_step_and_a_promotion_wait_and_a_breach_does_not(self):
        for verdict in ("pass", "fail"):
            life = Life(shadow_bake=None).challenged()
            life.answer(TrafficSet)
            life.tell(FreezeRequested, by="ops", reason="the fair")
            assert not life.after(30 * DAY)
            assert life.work == "canary"
            assert summary(life.state, life.now).deadline is None, "only a person can end it"
            life.tell(CanaryJudged, version=2, verdict=verdict, finding=FINDING)
            if verdict == "fail":
                assert life.one(RollBack).to == 1
                continue
            life.tell(UnfreezeRequested, by="ops")
            assert life.one(SetTraffic).share == life.policy.canary_steps[1]

    def test_nobody_can_promote_in_a_freeze_and_everybody_can_abort(self):
        life = Life(shadow_bake=None).challenged()
        life.answer(TrafficSet)
        life.tell(FreezeRequested, by="ops", reason="the fair", until=life.now + timedelta(hours=2))
        life.tell(PromoteRequested, version=2, by="someone")
        assert not life.has(Promote)
        assert "releases are frozen (the fair)" in life.one(Notify).body
        life.tell(RollbackRequested, by="someone", reason="enough")
        assert life.one(RollBack).to == 1
        assert (2, "rolled_back") in life.stages()

    def test_a_shadow_that_has_passed_goes_on_when_the_freeze_ends_by_itself(self):
        life = Life().challenged()
        life.answer(TrafficSet)
        life.after(timedelta(seconds=life.policy.shadow_bake))
        life.tell(FreezeRequested, by="ops", reason="", until=life.now + timedelta(hours=1))
        life.answer(ShadowJudged, version=2, verdict="pass", finding=FINDING)
        assert (life.work, life.actions) == ("shadow", ())
        assert "the end of the freeze until" in summary(life.state).waiting
        life.after(timedelta(hours=1))
        assert (life.work, life.one(SetTraffic).mode) == ("canary", "canary")

    def test_an_attempt_that_failed_before_it_is_not_repeated_in_it(self):
        life = Life(shadow_bake=None).challenged()
        life.tell(ActionFailed, action=life.pending().id, reason="no front")
        life.tell(FreezeRequested, by="ops", reason="")
        assert not [action for action in life.after(timedelta(hours=1)) if isinstance(action, SetTraffic)]
        life.tell(UnfreezeRequested, by="ops")
        assert life.one(SetTraffic).mode == "canary"

    def test_each_name_holds_once_and_lets_go_for_itself(self):
        life = Life().with_champion()
        for name in ("", "experiment blue", ""):
            life.tell(FreezeRequested, by="ops", reason=name or "a person", name=name)
        assert [hold.name for hold in life.state.holds] == ["experiment blue", ""]
        life.tell(UnfreezeRequested, by="ops")
        assert summary(life.state).frozen == "experiment blue"
        before = life.state
        life.tell(UnfreezeRequested, by="ops")
        assert life.state is before

    def test_a_returned_champion_needs_no_leave(self):
        life = Life(shadow_bake=None, canary_steps=()).challenged()
        life.answer(TrafficSet)
        assert life.state.champion == 2
        life.tell(FreezeRequested, by="ops", reason="")
        life.tell(RollbackRequested, by="someone", reason="worse")
        assert (life.one(RollBack).version, life.one(RollBack).to) == (2, 1)
        life.answer(TrafficSet)
        assert life.state.champion == 1


# ---------------------------------------------------------------- versions from another environment


def test_a_version_that_arrives_waits_for_what_is_in_flight_and_goes_before_a_training() -> None:
    state = LoopState(policy=replace(POLICY, approval="owner"))
    state, (training,) = decide(state, Tick(at=START))
    arrived = VersionArrived(at=START, version=4, origin="flight-delay@v7 of dev", by="ada")
    state, (mark,) = decide(state, arrived)
    assert (mark.version, mark.stage, mark.reason) == (4, "candidate", "promoted from flight-delay@v7 of dev")
    assert state.release.work == "training"
    assert decide(state, arrived) == (state, ())  # a duplicate
    state, actions = decide(state, TrainingFailed(at=START, action=training.id, reason="no rows"))
    assert [(one.version, one.stage) for one in actions if isinstance(one, Mark)] == [(4, "gated")]
    assert (state.release.work, state.release.version, state.arrival) == ("approval", 4, None)
    state, (promotion,) = decide(state, Approved(at=START, version=4, by="owner"))
    assert promotion == Promote(id=promotion.id, version=4, previous=None)
    state, _ = decide(state, TrafficSet(at=START, action=promotion.id))
    assert state.champion == 4
    assert decide(state, replace(arrived, at=START + HOUR))[0].release is None  # never twice, however late


def test_a_newer_version_takes_the_place_of_one_that_waits_and_a_paused_loop_takes_none() -> None:
    state = LoopState(policy=POLICY, champion=1, paused="by hand")
    state, _ = decide(state, VersionArrived(at=START, version=2, origin="a"))
    state, actions = decide(state, VersionArrived(at=START, version=3, origin="b"))
    assert [(one.version, one.stage) for one in actions] == [(3, "candidate"), (2, "inconclusive")]
    assert state.release is None
    state, actions = decide(state, ResumeRequested(at=START, by="ada"))
    shadow = next(one for one in actions if isinstance(one, SetTraffic))
    assert (shadow.mode, shadow.champion, shadow.challenger) == ("shadow", 1, 3)
    assert not any(isinstance(one, StartTraining | JudgeGates) for one in actions)
