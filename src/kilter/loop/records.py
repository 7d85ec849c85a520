"""The words of the loop: its policy, its state, the events that reach it and the actions it asks for.

``decide(state, event) -> (state, actions)`` speaks only in these. Each has a JSON form, so that the controller can keep
the state in a row, the journal can keep the events, and ``kilter why`` can tell the story again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from kilter.core.evidence import Finding, Verdict
from kilter.loop.policy import Policy

Stage = Literal[
    "candidate", "gated", "shadow", "canary", "champion", "retired", "rejected", "rolled_back", "inconclusive"
]
Work = Literal["training", "gating", "approval", "held", "shadow", "canary", "promoting", "rolling_back"]


# ---------------------------------------------------------------- actions


class Action(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Something to be done outside ``decide``.

    Args:
        id: ``<loop>/<number>``: the idempotency key. The same id is the same deed, however often it is tried.
    """

    id: str


class StartTraining(Action, tag="StartTraining", frozen=True, kw_only=True):
    """Train a challenger on what is known at ``at``, and register it as a candidate."""

    trigger: str
    spec: str
    at: datetime
    cpu_limit: float | None = None


class JudgeGates(Action, tag="JudgeGates", frozen=True, kw_only=True):
    """Judge a candidate against its gates, and against the champion on the same rows."""

    version: int
    champion: int | None
    spec: str
    at: datetime


class SetTraffic(Action, tag="SetTraffic", frozen=True, kw_only=True):
    """Make the endpoint serve so: the champion answers, a challenger shadows or takes a share.

    Args:
        champion: The version that answers.
        challenger: The version under proof, or None.
        mode: ``solo`` (no challenger), ``shadow`` or ``canary``.
        share: The challenger's share of traffic in per cent; 0 unless ``canary``.
        warm: Versions that stay loaded without traffic.
    """

    champion: int
    challenger: int | None = None
    mode: Literal["solo", "shadow", "canary"] = "solo"
    share: int = 0
    warm: tuple[int, ...] = ()


class JudgeShadow(Action, tag="JudgeShadow", frozen=True, kw_only=True):
    """Judge the shadow on the labels that are known; ``look`` counts the looks, so that they share one error budget."""

    version: int
    champion: int
    look: int
    since: datetime
    at: datetime


class Promote(Action, tag="Promote", frozen=True, kw_only=True):
    """Move the alias ``champion`` and all traffic to ``version`` in one step; ``previous`` stays warm."""

    version: int
    previous: int | None


class RollBack(Action, tag="RollBack", frozen=True, kw_only=True):
    """Give all traffic, and the alias if it had moved, back to ``to``; ``warm`` stays loaded without traffic."""

    version: int
    to: int
    reason: str
    warm: tuple[int, ...] = ()


class RunBatch(Action, tag="RunBatch", frozen=True, kw_only=True):
    """Score a batch's rows with ``version``, for the time ``slot`` of its schedule."""

    batch: str
    version: int
    spec: str
    slot: datetime


class Mark(Action, tag="Mark", frozen=True, kw_only=True):
    """Write a version's stage. The controller does this in the transaction of the decision itself; no answer comes back."""

    version: int
    stage: Stage
    reason: str


class Notify(Action, tag="Notify", frozen=True, kw_only=True):
    """Tell the owner; no answer is awaited, and a failure to tell stops nothing."""

    to: str
    title: str
    body: str


Traffic = SetTraffic | Promote | RollBack
Awaited = StartTraining | JudgeGates | JudgeShadow | RunBatch | Traffic
Actions = Awaited | Mark | Notify

# ---------------------------------------------------------------- events


class LoopEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Something that happened.

    Args:
        at: When, UTC.
    """

    at: datetime


class Answer(LoopEvent, frozen=True, kw_only=True):
    """The outcome of an action; an answer to an action that isn't pending is a duplicate and changes nothing."""

    action: str


class Applied(LoopEvent, tag="Applied", frozen=True, kw_only=True):
    """A declaration was applied; ``rebuild`` says that data, features, label or training changed."""

    policy: Policy
    rebuild: bool = True
    by: str = ""


class Tick(LoopEvent, tag="Tick", frozen=True, kw_only=True):
    """Time has passed."""


class AlarmRaised(LoopEvent, tag="AlarmRaised", frozen=True, kw_only=True):
    """A monitor's condition holds for the champion."""

    monitor: str
    version: int
    finding: Finding


class AlarmCleared(LoopEvent, tag="AlarmCleared", frozen=True, kw_only=True):
    """A monitor's condition holds no longer."""

    monitor: str
    version: int
    finding: Finding | None = None


class TrainingFinished(Answer, tag="TrainingFinished", frozen=True, kw_only=True):
    """A challenger was trained and registered."""

    version: int
    run: str
    cpu_seconds: float


class TrainingFailed(Answer, tag="TrainingFailed", frozen=True, kw_only=True):
    """Training failed; ``cpu_seconds`` count against the budget all the same."""

    reason: str
    cpu_seconds: float = 0.0


class GatesJudged(Answer, tag="GatesJudged", frozen=True, kw_only=True):
    """The gates were judged; a gate that can't be computed has failed."""

    version: int
    verdict: Verdict
    findings: tuple[Finding, ...]


class TrafficSet(Answer, tag="TrafficSet", frozen=True, kw_only=True):
    """The endpoint serves as a ``SetTraffic``, ``Promote`` or ``RollBack`` asked."""


class ShadowJudged(Answer, tag="ShadowJudged", frozen=True, kw_only=True):
    """A look at the shadow's paired losses."""

    version: int
    verdict: Verdict
    finding: Finding


class CanaryJudged(LoopEvent, tag="CanaryJudged", frozen=True, kw_only=True):
    """The canary's e-processes after the labels known so far: ``fail`` is a breach, ``pass`` is proof, else still open."""

    version: int
    verdict: Verdict
    finding: Finding


class BatchFinished(Answer, tag="BatchFinished", frozen=True, kw_only=True):
    """A batch was scored to its end.

    Args:
        batch: Its name.
        version: The version that scored.
        slot: The time of its schedule.
        rows: Rows of the input.
        bad_rows: Rows among them that could not be used, as far as the run that ended it saw.
        output: Where the answers are.
    """

    batch: str
    version: int
    slot: datetime
    rows: int
    bad_rows: int = 0
    output: str = ""


class ActionFailed(Answer, tag="ActionFailed", frozen=True, kw_only=True):
    """An attempt at an action is over; with ``retryable`` it is asked for again, under the same id.

    Without ``retryable`` the deed was not done by this attempt or any before, and never will be.
    A training that ran and failed is a ``TrainingFailed``, which counts its CPU time; this is one that never ran.

    Args:
        reason: What went wrong.
        retryable: Whether trying again can help.
        attempt: Which attempt failed (``Pending.attempts``), so that a late copy isn't taken for a second failure;
            None means the present one.
    """

    reason: str
    retryable: bool = True
    attempt: int | None = None


class PauseRequested(LoopEvent, tag="PauseRequested", frozen=True, kw_only=True):
    """Someone stops the loop: nothing new starts, a release in flight goes back to the champion."""

    by: str
    reason: str


class ResumeRequested(LoopEvent, tag="ResumeRequested", frozen=True, kw_only=True):
    """Someone lets the loop go on."""

    by: str


class RetrainRequested(LoopEvent, tag="RetrainRequested", frozen=True, kw_only=True):
    """Someone asks for a challenger now; the budget still holds, the cooldown does not."""

    by: str


class RollbackRequested(LoopEvent, tag="RollbackRequested", frozen=True, kw_only=True):
    """Someone takes the release in flight back or, when there is none, the champion back to the one before."""

    by: str
    reason: str


class PromoteRequested(LoopEvent, tag="PromoteRequested", frozen=True, kw_only=True):
    """Someone ends the bake of a gated release in flight and promotes it now."""

    version: int
    by: str


class FreezeRequested(LoopEvent, tag="FreezeRequested", frozen=True, kw_only=True):
    """Someone holds releases where they are: no challenger gets traffic or more of it, and none is promoted.

    Args:
        by: Who.
        reason: Why.
        until: When it ends by itself, or None.
        name: What holds them, when it is not a person: ``experiment blue-button``. Each name holds once.
    """

    by: str
    reason: str
    until: datetime | None = None
    name: str = ""


class UnfreezeRequested(LoopEvent, tag="UnfreezeRequested", frozen=True, kw_only=True):
    """Someone lets releases go on; freeze windows of the declaration hold all the same."""

    by: str
    name: str = ""


class Approved(LoopEvent, tag="Approved", frozen=True, kw_only=True):
    """An owner approved a version that waited for it."""

    version: int
    by: str


class VersionArrived(LoopEvent, tag="VersionArrived", frozen=True, kw_only=True):
    """A version that passed its gates in another environment was promoted to this one.

    Args:
        version: Its number here.
        origin: Where it comes from: ``flight-delay@v7 of dev``.
        by: Who promoted it.
    """

    version: int
    origin: str
    by: str = ""


Events = (
    Applied
    | Tick
    | AlarmRaised
    | AlarmCleared
    | TrainingFinished
    | TrainingFailed
    | GatesJudged
    | TrafficSet
    | ShadowJudged
    | CanaryJudged
    | BatchFinished
    | ActionFailed
    | PauseRequested
    | ResumeRequested
    | RetrainRequested
    | RollbackRequested
    | PromoteRequested
    | FreezeRequested
    | UnfreezeRequested
    | Approved
    | VersionArrived
)

# ---------------------------------------------------------------- state


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """The one challenger in flight.

    Args:
        work: What is being done with it now.
        trigger: Why it was trained.
        policy: The policy under which it was started; a later ``apply`` doesn't change a release in flight.
        version: Its version, once trained.
        step: Index into ``policy.canary_steps``.
        since: When the present stage began to take traffic (or to wait), or None before the endpoint confirmed it.
        due: When the present stage is next examined: the end of a bake, or the next look. None before ``since``.
        look: How many looks at the shadow were taken.
        passed: The shadow was judged with ``pass``, and the canary waits for the end of a freeze.
        evidence: The canary's latest verdict: harm can come later than good days, so a ``pass`` has to stand when it is used.
        outcome: The stage that the version gets when the training or gating in flight ends, once it was withdrawn.
        reason: Why it was withdrawn.
    """

    work: Work
    trigger: str
    policy: Policy
    version: int | None = None
    step: int = 0
    since: datetime | None = None
    due: datetime | None = None
    look: int = 0
    passed: bool = False
    evidence: Verdict = "inconclusive"
    outcome: Stage | None = None
    reason: str = ""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """An action that was asked for and not yet answered.

    Args:
        action: The action.
        attempts: How often it was asked for, counting the present attempt.
        not_before: Set while the last attempt has failed and the next one waits for this moment.
        held: A freeze has put the next attempt off; it comes when that is over.
    """

    action: Awaited
    attempts: int = 1
    not_before: datetime | None = None
    held: bool = False


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A freeze that was asked for.

    Args:
        name: What holds, when it is not a person.
        by: Who asked for it.
        reason: Why.
        until: When it ends by itself, or None.
    """

    name: str
    by: str
    reason: str
    until: datetime | None


class BatchState(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a batch.

    Args:
        name: Its name.
        slot: The latest time of its schedule that was asked for.
        pending: The run that was asked for and has not ended.
        done: The latest time that was scored to its end.
        rows: The rows of that.
        failed: Why the latest run was given up; empty when it was not.
    """

    name: str
    slot: datetime
    pending: Pending | None = None
    done: datetime | None = None
    rows: int = 0
    failed: str = ""


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """A version from another environment that waits until nothing is in flight.

    Args:
        version: Its number here.
        origin: Where it comes from.
    """

    version: int
    origin: str


class LoopState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that ``decide`` remembers about one loop.

    Args:
        policy: The policy for everything that starts from now on.
        champion: The version that serves.
        previous: The champion before it, while it is still loaded: the way back.
        previous_until: Until when it stays loaded at least.
        release: The one challenger in flight, or the return of a champion to the previous one.
        pending: What was asked for and not yet answered.
        sequence: The number of the latest action.
        alarms: The monitors whose condition holds for the champion now.
        rebuild: The declaration changed since the latest training.
        requested: Who asked for a training that has not started yet; empty if nobody did.
        paused: Why the loop is paused, or None.
        last_training: When the latest training was asked for.
        budget_day: The UTC day that ``spent`` belongs to.
        spent: CPU seconds of the trainings that ended on that day.
        cost: CPU seconds of the latest training that succeeded; what is left of a budget is saved for one that fits.
        holds: Freezes that were asked for, those that are over among them until the next change.
        rejections: Challengers in a row that did not become champion.
        failures: Trainings in a row that failed.
        batches: What the champion scores on a schedule.
        arrival: The version from another environment that is released next.
        arrived: The newest version that came from another environment.
        now: The latest moment that any event carried; time never goes back from here.
    """

    policy: Policy
    champion: int | None = None
    previous: int | None = None
    previous_until: datetime | None = None
    release: Release | None = None
    pending: tuple[Pending, ...] = ()
    sequence: int = 0
    alarms: tuple[str, ...] = ()
    rebuild: bool = False
    requested: str = ""
    paused: str | None = None
    last_training: datetime | None = None
    budget_day: str = ""
    spent: float = 0.0
    cost: float = 0.0
    holds: tuple[Hold, ...] = ()
    rejections: int = 0
    failures: int = 0
    batches: tuple[BatchState, ...] = ()
    arrival: Arrival | None = None
    arrived: int = 0
    now: datetime | None = None
