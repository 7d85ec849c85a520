"""The rules of training: when a challenger is wanted, whether it may start now, and what comes of it."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from kilter.loop.records import (
    AlarmCleared,
    AlarmRaised,
    Applied,
    LoopState,
    Release,
    RetrainRequested,
    StartTraining,
    TrainingFailed,
    TrainingFinished,
)
from kilter.loop.rules.release import judge_gates, pause_itself
from kilter.loop.rules.turn import Turn, later

# ---------------------------------------------------------------- what is wanted


def applied(turn: Turn, event: Applied) -> None:
    """Take a new policy for everything that follows; the release in flight keeps the one it was started under."""
    state = turn.state
    if event.policy == state.policy or event.policy.loop != state.policy.loop:
        return
    turn.change(policy=event.policy)
    if event.policy.spec != state.policy.spec:
        # A changed declaration is a new chance for a training that failed.
        turn.change(rebuild=state.rebuild or event.rebuild, failures=0)


def alarm_raised(turn: Turn, event: AlarmRaised) -> None:
    """Remember the alarm as long as it holds; one about a version that no longer serves means nothing."""
    alarms = turn.state.alarms
    if event.version == turn.state.champion and event.monitor not in alarms:
        turn.change(alarms=(*alarms, event.monitor))


def alarm_cleared(turn: Turn, event: AlarmCleared) -> None:
    """Forget the alarm."""
    alarms = turn.state.alarms
    if event.version == turn.state.champion and event.monitor in alarms:
        turn.change(alarms=tuple(name for name in alarms if name != event.monitor))


def retrain_requested(turn: Turn, event: RetrainRequested) -> None:
    """Remember the request until a training starts; while that can't be, say so and forget it."""
    state = turn.state
    if state.paused is not None:
        turn.notify(
            f"{state.policy.loop} was not retrained",
            f"{event.by} asked for it, but the loop is paused: {state.paused}.",
        )
    elif state.release is not None:
        turn.notify(
            f"{state.policy.loop} was not retrained", f"{event.by} asked for it, but a release is in flight already."
        )
    else:
        turn.change(requested=event.by or "someone")


def wanted(state: LoopState) -> str | None:
    """Return why a training is wanted, whether or not it may start now, or None; the schedule is not looked at."""
    if state.requested:
        return f"request by {state.requested}"
    if state.champion is None:
        return "first"
    if state.rebuild:
        return "declaration"
    active = [name for name in state.alarms if name in state.policy.on]
    return f"alarm: {', '.join(active)}" if active else None


def scheduled(state: LoopState) -> datetime | None:
    """Return when the schedule next wants a training, or None without a schedule."""
    if state.policy.every is None or state.last_training is None:
        return None
    return later(state.last_training, state.policy.every)


def cooled(state: LoopState) -> datetime | None:
    """Return until when the cooldown forbids a training, or None.

    A request ignores it; so do the first training and one for a new declaration, unless the training before failed.
    """
    if state.last_training is None or state.requested:
        return None
    if state.rebuild and state.failures == 0:
        return None
    return later(state.last_training, state.policy.cooldown)


# ---------------------------------------------------------------- budget


def day_of(moment: datetime) -> str:
    """Return the UTC day of a moment."""
    return moment.astimezone(UTC).date().isoformat()


def budget_left(state: LoopState, now: datetime) -> float | None:
    """Return how many CPU seconds of the day's budget are left, or None without a budget."""
    if state.policy.budget is None:
        return None
    spent = state.spent if state.budget_day == day_of(now) else 0.0
    return max(state.policy.budget - spent, 0.0)


def affordable(state: LoopState, left: float | None) -> bool:
    """Say whether what is left of the day can pay a training like the latest one, or is the whole day's budget."""
    if left is None or state.policy.budget is None:
        return True
    return left > 0.0 and left >= min(state.cost, state.policy.budget)


def _charge(turn: Turn, cpu_seconds: float) -> float:
    """Count CPU time on the day on which a training ends: with one at a time, no day can then exceed its budget."""
    cost = cpu_seconds if math.isfinite(cpu_seconds) and cpu_seconds > 0.0 else 0.0
    today = day_of(turn.now)
    before = turn.state.spent if turn.state.budget_day == today else 0.0
    turn.change(budget_day=today, spent=before + cost)
    return cost


# ---------------------------------------------------------------- start


def start_training(turn: Turn) -> None:
    """Standing rule: start the training that is wanted, one at a time, within cooldown and budget, never while paused."""
    state = turn.state
    if state.paused is not None or state.release is not None:
        return
    trigger = wanted(state)
    if trigger is None:
        due = scheduled(state)
        if due is None or turn.now < due:
            return
        trigger = "schedule"
    cooldown = cooled(state)
    if cooldown is not None and turn.now < cooldown:
        return
    left = budget_left(state, turn.now)
    if not affordable(state, left):
        return
    turn.change(
        release=Release(work="training", trigger=trigger, policy=state.policy),
        last_training=turn.now,
        rebuild=False,
        requested="",
    )
    turn.ask(
        StartTraining(id=turn.number(), trigger=trigger, spec=state.policy.spec, at=turn.now, cpu_limit=left),
    )


# ---------------------------------------------------------------- end


def training_finished(turn: Turn, event: TrainingFinished) -> None:
    """A version is there: a candidate, which its gates now judge."""
    if turn.answered(event, StartTraining) is None:
        return
    cost = _charge(turn, event.cpu_seconds)
    release = turn.state.release
    if release is None:
        return
    if event.version in {turn.state.champion, turn.state.previous}:
        failed(turn, release, f"the training answered with v{event.version}, which exists already")
        return
    turn.change(failures=0, cost=cost)
    turn.mark(event.version, "candidate", f"trained by {event.run} ({release.trigger})")
    if release.outcome is not None:
        turn.mark(event.version, release.outcome, release.reason)
        turn.end_release()
    else:
        judge_gates(turn, release, event.version)


def training_failed(turn: Turn, event: TrainingFailed) -> None:
    """No version came of it, but its CPU time counts all the same."""
    if turn.answered(event, StartTraining) is None:
        return
    _charge(turn, event.cpu_seconds)
    if turn.state.release is not None:
        failed(turn, turn.state.release, event.reason)


def failed(turn: Turn, release: Release, reason: str) -> None:
    """Count a failed training; too many in a row pause the loop."""
    failures = turn.state.failures + 1
    again = release.trigger == "declaration" and release.outcome is None  # its wish is not fulfilled yet
    turn.change(release=None, failures=failures, rebuild=turn.state.rebuild or again)
    if failures >= turn.state.policy.max_failures and turn.state.paused is None:
        pause_itself(turn, f"{failures} trainings in a row failed, the last one because: {reason}")
