"""One event being decided: the state as the rules change it, and the actions that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from msgspec.structs import replace

from kilter.loop.records import (
    Actions,
    Answer,
    Awaited,
    JudgeShadow,
    LoopState,
    Mark,
    Notify,
    Pending,
    Promote,
    Release,
    RollBack,
    SetTraffic,
    Stage,
)

TRAFFIC = (SetTraffic, Promote, RollBack)
"""The actions that say how the endpoint serves."""

_SUPERSEDED = (SetTraffic, Promote, RollBack, JudgeShadow)
FAR = datetime.max.replace(tzinfo=UTC)
"""The last moment of the calendar."""

A = TypeVar("A", bound=Awaited)


def later(moment: datetime, seconds: float) -> datetime:
    """Return the moment so many seconds later; what lies beyond the calendar is its last moment."""
    try:
        return moment + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return FAR


class Turn:
    """One call of ``decide``.

    Args:
        state: The state before the event.
        now: The present moment: never before any moment that the state has seen.
    """

    __slots__ = ("actions", "now", "state")

    def __init__(self, state: LoopState, now: datetime) -> None:
        self.state = state
        self.now = now
        self.actions: list[Actions] = []

    # ------------------------------------------------------------ state

    def change(self, **fields: Any) -> None:
        """Replace fields of the state."""
        self.state = replace(self.state, **fields)

    def change_release(self, release: Release, **fields: Any) -> None:
        """Make this release, with some fields replaced, the one in flight."""
        self.state = replace(self.state, release=replace(release, **fields))

    def end_release(self) -> None:
        """Nothing is in flight any more."""
        self.state = replace(self.state, release=None)

    def warm(self) -> tuple[int, ...]:
        """Return the versions that stay loaded without traffic: the way back."""
        return () if self.state.previous is None else (self.state.previous,)

    # ------------------------------------------------------------ actions

    def number(self) -> str:
        """Return the id of a new action."""
        sequence = self.state.sequence + 1
        self.state = replace(self.state, sequence=sequence)
        return f"{self.state.policy.loop}/{sequence}"

    def ask(self, action: Awaited) -> None:
        """Ask for an action and await its answer.

        A traffic action says completely how the endpoint serves, so that it takes the place of any that is still
        pending, and of a look at a shadow that no longer matters.
        """
        pending = self.state.pending
        if isinstance(action, TRAFFIC):
            pending = tuple(entry for entry in pending if not isinstance(entry.action, _SUPERSEDED))
        self.state = replace(self.state, pending=(*pending, Pending(action=action)))
        self.actions.append(action)

    def mark(self, version: int, stage: Stage, reason: str) -> None:
        """Write a version's stage."""
        self.actions.append(Mark(id=self.number(), version=version, stage=stage, reason=reason))

    def notify(self, title: str, body: str) -> None:
        """Tell the owner."""
        self.actions.append(Notify(id=self.number(), to=self.state.policy.owner, title=title, body=body))

    # ------------------------------------------------------------ answers

    def find(self, action: str) -> Pending | None:
        """Return the pending action of this id."""
        for entry in self.state.pending:
            if entry.action.id == action:
                return entry
        return None

    def answered(self, answer: Answer, kinds: type[A] | tuple[type[A], ...]) -> A | None:
        """Take the action that this answers off the list; None for a duplicate, a stranger or the wrong kind."""
        entry = self.find(answer.action)
        if entry is None or not isinstance(entry.action, kinds):
            return None
        self.drop(entry)
        return entry.action

    def drop(self, dropped: Pending) -> None:
        """Await no answer to this action any more."""
        self.state = replace(self.state, pending=tuple(entry for entry in self.state.pending if entry is not dropped))

    def awaits(self, kinds: type[Awaited] | tuple[type[Awaited], ...]) -> bool:
        """Say whether an action of these kinds is pending."""
        return any(isinstance(entry.action, kinds) for entry in self.state.pending)


Rule = Callable[[Turn], None]
"""A standing rule: looked at after every event, because every event also says that time has passed."""
