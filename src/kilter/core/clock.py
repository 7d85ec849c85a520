"""Time is always UTC and always handed in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Anything that tells the time in UTC."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that moves only when told to: for tests, the backtest and the simulator."""

    def __init__(self, start: datetime) -> None:
        self._now = utc(start)

    def now(self) -> datetime:
        """Return the time that was last set."""
        return self._now

    def set(self, moment: datetime) -> None:
        """Move to ``moment``; moving back is allowed, because real clocks do."""
        self._now = utc(moment)

    def advance(self, by: timedelta) -> datetime:
        """Move forward by a duration and return the new time."""
        self._now += by
        return self._now


def utc(moment: datetime) -> datetime:
    """Return ``moment`` in UTC; a naive time is taken as UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
