"""The rules of batches: when one is run, what comes of it, and that times which were missed are caught up with one run.

A batch is the champion's work and not a change: it goes on while the loop is paused or releases are frozen.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from kilter.loop.records import ActionFailed, BatchFinished, BatchState, LoopState, Pending, RunBatch
from kilter.loop.rules.turn import Turn, later

ATTEMPTS = 4
"""How often a run is attempted before its time is given up and the owner told."""

FIRST_PAUSE = 30.0
"""Seconds before the second attempt; four times as many before each further one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def slot_of(moment: datetime, every: float) -> datetime:
    """Return the latest time of a schedule that is not after a moment: whole multiples of ``every`` seconds since 1970."""
    length = timedelta(seconds=max(every, 1.0))
    try:
        return _EPOCH + ((moment - _EPOCH) // length) * length
    except OverflowError:  # before all times that can be said
        return datetime.min.replace(tzinfo=UTC)


def next_slot(moment: datetime, every: float) -> datetime:
    """Return the earliest time of a schedule that is after a moment."""
    return later(slot_of(moment, every), max(every, 1.0))


def run_batches(turn: Turn) -> None:
    """Standing rule: run each batch whose time has come, and try again what failed, once at a time."""
    state = turn.state
    known = {one.name: one for one in state.batches}
    found: list[BatchState] = []
    for policy in state.policy.batches:
        one = known.pop(policy.name, None)
        if one is not None and one.pending is not None:
            found.append(_again(turn, one, one.pending))
            continue
        slot = slot_of(turn.now, policy.every)
        if state.champion is None or (one is not None and slot <= one.slot):
            found.extend([] if one is None else [one])
            continue
        action = RunBatch(
            id=turn.number(), batch=policy.name, version=state.champion, spec=state.policy.spec, slot=slot
        )
        turn.actions.append(action)
        old = one or BatchState(name=policy.name, slot=slot)
        found.append(replace(old, slot=slot, pending=Pending(action=action)))
    # One that is declared no more ends what it has begun, and is remembered: declared again, it does no time twice.
    found.extend(one if one.pending is None else _again(turn, one, one.pending) for one in known.values())
    if tuple(found) != state.batches:
        turn.change(batches=tuple(found))


def _again(turn: Turn, one: BatchState, pending: Pending) -> BatchState:
    if pending.not_before is None or turn.now < pending.not_before:
        return one
    turn.actions.append(pending.action)
    return replace(one, pending=replace(pending, attempts=pending.attempts + 1, not_before=None))


def batch_finished(turn: Turn, event: BatchFinished) -> None:
    """A batch is scored to its end."""
    one = _awaiting(turn.state, event.action)
    if one is not None:
        _put(turn, replace(one, pending=None, done=one.slot, rows=max(event.rows, 0), failed=""))


def batch_failed(turn: Turn, event: ActionFailed) -> bool:
    """Wait for the next attempt of a batch, or give its time up and tell the owner.

    Returns:
        Whether the action is a batch's.
    """
    one = _awaiting(turn.state, event.action)
    if one is None or one.pending is None:
        return False
    pending = one.pending
    if pending.not_before is not None or (event.attempt is not None and event.attempt != pending.attempts):
        return True  # a duplicate: this failure is known
    if event.retryable and pending.attempts < ATTEMPTS:
        pause = FIRST_PAUSE * 4.0 ** (pending.attempts - 1)
        _put(turn, replace(one, pending=replace(pending, not_before=later(turn.now, pause))))
        return True
    _put(turn, replace(one, pending=None, failed=event.reason or "no reason was given"))
    tried = "" if pending.attempts == 1 else f" after {pending.attempts} attempts"
    turn.notify(
        f"{turn.state.policy.loop}: batch {one.name} of {one.slot:%Y-%m-%d %H:%M} was not scored",
        f"It was given up{tried}, because: {event.reason}. The next time of its schedule is tried anew.",
    )
    return True


def pending_batches(state: LoopState, now: datetime) -> tuple[RunBatch, ...]:
    """Return the runs that were asked for and not answered, but those that wait for their next attempt."""
    return tuple(
        one.pending.action
        for one in state.batches
        if one.pending is not None
        and isinstance(one.pending.action, RunBatch)
        and (one.pending.not_before is None or one.pending.not_before <= now)
    )


def batch_deadlines(state: LoopState) -> list[datetime]:
    """Return when time alone next asks for a run."""
    if state.now is None:
        return []
    known = {one.name: one for one in state.batches}
    found = [one.pending.not_before for one in state.batches if one.pending is not None and one.pending.not_before]
    if state.champion is not None:
        for policy in state.policy.batches:
            one = known.get(policy.name)
            if one is None or one.pending is None:
                found.append(state.now if one is None else next_slot(max(one.slot, state.now), policy.every))
    return found


def _awaiting(state: LoopState, action: str) -> BatchState | None:
    return next((one for one in state.batches if one.pending is not None and one.pending.action.id == action), None)


def _put(turn: Turn, changed: BatchState) -> None:
    turn.change(batches=tuple(changed if one.name == changed.name else one for one in turn.state.batches))
