"""The rules for actions that could not be done: what is tried again, how often, and what follows when it is not."""

from __future__ import annotations

import math
from datetime import datetime

from msgspec.structs import replace

from kilter.loop.records import (
    ActionFailed,
    Awaited,
    JudgeGates,
    JudgeShadow,
    LoopState,
    Pending,
    Promote,
    Release,
    SetTraffic,
    StartTraining,
)
from kilter.loop.rules.batches import batch_failed
from kilter.loop.rules.freeze import clear_from, goes_forward
from kilter.loop.rules.release import count_rejection, gates_refused, look_again, roll_back
from kilter.loop.rules.training import failed
from kilter.loop.rules.turn import FAR, Turn, later

FIRST_PAUSE = 10.0
"""Seconds before the second attempt; doubled each time."""

LONGEST_PAUSE = 600.0
"""Seconds between two attempts at the most."""

WORK_ATTEMPTS = 3
"""How often a training, the gates or a look are attempted."""

FORWARD_ATTEMPTS = 5
"""How often traffic for a challenger is attempted, before the release is taken back."""


def action_failed(turn: Turn, event: ActionFailed) -> None:
    """Wait for the next attempt, or draw the consequence of there being none."""
    if batch_failed(turn, event):
        return
    entry = turn.find(event.action)
    if entry is None or entry.not_before is not None:  # a duplicate: this failure is known
        return
    if event.attempt is not None and event.attempt != entry.attempts:
        return
    limit = _attempts(turn, entry.action)
    if limit is not None and (not event.retryable or entry.attempts >= limit):
        turn.drop(entry)
        if turn.state.release is not None:
            _give_up(turn, turn.state.release, entry.action, event.reason)
        return
    _wait(turn, entry)
    if entry.attempts == FORWARD_ATTEMPTS:
        turn.notify(
            f"{turn.state.policy.loop}: {type(entry.action).__name__} keeps failing",
            f"{entry.attempts} attempts failed, the last one because: {event.reason}. It is tried until it is done.",
        )


def _attempts(turn: Turn, action: Awaited) -> float | None:
    """Return how often an action is attempted; None for a way back, which is tried even when that seems hopeless."""
    release = turn.state.release
    match action:
        case StartTraining() | JudgeGates() if release is not None and release.outcome is not None:
            return 1
        case StartTraining() | JudgeGates() | JudgeShadow():
            return WORK_ATTEMPTS
        case SetTraffic(mode="shadow" | "canary"):
            return FORWARD_ATTEMPTS
        case Promote():
            return math.inf
        case _:
            return None


def _wait(turn: Turn, entry: Pending) -> None:
    pause = min(FIRST_PAUSE * 2.0 ** min(entry.attempts - 1, 16), LONGEST_PAUSE)
    waiting = replace(entry, not_before=later(turn.now, pause))
    turn.change(pending=tuple(waiting if other is entry else other for other in turn.state.pending))


def _give_up(turn: Turn, release: Release, action: Awaited, reason: str) -> None:
    match action:
        case StartTraining() if release.outcome is not None:
            turn.end_release()
        case StartTraining():
            failed(turn, release, reason)
        case JudgeGates(version=version) if release.outcome is not None:
            turn.mark(version, release.outcome, release.reason)
            turn.end_release()
        case JudgeGates(version=version):
            gates_refused(turn, version, True, f"could not be judged: {reason}")
        case JudgeShadow():
            look_again(turn, release, f"could not be judged: {reason}")
        case Promote(version=version, previous=None):
            why = f"the endpoint did not take it up: {reason}"
            turn.mark(version, "rejected", why)
            turn.end_release()
            turn.notify(f"v{version} of {turn.state.policy.loop} did not become champion", why)
            count_rejection(turn)
        case _:
            why = f"the endpoint did not take it up: {reason}"
            roll_back(turn, release, "rolled_back", why)
            turn.notify(f"v{release.version} of {turn.state.policy.loop} was rolled back", why)
            count_rejection(turn)


def due_at(state: LoopState, entry: Pending) -> datetime | None:
    """Return when an action that failed is asked for again; None when only a person can end the freeze that holds it."""
    if entry.not_before is None or state.now is None or not goes_forward(entry.action):
        return entry.not_before
    return clear_from(state, state.now if entry.held else max(entry.not_before, state.now))


def retry(turn: Turn) -> None:
    """Standing rule: ask again for what has waited long enough, under the same id; in a freeze put off what goes forward."""
    pending = tuple(_retried(turn, entry) for entry in turn.state.pending)
    if pending != turn.state.pending:
        turn.change(pending=pending)


def _retried(turn: Turn, entry: Pending) -> Pending:
    if entry.not_before is None or (turn.now < entry.not_before and not entry.held):
        return entry
    if goes_forward(entry.action):
        clear = clear_from(turn.state, turn.now)
        if clear != turn.now:
            return replace(entry, not_before=FAR if clear is None else clear, held=True)
    turn.actions.append(entry.action)
    return replace(entry, attempts=entry.attempts + 1, not_before=None, held=False)
