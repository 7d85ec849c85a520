"""The rules of a freeze: nothing goes forward in one, and everything may go back.

A freeze is a window of the declaration or the environment (``Policy.freeze``), or one that somebody asked for. It holds
what would begin: a shadow, a canary, a step of it, a promotion, and the next attempt of one that has failed. What was
begun before it goes on, is watched, and is taken back as ever.
"""

from __future__ import annotations

from datetime import datetime

from kilter.loop.records import (
    Awaited,
    FreezeRequested,
    Hold,
    LoopState,
    Promote,
    SetTraffic,
    UnfreezeRequested,
)
from kilter.loop.rules.turn import Turn
from kilter.release.freeze import frozen_until


def clear_from(state: LoopState, moment: datetime) -> datetime | None:
    """Return the first moment, from this one on, at which no freeze holds; None when only a person can end it.

    Args:
        state: What the loop remembers.
        moment: From when.
    """
    for _ in range(366):
        active = [hold.until for hold in state.holds if hold.until is None or moment < hold.until]
        ends = [until for until in active if until is not None]
        if len(ends) < len(active):
            return None
        window = frozen_until(state.policy.freeze, moment)
        if window is not None:
            ends.append(window)
        if not ends:
            return moment
        moment = max(ends)
    return moment


def is_frozen(state: LoopState, moment: datetime) -> bool:
    """Say whether a freeze holds at a moment."""
    return clear_from(state, moment) != moment


def freeze_reason(state: LoopState, moment: datetime) -> str:
    """Return what holds releases at a moment, in words; empty when nothing does."""
    held = [
        hold.reason or f"asked for by {hold.by}" for hold in state.holds if hold.until is None or moment < hold.until
    ]
    held += [window for window in state.policy.freeze if frozen_until((window,), moment) is not None]
    return "; ".join(held)


def goes_forward(action: Awaited) -> bool:
    """Say whether an action gives a challenger traffic, or more of it."""
    return isinstance(action, Promote) or (isinstance(action, SetTraffic) and action.mode != "solo")


def freeze_requested(turn: Turn, event: FreezeRequested) -> None:
    """Hold releases where they are; asking again under the same name takes the place of the first."""
    hold = Hold(name=event.name, by=event.by, reason=event.reason, until=event.until)
    others = tuple(
        known
        for known in turn.state.holds
        if known.name != event.name and (known.until is None or turn.now < known.until)
    )
    if turn.state.holds != (*others, hold):
        turn.change(holds=(*others, hold))


def unfreeze_requested(turn: Turn, event: UnfreezeRequested) -> None:
    """Let releases go on."""
    others = tuple(hold for hold in turn.state.holds if hold.name != event.name)
    if others != turn.state.holds:
        turn.change(holds=others)
