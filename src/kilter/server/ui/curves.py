"""Metrics as lines: smoothed, thinned to what a screen can show, and gathered into bands. Pure arithmetic on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Spread = Literal["interval", "deviation", "range"]

SPREADS: dict[Spread, str] = {
    "interval": "mean and its 95 % interval (Student's t)",
    "deviation": "mean and one standard deviation",
    "range": "mean, least and greatest",
}
"""What a band shows, in words."""

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the normal's.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.960


class Band(msgspec.Struct, frozen=True):
    """Several lines as one.

    Args:
        x: Places.
        mean: The mean of the lines that reach there.
        low: Lower edge; NaN where only one line reaches.
        high: Upper edge.
        runs: How many lines reach there.
    """

    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    runs: NDArray[np.int64]


def smoothed(values: Floats, weight: float) -> Floats:
    """Return the exponential moving average, corrected for its start at nothing; what is not finite stays and is not counted.

    Args:
        values: The values in order.
        weight: How much of the average before is kept, from 0 (no smoothing) to below 1.
    """
    if weight <= 0:
        return values
    found = []
    last, left = 0.0, 1.0
    for value in values.tolist():
        if value - value != 0:  # NaN or infinite
            found.append(value)
            continue
        last = last * weight + (1 - weight) * value
        left *= weight
        found.append(last / (1 - left))
    return np.asarray(found, np.float64)


def thinned(
    x: Floats, y: Floats, buckets: int, low: float | None = None, high: float | None = None
) -> NDArray[np.int64]:
    """Return which points to draw: the least and the greatest of each stretch of x, the ends, and one neighbour beyond each side.

    Nothing that the eye could see is lost: whatever a stretch as narrow as a pixel reaches up or down to is there.

    Args:
        x: Places, not falling.
        y: Finite values.
        buckets: How many stretches.
        low: Where the picture begins; at the first point, if not said.
        high: Where it ends.
    """
    if not len(x):
        return np.zeros(0, np.int64)
    start = int(np.searchsorted(x, x[0] if low is None else low, "left"))
    stop = int(np.searchsorted(x, x[-1] if high is None else high, "right"))
    before, after = max(0, start - 1), min(len(x), stop + 1)
    if after - before <= 2 * buckets + 4:
        return np.arange(before, after, dtype=np.int64)
    inside_x, inside_y = x[start:stop], y[start:stop]
    width = (inside_x[-1] - inside_x[0]) / buckets or 1.0
    bucket = np.minimum(((inside_x - inside_x[0]) / width).astype(np.int64), buckets - 1)
    order = np.lexsort((inside_y, bucket))
    edges = np.flatnonzero(np.diff(bucket[order])) + 1
    firsts, lasts = np.r_[0, edges], np.r_[edges, len(order)] - 1
    ends = [before, start, stop - 1, after - 1]
    return np.unique(np.r_[ends, start + order[firsts], start + order[lasts]]).astype(np.int64)


def bands(lines: Sequence[tuple[Floats, Floats]], points: int, spread: Spread) -> Band:
    """Return several lines as one, over the places that they have, or over as many as asked for.

    A line counts only between its own ends; a line with more points than there are places is averaged within each.

    Args:
        lines: Places that do not fall and finite values, of each line.
        points: At most so many places.
        spread: What the band shows.
    """
    full = [(x, y) for x, y in lines if len(x)]
    if not full:
        nothing = np.zeros(0)
        return Band(nothing, nothing, nothing, nothing, np.zeros(0, np.int64))
    places = np.unique(np.concatenate([x for x, _ in full]))
    if len(places) > points:
        places = np.linspace(places[0], places[-1], points)
    table = np.vstack([_on(places, x, y) for x, y in full])
    known = np.isfinite(table)
    count = known.sum(axis=0)
    some = np.maximum(count, 1)
    mean = np.where(count > 0, np.where(known, table, 0.0).sum(axis=0) / some, np.nan)
    if spread == "range":
        low = np.where(known, table, np.inf).min(axis=0)
        high = np.where(known, table, -np.inf).max(axis=0)
    else:
        gaps = np.where(known, table - mean, 0.0)
        deviation = np.sqrt((gaps**2).sum(axis=0) / np.maximum(count - 1, 1))
        if spread == "interval":
            degrees = np.asarray([_NORMAL if n > len(_T) + 1 else _T[max(n, 2) - 2] for n in count.tolist()])
            deviation = degrees * deviation / np.sqrt(some)
        low, high = mean - deviation, mean + deviation
    one = count < 2
    return Band(places, mean, np.where(one, np.nan, low), np.where(one, np.nan, high), count.astype(np.int64))


def _on(places: Floats, x: Floats, y: Floats) -> Floats:
    """Return a line at places; NaN beyond its ends."""
    if len(x) > 2 * len(places):
        cell = np.searchsorted((places[:-1] + places[1:]) / 2, x)  # each point counts for the place that is nearest
        count = np.bincount(cell, minlength=len(places))
        total = np.bincount(cell, weights=y, minlength=len(places))
        there = count > 0
        x, y = places[there], total[there] / count[there]
    return np.interp(places, x, y, left=np.nan, right=np.nan)
