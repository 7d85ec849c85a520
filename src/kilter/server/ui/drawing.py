"""Curves of runs: the points are read once and kept, smoothed as a whole, and thinned to the picture."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from kilter.core.errors import InvalidInput
from kilter.server.ui.curves import SPREADS, Floats, Spread, bands, smoothed, thinned
from kilter.server.ui.differences import spoken
from kilter.server.ui.tracking_address import number, whole
from kilter.server.ui.tracking_records import Curves, Drawn
from kilter.tracking.records import Run
from kilter.tracking.service import RunService

_KEPT_POINTS = 4_000_000
_MOST_RUNS = 100
_FAINT = 12
_AXES = ("step", "time", "relative")

Arrays = tuple[Floats, Floats, Floats | None]


class Drawing(msgspec.Struct, frozen=True):
    """How curves are drawn.

    Args:
        metric: Which metric.
        x: Over ``step``, ``time`` or ``relative`` time.
        smooth: How much of the average before is kept.
        width: How many pixels wide.
        low: Where the picture begins.
        high: Where it ends.
        spread: What a band shows.
    """

    metric: str
    x: str = "step"
    smooth: float = 0.0
    width: int = 800
    low: float | None = None
    high: float | None = None
    spread: Spread = "interval"


def drawing(query: Mapping[str, Any]) -> Drawing:
    """Return how a query wants curves drawn.

    Raises:
        InvalidInput: When it can't be so.
    """
    axis, spread, smooth = (
        str(query.get("x") or "step"),
        str(query.get("spread") or "interval"),
        number(query, "smooth"),
    )
    if axis not in _AXES:
        raise InvalidInput(f"{axis[:40]!r} is no axis", where="x", allowed=", ".join(_AXES))
    if spread not in SPREADS:
        raise InvalidInput(f"{spread[:40]!r} is no spread", where="spread", allowed=", ".join(SPREADS))
    if smooth is not None and not 0 <= smooth < 1:
        raise InvalidInput(f"{smooth:g}", where="smooth", allowed="0 to below 1")
    return Drawing(
        metric=str(query.get("metric", "")),
        x=axis,
        smooth=smooth or 0.0,
        width=max(50, whole(query, "width", 800, 4000)),
        low=number(query, "from"),
        high=number(query, "to"),
        spread=spread,
    )


class Draughtsman:
    """Draws curves.

    Args:
        runs: Where the points are.
    """

    def __init__(self, runs: RunService) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, bool], tuple[object, Arrays]] = OrderedDict()

    def curves(self, runs: Sequence[Run], how: Drawing, groups: Sequence[str] | None = None) -> Curves:
        """Return a metric of runs as lines, or as one band for each group.

        Args:
            runs: Those that have the metric.
            how: How they are drawn.
            groups: The group of each run, for bands.

        Raises:
            InvalidInput: When there are too many runs.
        """
        if len(runs) > _MOST_RUNS:
            raise InvalidInput(f"{len(runs)} runs", where="runs", allowed=f"at most {_MOST_RUNS} lines at a time")
        lines = [(run.id, run.name, *self._line(run, how)) for run in runs]
        ends = [place for _, _, x, _, _, _ in lines if len(x) for place in (float(x[0]), float(x[-1]))]
        if groups is None:
            faint = how.smooth > 0 and len(lines) <= _FAINT
            found = [_drawn(one, how, faint=faint) for one in lines if one[4]]
        else:
            found = [_band(name, [one for one, of in zip(lines, groups, strict=True) if of == name and len(one[2])], how)
                     for name in dict.fromkeys(groups)]  # fmt: skip
        return Curves(
            metric=how.metric,
            x=how.x,
            lines=tuple(one for one in found if one.x or one.odd),
            spread=SPREADS[how.spread] if groups is not None else "",
            ends=(min(ends), max(ends)) if ends else None,
        )

    def _line(self, run: Run, how: Drawing) -> tuple[Floats, Floats, int, int]:
        steps, values, times = self._series(run, how.metric, times=how.x != "step")
        x = steps
        if times is not None:
            order = np.argsort(times, kind="stable")
            x, values = times[order], values[order]
            if how.x == "relative" and len(x):
                x = x - x[0]
        finite = np.isfinite(values)
        return x[finite], values[finite], len(values), int(len(values) - np.count_nonzero(finite))

    def _series(self, run: Run, metric: str, *, times: bool) -> Arrays:
        """Return a metric's points; they are read again only when there are new ones, which its summary tells."""
        newest = next(
            ((one.count, one.last_step, one.last_at, one.last) for one in run.metrics if one.name == metric), None
        )
        key = (run.id, metric, times)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == newest:
                self._kept.move_to_end(key)
                return kept[1]
        found = self._runs.series(run.id, metric, times=times)
        with self._lock:
            self._kept[key] = (newest, found)
            while len(self._kept) > 1 and sum(len(one[1][0]) for one in self._kept.values()) > _KEPT_POINTS:
                self._kept.popitem(last=False)
        return found


def group_names(sides: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    """Return the group of each run, as people read it.

    Args:
        sides: The values that each run can be grouped by.
        field: Which of them.
    """
    name = field.partition(".")[2]
    return [f"{name} = {spoken(side[field])}" if field in side else f"without {name}" for side in sides]


def _drawn(line: tuple[str, str, Floats, Floats, int, int], how: Drawing, *, faint: bool) -> Drawn:
    run, name, x, raw, points, odd = line
    y = smoothed(raw, how.smooth)
    chosen = thinned(x, y, how.width, how.low, how.high)
    before = thinned(x, raw, how.width, how.low, how.high) if faint else None
    if how.low is not None and how.high is not None:
        points = int(np.searchsorted(x, how.high, "right") - np.searchsorted(x, how.low, "left"))
    return Drawn(
        name=name,
        runs=(run,),
        x=x[chosen].tolist(),
        y=y[chosen].tolist(),
        faint=None if before is None else (x[before].tolist(), raw[before].tolist()),
        points=points,
        odd=odd,
    )


def _band(name: str, lines: Sequence[tuple[str, str, Floats, Floats, int, int]], how: Drawing) -> Drawn:
    pieces = []
    for _, _, x, raw, _, _ in lines:
        y = smoothed(raw, how.smooth)
        start = 0 if how.low is None else max(0, int(np.searchsorted(x, how.low, "left")) - 1)
        stop = len(x) if how.high is None else int(np.searchsorted(x, how.high, "right")) + 1
        pieces.append((x[start:stop], y[start:stop]))
    band = bands(pieces, how.width, how.spread)
    return Drawn(
        name=name,
        runs=tuple(one[0] for one in lines),
        x=band.x.tolist(),
        y=band.mean.tolist(),
        low=[None if math.isnan(one) else one for one in band.low.tolist()],
        high=[None if math.isnan(one) else one for one in band.high.tolist()],
        points=sum(one[4] for one in lines),
        odd=sum(one[5] for one in lines),
    )
