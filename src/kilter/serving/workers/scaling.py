"""How many workers a version wants: pure. It follows the load within limits, up quickly and down slowly.

A worker that is busy four fifths of the time lets rows wait; one is taken away only when the others would still be less than half
busy without it, for half a minute. Between the two nothing changes, so that a steady load never makes the number swing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

_HIGH, _GOAL, _LOW = 0.8, 0.6, 0.5
_UP_SECONDS, _DOWN_SECONDS = 1.0, 30.0


class Seen(NamedTuple):
    """What was seen of a version's workers since the last look.

    Args:
        workers: How many there are, those that are starting included.
        starting: How many of them are starting.
        busy: The share of their time that the others predicted, 0 to 1.
    """

    workers: int
    starting: int
    busy: float


class Trend(NamedTuple):
    """Since when it has been so.

    Args:
        high: Since when the workers have had too much to do; None when they have not.
        low: Since when there has been one too many; None when there has not.
    """

    high: float | None = None
    low: float | None = None


def wanted(seen: Seen, trend: Trend, least: int, most: int, now: float) -> tuple[int, Trend]:
    """Return how many workers there should be, and the trend to hand in next time.

    Args:
        seen: What was seen.
        trend: What was returned last.
        least: Never fewer.
        most: Never more.
        now: The time in seconds.
    """
    workers = seen.workers
    if not least <= workers <= most:
        return min(max(workers, least), most), Trend()
    if seen.starting:  # its help has not been seen yet
        return workers, Trend()
    if seen.busy > _HIGH and workers < most:
        high = now if trend.high is None else trend.high
        more = min(max(math.ceil(workers * seen.busy / _GOAL), workers + 1), most)
        return (workers, Trend(high=high)) if now - high < _UP_SECONDS else (more, Trend())
    if workers > least and seen.busy * workers < _LOW * (workers - 1):
        low = now if trend.low is None else trend.low
        return (workers, Trend(low=low)) if now - low < _DOWN_SECONDS else (workers - 1, Trend())
    return workers, Trend()
