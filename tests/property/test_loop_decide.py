"""``decide`` is pure and total, whatever is thrown at it."""

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.core.evidence import Finding
from kilter.loop.decide import decide, pending_actions
from kilter.loop.policy import BatchPolicy, Policy
from kilter.loop.records import (
    ActionFailed,
    AlarmCleared,
    AlarmRaised,
    Answer,
    Applied,
    Approved,
    Awaited,
    BatchFinished,
    BatchState,
    CanaryJudged,
    Events,
    GatesJudged,
    JudgeGates,
    JudgeShadow,
    LoopState,
    PauseRequested,
    Pending,
    Promote,
    PromoteRequested,
    Release,
    ResumeRequested,
    RetrainRequested,
    RollBack,
    RollbackRequested,
    RunBatch,
    SetTraffic,
    ShadowJudged,
    StartTraining,
    Tick,
    TrafficSet,
    TrainingFailed,
    TrainingFinished,
)
from kilter.loop.summary import next_deadline, summary

START = datetime(2013, 3, 1, tzinfo=UTC)
FINDING = Finding(name="drawn", verdict="fail", value=None, allowed="anything", rows=0, rule="drawn")

moments = st.one_of(
    st.integers(min_value=-5, max_value=60).map(lambda hours: START + timedelta(hours=6 * hours)),
    st.datetimes(timezones=st.just(UTC)),
)
seconds = st.sampled_from([0.0, 3600.0, 86400.0, 1e15])
numbers = st.integers(min_value=1, max_value=12)
ids = numbers.map(lambda number: f"drawn/{number}")
versions = st.integers(min_value=1, max_value=4)
verdicts = st.sampled_from(["pass", "fail", "inconclusive"])
words = st.sampled_from(["decay", "drift"])
maybe = st.none()

policies = st.builds(
    Policy,
    loop=st.just("drawn"),
    owner=st.just("owner"),
    spec=st.sampled_from(["a", "b"]),
    on=st.sampled_from([(), ("decay",)]),
    every=maybe | seconds,
    cooldown=seconds,
    budget=maybe | seconds,
    max_rejections=versions,
    max_failures=versions,
    shadow_bake=maybe | seconds,
    shadow_limit=seconds,
    canary_steps=st.sampled_from([(), (5,), (5, 50)]),
    canary_bake=seconds,
    canary_limit=seconds,
    keep_warm=seconds,
    approval=st.sampled_from(["auto", "owner"]),
    batches=st.sampled_from(
        [
            (),
            (BatchPolicy(name="a", every=86400.0),),
            (BatchPolicy(name="a", every=0.0), BatchPolicy(name="b", every=7e4)),
        ]
    ),
)
costs = st.sampled_from([0.0, 10.0, -1.0, float("nan"), float("inf")])
events: st.SearchStrategy[Events] = st.one_of(
    st.builds(Tick, at=moments),
    st.builds(Applied, at=moments, policy=policies),
    st.builds(AlarmRaised, at=moments, monitor=words, version=versions, finding=st.just(FINDING)),
    st.builds(AlarmCleared, at=moments, monitor=words, version=versions),
    st.builds(TrainingFinished, at=moments, action=ids, version=versions, run=st.just("run"), cpu_seconds=costs),
    st.builds(TrainingFailed, at=moments, action=ids, reason=st.just(""), cpu_seconds=costs),
    st.builds(GatesJudged, at=moments, action=ids, version=versions, verdict=verdicts, findings=st.just(())),
    st.builds(TrafficSet, at=moments, action=ids),
    st.builds(BatchFinished, at=moments, action=ids, batch=words, version=versions, slot=moments, rows=versions),
    st.builds(ShadowJudged, at=moments, action=ids, version=versions, verdict=verdicts, finding=st.just(FINDING)),
    st.builds(CanaryJudged, at=moments, version=versions, verdict=verdicts, finding=st.just(FINDING)),
    st.builds(
        ActionFailed, at=moments, action=ids, reason=st.just(""), retryable=st.booleans(), attempt=maybe | versions
    ),
    st.builds(PauseRequested, at=moments, by=words, reason=words),
    st.builds(ResumeRequested, at=moments, by=words),
    st.builds(RetrainRequested, at=moments, by=words),
    st.builds(RollbackRequested, at=moments, by=words, reason=words),
    st.builds(PromoteRequested, at=moments, version=versions, by=words),
    st.builds(Approved, at=moments, version=versions, by=words),
)
actions: st.SearchStrategy[Awaited] = st.one_of(
    st.builds(StartTraining, id=ids, trigger=words, spec=words, at=moments),
    st.builds(JudgeGates, id=ids, version=versions, champion=maybe | versions, spec=words, at=moments),
    st.builds(JudgeShadow, id=ids, version=versions, champion=versions, look=versions, since=moments, at=moments),
    st.builds(
        SetTraffic, id=ids, champion=versions, challenger=maybe | versions, mode=st.sampled_from(["solo", "shadow"])
    ),
    st.builds(Promote, id=ids, version=versions, previous=maybe | versions),
    st.builds(RollBack, id=ids, version=versions, to=versions, reason=words),
)
releases = st.builds(
    Release,
    work=st.sampled_from(["training", "gating", "approval", "shadow", "canary", "promoting", "rolling_back"]),
    trigger=words,
    policy=policies,
    version=maybe | versions,
    step=st.integers(min_value=0, max_value=3),
    since=maybe | moments,
    due=maybe | moments,
    look=versions,
    evidence=verdicts,
    outcome=maybe | st.just("rolled_back"),
)
any_state = st.builds(
    LoopState,
    policy=policies,
    champion=maybe | versions,
    previous=maybe | versions,
    previous_until=maybe | moments,
    release=maybe | releases,
    pending=st.lists(st.builds(Pending, action=actions, attempts=versions, not_before=maybe | moments), max_size=3).map(
        tuple
    ),
    sequence=numbers,
    alarms=st.sampled_from([(), ("decay",), ("drift", "decay")]),
    rebuild=st.booleans(),
    requested=st.sampled_from(["", "someone"]),
    paused=maybe | words,
    last_training=maybe | moments,
    budget_day=st.sampled_from(["", "2013-03-01"]),
    spent=seconds,
    cost=seconds,
    batches=st.lists(
        st.builds(
            BatchState,
            name=st.sampled_from(["a", "b", "gone"]),
            slot=moments,
            pending=maybe
            | st.builds(
                Pending,
                action=st.builds(RunBatch, id=ids, batch=words, version=versions, spec=words, slot=moments),
                attempts=versions,
                not_before=maybe | moments,
            ),
        ),
        max_size=2,
        unique_by=lambda one: one.name,
    ).map(tuple),
    now=maybe | moments,
)

to_json = msgspec.json.Encoder().encode
from_json = msgspec.json.Decoder(LoopState).decode


@given(any_state, events)
@settings(max_examples=600, deadline=None)
def test_there_is_an_answer_for_any_event_in_any_state(state: LoopState, event: Events) -> None:
    before = to_json(state)
    after, asked = decide(state, event)
    assert to_json(state) == before, "the state handed in is left alone"
    assert (after, asked) == decide(state, event), "the same question has the same answer"
    assert decide(from_json(before), event) == (after, asked), "a state that was stored decides alike"
    assert from_json(to_json(after)) == after
    assert after is state or state.now is None or after.now >= state.now, "time never goes back"
    assert summary(after).loop == "drawn"
    assert len(pending_actions(after, START)) <= len(after.pending) + len(after.batches)


def _answer(state: LoopState, event: Events) -> Events:
    """Let an answer that was drawn answer what is pending, so that the loop gets somewhere."""
    if not isinstance(event, Answer) or not state.pending:
        return event
    action = state.pending[0].action
    match action:
        case StartTraining():
            if isinstance(event, TrainingFailed | ActionFailed):
                return msgspec.structs.replace(event, action=action.id)
            return TrainingFinished(at=event.at, action=action.id, version=state.sequence, run="run", cpu_seconds=1.0)
        case JudgeGates(version=version):
            return GatesJudged(at=event.at, action=action.id, version=version, verdict="pass", findings=())
        case JudgeShadow(version=version):
            return ShadowJudged(at=event.at, action=action.id, version=version, verdict="pass", finding=FINDING)
        case _:
            return TrafficSet(at=event.at, action=action.id)


@given(policies, st.lists(events, max_size=40))
@settings(max_examples=250, deadline=None)
def test_a_stored_state_goes_on_alike_and_duplicates_change_nothing(policy: Policy, drawn: list[Events]) -> None:
    state = LoopState(policy=policy)
    for raw in drawn:
        event = _answer(state, raw)
        after, asked = decide(state, event)
        assert decide(from_json(to_json(state)), event) == (after, asked)
        if isinstance(event, Answer) and not any(entry.action.id == event.action for entry in after.pending):
            assert decide(after, event) == decide(after, Tick(at=event.at)), (
                "the second copy says only that time passed"
            )
        fresh = {action.id for action in asked} - {entry.action.id for entry in state.pending}
        assert all(int(name.split("/")[1]) > state.sequence for name in fresh), "ids are never used again"
        state = after


@given(policies, st.lists(events, max_size=30))
@settings(max_examples=150, deadline=None)
def test_ticking_at_the_next_deadline_is_never_in_vain(policy: Policy, drawn: list[Events]) -> None:
    state = LoopState(policy=policy)
    for event in drawn:
        state, _ = decide(state, _answer(state, event))
    for _ in range(20):
        deadline = next_deadline(state)
        if deadline is None or state.pending:
            return
        after, _ = decide(state, Tick(at=deadline))
        assert after != state, summary(state)
        state = after
