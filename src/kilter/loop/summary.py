"""Where a loop stands, derived from its state alone: for ``kilter status`` and the page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from kilter.loop.policy import BatchPolicy
from kilter.loop.records import BatchState, LoopState, Promote, RollBack, SetTraffic, Stage, Traffic, Work
from kilter.loop.rules.batches import batch_deadlines, next_slot
from kilter.loop.rules.freeze import clear_from, freeze_reason
from kilter.loop.rules.release import UNSEEN
from kilter.loop.rules.retries import due_at
from kilter.loop.rules.training import affordable, budget_left, cooled, scheduled, wanted
from kilter.loop.rules.turn import TRAFFIC, later

_STAGES: dict[Work, Stage] = {
    "gating": "candidate",
    "approval": "gated",
    "held": "gated",
    "shadow": "shadow",
    "canary": "canary",
}


class BatchSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Where a batch of the schedule stands.

    Args:
        name: Its name.
        work: ``running``, ``retrying`` (the last attempt failed, the next one waits), ``failed`` (its latest time was given up), ``done`` or
            ``waiting`` (it never ran).
        slot: The latest time of its schedule that was asked for, or None.
        done: The latest time that was scored to its end, or None.
        rows: The rows of that.
        failed: Why the latest time was given up; empty when it was not.
        due: When it is next asked for, or None without a champion or while it runs.
    """

    name: str
    work: Literal["running", "retrying", "failed", "done", "waiting"]
    slot: datetime | None = None
    done: datetime | None = None
    rows: int = 0
    failed: str = ""
    due: datetime | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Where a loop stands.

    Args:
        loop: The loop's name.
        champion: The version that answers, or None before the first.
        previous: The version to which the champion can be rolled back, or None.
        work: What is being done now, or ``idle``.
        version: The challenger, once it is trained.
        stage: The challenger's stage as far as it is decided.
        trigger: Why the challenger was trained; empty when idle.
        mode: How the endpoint serves once it has confirmed: ``solo``, ``shadow`` or ``canary``; None without a champion.
        share: The challenger's share of the traffic in per cent.
        confirmed: Whether the endpoint has confirmed mode and share.
        since: Since when the present stage has run.
        deadline: When time alone next changes something, or None.
        waiting: What the loop waits for, in words.
        paused: Why it is paused, or None.
        alarms: Monitors whose condition holds for the champion.
        rejections: Challengers in a row that did not become champion.
        failures: Trainings in a row that failed.
        budget_left: CPU seconds of the day's budget that are left, or None without one.
        retrying: How many actions have failed and wait for their next attempt.
        frozen: Why nothing goes forward now; empty when nothing holds it.
        frozen_until: When the freeze ends by itself, or None.
        batches: What the champion scores on a schedule.
    """

    loop: str
    champion: int | None
    previous: int | None
    work: Work | Literal["idle"]
    version: int | None
    stage: Stage | None
    trigger: str
    mode: Literal["solo", "shadow", "canary"] | None
    share: int
    confirmed: bool
    since: datetime | None
    deadline: datetime | None
    waiting: str
    paused: str | None
    alarms: tuple[str, ...]
    rejections: int
    failures: int
    budget_left: float | None
    retrying: int
    frozen: str = ""
    frozen_until: datetime | None = None
    batches: tuple[BatchSummary, ...] = ()


def traffic_of(action: Traffic) -> SetTraffic:
    """Return how the endpoint serves once an action is done, in the words of the most general one."""
    match action:
        case Promote(id=number, version=version, previous=previous):
            return SetTraffic(id=number, champion=version, warm=() if previous is None else (previous,))
        case RollBack(id=number, to=to, warm=warm):
            return SetTraffic(id=number, champion=to, warm=warm)
        case SetTraffic():
            return action


def traffic_number(action_id: str) -> int:
    """Return an action's number: an endpoint ignores a traffic action whose number is below one that it has seen."""
    return int(action_id.rpartition("/")[2])


def traffic(state: LoopState) -> SetTraffic | None:
    """Return how the endpoint has to serve: what is pending, or else what was confirmed last; None without a champion."""
    for entry in state.pending:
        if isinstance(entry.action, TRAFFIC):
            return traffic_of(entry.action)
    if state.champion is None:
        return None
    warm = () if state.previous is None else (state.previous,)
    release = state.release
    if release is None or release.work not in {"shadow", "canary"}:
        return SetTraffic(id="", champion=state.champion, warm=warm)
    if release.work == "shadow":
        return SetTraffic(id="", champion=state.champion, challenger=release.version, mode="shadow", warm=warm)
    share = sum(release.policy.canary_steps[release.step : release.step + 1])  # 0 for a step that isn't declared
    return SetTraffic(id="", champion=state.champion, challenger=release.version, mode="canary", share=share, warm=warm)


def next_deadline(state: LoopState) -> datetime | None:
    """Return the earliest moment at which time alone changes something, or None when only an event can.

    A driver that ticks at this moment (or soon after) misses nothing; a moment in the past means: tick now.
    """
    moments = [moment for entry in state.pending if (moment := due_at(state, entry)) is not None]
    stage = _stage_deadline(state)
    if stage is not None and not state.pending:
        moments.append(stage)
    if state.previous_until is not None and state.paused is None and not _unloading_waits(state):
        moments.append(state.previous_until)
    training = _training_deadline(state)
    if training is not None:
        moments.append(training)
    moments += batch_deadlines(state)
    return min(moments, default=None)


def _stage_deadline(state: LoopState) -> datetime | None:
    """Return when the release in flight is next looked at; what would go forward waits for the end of a freeze."""
    release = state.release
    if release is None or state.now is None:
        return None
    if release.work == "held" or release.passed:
        return clear_from(state, state.now)
    if release.due is None or release.work != "canary":
        return release.due
    last = release.step + 1 >= len(release.policy.canary_steps)
    if last and release.evidence != "pass":
        return later(release.due, release.policy.canary_limit)
    return clear_from(state, max(release.due, state.now))


def _unloading_waits(state: LoopState) -> bool:
    if any(isinstance(entry.action, TRAFFIC) for entry in state.pending):
        return True
    return state.release is not None and state.release.work not in UNSEEN


def _training_deadline(state: LoopState) -> datetime | None:
    """Return the earliest start of a training if nothing else happens, or None when none is on the way."""
    if state.paused is not None or state.release is not None or state.now is None:
        return None
    start = state.now if wanted(state) is not None else scheduled(state)
    if start is None:
        return None
    cooldown = cooled(state)
    start = max(start, state.now) if cooldown is None else max(start, state.now, cooldown)
    if affordable(state, budget_left(state, start)):
        return start
    if not state.policy.budget:
        return None
    midnight = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return later(midnight, 86400.0)


_WAITING: dict[Work, str] = {
    "training": "the training to end",
    "gating": "the gates to be judged",
    "approval": "the approval of {owner}",
    "held": "the end of the freeze{until}",
    "shadow": "labels for the shadow{until}",
    "canary": "labels for the canary{until}",
    "promoting": "the endpoint to take up the new champion",
    "rolling_back": "the endpoint to give all traffic back",
}


def _waiting(state: LoopState, deadline: datetime | None) -> str:
    release = state.release
    until = "" if deadline is None else f" until {deadline:%Y-%m-%d %H:%M}"
    if release is None:
        return _idle(state, until)
    if any(entry.not_before is not None for entry in state.pending):
        return f"the next attempt of what failed{until}"
    if release.passed and release.work == "shadow":
        return f"the end of the freeze{until}"
    if release.work in {"shadow", "canary"} and release.due is None:
        return "the endpoint to take up the challenger"
    return _WAITING[release.work].format(owner=release.policy.owner, until=until)


def _idle(state: LoopState, until: str) -> str:
    if state.paused is not None:
        return "paused: `kilter resume` lets it go on"
    reason = wanted(state)
    if reason is not None:
        return f"a training ({reason}) waits for its cooldown or budget{until}"
    return f"an alarm, a new declaration or a request{until and f', or the schedule{until}'}"


def _batches(state: LoopState) -> tuple[BatchSummary, ...]:
    known = {one.name: one for one in state.batches}
    return tuple(_batch(state, policy, known.get(policy.name)) for policy in state.policy.batches)


def _batch(state: LoopState, policy: BatchPolicy, one: BatchState | None) -> BatchSummary:
    if one is None:
        return BatchSummary(name=policy.name, work="waiting", due=state.now if state.champion is not None else None)
    if one.pending is not None:
        work: Literal["running", "retrying"] = "running" if one.pending.not_before is None else "retrying"
        return BatchSummary(
            name=one.name, work=work, slot=one.slot, done=one.done, rows=one.rows, due=one.pending.not_before
        )
    return BatchSummary(
        name=one.name,
        work="failed" if one.failed else "done",
        slot=one.slot,
        done=one.done,
        rows=one.rows,
        failed=one.failed,
        due=next_slot(max(one.slot, state.now or one.slot), policy.every),
    )


def summary(state: LoopState, now: datetime | None = None) -> Summary:
    """Return where a loop stands.

    Args:
        state: What the loop remembers.
        now: The present moment, for what is left of the day's budget; by default the latest that the state has seen.
    """
    release = state.release
    serves = traffic(state)
    deadline = next_deadline(state)
    moment = now or state.now
    return Summary(
        loop=state.policy.loop,
        champion=state.champion,
        previous=state.previous,
        work="idle" if release is None else release.work,
        version=None if release is None else release.version,
        stage=None if release is None else _STAGES.get(release.work),
        trigger="" if release is None else release.trigger,
        mode=None if serves is None else serves.mode,
        share=0 if serves is None else serves.share,
        confirmed=not any(isinstance(entry.action, TRAFFIC) for entry in state.pending),
        since=None if release is None else release.since,
        deadline=deadline,
        waiting=_waiting(state, deadline),
        paused=state.paused,
        alarms=state.alarms,
        rejections=state.rejections,
        failures=state.failures,
        budget_left=state.policy.budget if moment is None else budget_left(state, moment),
        retrying=sum(entry.not_before is not None for entry in state.pending),
        frozen="" if moment is None else freeze_reason(state, moment),
        frozen_until=None if moment is None or (clear := clear_from(state, moment)) == moment else clear,
        batches=_batches(state),
    )
