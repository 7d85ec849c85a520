"""What a loop does next: ``decide(state, event) -> (state, actions)``.

Pure and total: no clock, no disk, no network, no randomness, and an answer for any event in any state. The controller,
the backtest and the simulator run this very function. The work of a release moves like this::

        a training is wanted, allowed and paid for
                          |
                          v        failed 3 times, or not retryable
                      training ------------------------------------> (failures + 1)
                          | TrainingFinished         candidate
                          v        fail -> rejected, open -> inconclusive
                       gating --------------------------------------> (rejections + 1)
                          | pass                     gated
                          v
                     [approval]    when the policy says "owner", until Approved
                          |
            +-------------+-------------+   without a champion: nobody to compare with
            v             v             |
        [shadow] -----> canary          |
       | pass     pass  | every step's  |
       |                | bake, then    |
       |                | the proof     |
       |                v               v
       |            promoting ------------> champion; the one before is retired, and stays loaded as the way back
       |                |
       v fail, open     v breach, open at the limit, taken back
       +---------> rolling_back ----------> rejected, inconclusive or rolled_back (rejections + 1)

An event is first given to the rule of its kind (``ON``). Then the standing rules (``ALWAYS``) are looked at in their
order, because every event also says that time has passed: a ``Tick`` is nothing but that. The rules live in seven
files: ``training`` (when a challenger is trained), ``arrivals`` (versions that were proven in another environment, and
begin where the gates end), ``release`` (the way to champion, and back), ``requests`` (what people ask for), ``freeze``
(when nothing goes forward: each arrow down from the approval waits for the end of a freeze), ``retries`` (what could not
be done) and ``batches`` (what is scored on a schedule).

Three promises make duplicates, reordering and crashes harmless:

- An answer counts only while its action is pending. An event that changes nothing returns the very same state.
- At most one traffic action is pending. It describes the traffic completely, a newer one takes its place, and the
  numbers of the ids rise: an endpoint that ignores a lower number than it has seen can't be set back by a late one.
- Time never runs backwards: the latest moment seen counts, and each deadline fires by a change of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kilter.loop.records import (
    ActionFailed,
    Actions,
    AlarmCleared,
    AlarmRaised,
    Applied,
    Approved,
    Awaited,
    BatchFinished,
    CanaryJudged,
    Events,
    FreezeRequested,
    GatesJudged,
    LoopEvent,
    LoopState,
    PauseRequested,
    PromoteRequested,
    ResumeRequested,
    RetrainRequested,
    RollbackRequested,
    ShadowJudged,
    TrafficSet,
    TrainingFailed,
    TrainingFinished,
    UnfreezeRequested,
    VersionArrived,
)
from kilter.loop.rules.arrivals import take_arrival, version_arrived
from kilter.loop.rules.batches import batch_finished, pending_batches, run_batches
from kilter.loop.rules.freeze import freeze_requested, unfreeze_requested
from kilter.loop.rules.release import (
    approved,
    canary_judged,
    examine_canary,
    examine_shadow,
    gates_judged,
    go_on,
    shadow_judged,
    traffic_set,
    unload_previous,
)
from kilter.loop.rules.requests import pause_requested, promote_requested, resume_requested, rollback_requested
from kilter.loop.rules.retries import action_failed, retry
from kilter.loop.rules.training import (
    alarm_cleared,
    alarm_raised,
    applied,
    retrain_requested,
    start_training,
    training_failed,
    training_finished,
)
from kilter.loop.rules.turn import Rule, Turn

ON: dict[type[LoopEvent], Callable[[Turn, Any], None]] = {
    Applied: applied,
    AlarmRaised: alarm_raised,
    AlarmCleared: alarm_cleared,
    TrainingFinished: training_finished,
    TrainingFailed: training_failed,
    GatesJudged: gates_judged,
    Approved: approved,
    TrafficSet: traffic_set,
    ShadowJudged: shadow_judged,
    CanaryJudged: canary_judged,
    BatchFinished: batch_finished,
    ActionFailed: action_failed,
    PauseRequested: pause_requested,
    ResumeRequested: resume_requested,
    RetrainRequested: retrain_requested,
    RollbackRequested: rollback_requested,
    PromoteRequested: promote_requested,
    FreezeRequested: freeze_requested,
    UnfreezeRequested: unfreeze_requested,
    VersionArrived: version_arrived,
}
"""The rule for each kind of event; a ``Tick`` needs none."""

ALWAYS: tuple[Rule, ...] = (
    retry,
    go_on,
    examine_shadow,
    examine_canary,
    unload_previous,
    take_arrival,
    start_training,
    run_batches,
)
"""The standing rules, in their order."""


def decide(state: LoopState, event: Events) -> tuple[LoopState, tuple[Actions, ...]]:
    """Decide what follows from an event.

    Args:
        state: What the loop remembers. It is not changed.
        event: What happened.

    Returns:
        The new state (the same object when nothing changed) and the actions to be done, in their order. An action whose
        id is known already is another attempt at the same deed.
    """
    at = event.at if event.at.tzinfo is not None else event.at.replace(tzinfo=UTC)
    turn = Turn(state, at if state.now is None or at > state.now else state.now)
    rule = ON.get(type(event))
    if rule is not None:
        rule(turn, event)
    for standing in ALWAYS:
        standing(turn)
    if turn.state is state:
        return state, ()
    if turn.now != state.now:
        turn.change(now=turn.now)
    return turn.state, tuple(turn.actions)


def pending_actions(state: LoopState, now: datetime) -> tuple[Awaited, ...]:
    """Return what has to be executed again after a restart: all that was asked for and not answered.

    An attempt that failed and waits for its next one is left out until that is due; a ``Tick`` asks for it then.
    """
    found = [entry.action for entry in state.pending if entry.not_before is None or entry.not_before <= now]
    return (*found, *pending_batches(state, now))
