"""The simulator finds what it is there to find: each planted defect breaks its invariant within a thousand schedules."""

import re
from datetime import timedelta

import pytest
from msgspec.structs import replace

from kilter.loop.decide import decide
from kilter.loop.records import (
    ActionFailed,
    Actions,
    CanaryJudged,
    Events,
    GatesJudged,
    LoopState,
    Mark,
    PauseRequested,
    Pending,
    Promote,
    RollBack,
    RollbackRequested,
    ShadowJudged,
    StartTraining,
    Tick,
    TrafficSet,
    TrainingFinished,
)
from kilter.loop.simulation.invariants import Decide
from kilter.loop.simulation.simulator import simulate

Decided = tuple[LoopState, tuple[Actions, ...]]
DEFECTS: list[tuple[Decide, str]] = []


def breaks(invariant: str):
    """Plant a defect that has to break this invariant."""

    def plant(defect: Decide) -> Decide:
        DEFECTS.append((defect, invariant))
        return defect

    return plant


@breaks("has its full bake|judged after its bake")
def forgets_the_bake(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    if after.release is not None and after.release.since is not None:
        after = replace(after, release=replace(after.release, due=after.now))
    return after, actions


@breaks("one release is in flight")
def starts_two_trainings(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    started = [action for action in actions if isinstance(action, StartTraining) and action.trigger != "first"]
    if started:
        second = replace(started[0], id=f"simulated/{after.sequence + 1}")
        pending = (*after.pending, Pending(action=second))
        after, actions = replace(after, sequence=after.sequence + 1, pending=pending), (*actions, second)
    return after, actions


@breaks("not pending changes nothing")
def takes_a_duplicate_for_an_answer(state: LoopState, event: Events) -> Decided:
    if isinstance(event, TrainingFinished) and state.release is not None and state.release.work == "gating":
        action = StartTraining(id=event.action, trigger="first", spec=state.policy.spec, at=event.at)
        state = replace(state, pending=(*state.pending, Pending(action=action)))
    return decide(state, event)


@breaks("not pending changes nothing")
def counts_a_failure_twice(state: LoopState, event: Events) -> Decided:
    return decide(state, replace(event, attempt=None) if isinstance(event, ActionFailed) else event)


@breaks("without passed gates")
def waves_failed_gates_through(state: LoopState, event: Events) -> Decided:
    return decide(state, replace(event, verdict="pass") if isinstance(event, GatesJudged) else event)


@breaks("without the approval")
def asks_nobody(state: LoopState, event: Events) -> Decided:
    if isinstance(event, GatesJudged) and state.release is not None:
        state = replace(state, release=replace(state.release, policy=replace(state.release.policy, approval="auto")))
    return decide(state, event)


@breaks("begins after its shadow|no promotion without proof")
def waves_a_lost_shadow_through(state: LoopState, event: Events) -> Decided:
    return decide(state, replace(event, verdict="pass") if isinstance(event, ShadowJudged) else event)


@breaks("no promotion without proof")
def promotes_without_proof(state: LoopState, event: Events) -> Decided:
    if isinstance(event, CanaryJudged) and event.verdict == "inconclusive":
        event = replace(event, verdict="pass")
    return decide(state, event)


@breaks("a breach takes")
def overlooks_a_breach(state: LoopState, event: Events) -> Decided:
    if isinstance(event, CanaryJudged) and event.verdict == "fail":
        event = replace(event, verdict="inconclusive")
    return decide(state, event)


@breaks("shares are the declared ones")
def skips_a_step(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    release = after.release
    if isinstance(event, TrafficSet) and release is not None and release.work == "canary" and release.step == 0:
        after = replace(after, release=replace(release, step=len(release.policy.canary_steps) - 1))
    return after, actions


@breaks("a pause takes")
def ignores_a_pause(state: LoopState, event: Events) -> Decided:
    return decide(state, Tick(at=event.at) if isinstance(event, PauseRequested) else event)


@breaks("a paused loop starts nothing")
def trains_while_paused(state: LoopState, event: Events) -> Decided:
    if state.paused is None or not isinstance(event, Tick):
        return decide(state, event)
    after, actions = decide(replace(state, paused=None), event)
    return replace(after, paused=state.paused), actions


@breaks("day's budget")
def forgets_what_it_has_spent(state: LoopState, event: Events) -> Decided:
    return decide(replace(state, spent=0.0) if state.spent else state, event)


@breaks("the cooldown lies between")
def forgets_the_cooldown(state: LoopState, event: Events) -> Decided:
    return decide(replace(state, last_training=None) if state.last_training else state, event)


@breaks("previous champion stays loaded")
def unloads_the_way_back_at_once(state: LoopState, event: Events) -> Decided:
    return decide(replace(state, previous_until=event.at) if state.previous_until else state, event)


@breaks("the champion can be taken back|a rollback leads")
def has_forgotten_the_way_back(state: LoopState, event: Events) -> Decided:
    if isinstance(event, RollbackRequested) and state.release is None:
        return decide(state, Tick(at=event.at))
    return decide(state, event)


@breaks("a rollback leads")
def rolls_back_to_itself(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    wrong = {action.id: replace(action, to=action.version) for action in actions if isinstance(action, RollBack)}
    if not wrong:
        return after, actions
    pending = tuple(replace(entry, action=wrong.get(entry.action.id, entry.action)) for entry in after.pending)
    return replace(after, pending=pending), tuple(wrong.get(action.id, action) for action in actions)


@breaks("there is one champion")
def leaves_two_champions(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    retired = [action for action in actions if isinstance(action, Mark) and action.stage == "retired"]
    changed = {action.id: replace(action, stage="champion") for action in retired}
    return after, tuple(changed.get(action.id, action) for action in actions)


@breaks("one that the endpoint has confirmed")
def believes_in_a_promotion_too_early(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    for action in actions:
        if isinstance(action, Promote):
            after = replace(after, champion=action.version)
    return after, actions


@breaks("numbers of actions rise|an id stands for")
def uses_an_id_again(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    return (replace(after, sequence=state.sequence) if after.sequence == 7 else after), actions


@breaks("pending until it is answered")
def keeps_what_was_answered(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    answered = [entry for entry in state.pending if isinstance(event, TrafficSet) and entry.action.id == event.action]
    return (replace(after, pending=(*after.pending, *answered)) if answered else after), actions


@breaks("when the chaos stops")
def forgets_to_try_again(state: LoopState, event: Events) -> Decided:
    return decide(state, Tick(at=event.at) if isinstance(event, ActionFailed) and event.retryable else event)


@breaks("when the chaos stops")
def waits_for_too_long(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    if any(entry.not_before is not None for entry in after.pending):
        late = after.now + timedelta(days=1000)
        pending = tuple(replace(entry, not_before=late) if entry.not_before else entry for entry in after.pending)
        after = replace(after, pending=pending)
    return after, actions


@breaks("a losing streak|too many rejections")
def never_has_enough(state: LoopState, event: Events) -> Decided:
    return decide(replace(state, rejections=0) if state.rejections else state, event)


@breaks("time is the latest moment")
def lets_time_run_backwards(state: LoopState, event: Events) -> Decided:
    after, actions = decide(state, event)
    return (after if after is state else replace(after, now=event.at)), actions


@pytest.mark.parametrize(("defect", "invariant"), DEFECTS, ids=[defect.__name__ for defect, _ in DEFECTS])
def test_finds_a_planted_defect(defect: Decide, invariant: str) -> None:
    found = []
    for seed in range(1000):
        violation = simulate(seed, decide=defect).violation
        if violation is not None:
            found.append(violation)
            if re.search(invariant, violation):
                return
    pytest.fail(f"not found in 1,000 schedules; found were {sorted(set(found))}")


def test_a_seed_always_gives_the_same_schedule() -> None:
    assert simulate(7).text() == simulate(7).text()
    assert simulate(7).text() != simulate(8).text()


def test_a_violation_is_told_with_its_whole_schedule() -> None:
    traces = (simulate(seed, decide=waves_failed_gates_through) for seed in range(100))
    trace = next(trace for trace in traces if trace.violation is not None)
    first, *story = trace.text().splitlines()
    assert first == f"seed {trace.seed}: no traffic without passed gates"
    assert any("StartTraining" in line for line in story)
    assert "GatesJudged" in "".join(story[-6:])


def test_the_schedules_are_rich() -> None:
    entries, words, kinds = 0, set(), set()
    for seed in range(200):
        trace = simulate(seed)
        entries += len(trace.entries)
        words |= {word.split(" after")[0] for word, _, _ in trace.entries}
        kinds |= {type(event).__name__ for _, event, _ in trace.entries if event is not None}
        kinds |= {type(action).__name__ for _, _, actions in trace.entries for action in actions}
    assert entries > 200 * 80
    assert {"crash", "crash before the commit of"} <= words
    assert len(kinds) == 21 + 9  # every kind of event and of action
