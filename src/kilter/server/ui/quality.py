"""Charts of how good the answers are: pure, from one reading.

The line of a day is the mean of the seven days that end with it. Its band resamples nothing: whole days are the units,
and the interval is that of a ratio of sums over clusters (Cochran 1977, section 6.3) with Student's t, because rows of
one day are not independent and seven days are few.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, datetime

from kilter.monitoring.records import DailyRow
from kilter.server.ui.reading import Reading
from kilter.server.ui.records import Chart, Moment, Point, Quality, Rule, Series, Span

WEEK = 7
FEWEST = 3
_T95 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447}
"""Student's t, two-sided 95 %, by degrees of freedom."""

_ENDED = {"champion", "retired", "rejected", "rolled_back", "inconclusive"}


class _Day:
    """Sums of one day."""

    __slots__ = ("labels", "positives", "total", "values")

    def __init__(self, rows: Iterable[DailyRow]) -> None:
        found = list(rows)
        self.labels = sum(row.labels for row in found)
        self.total = sum(row.log_loss_sum for row in found)
        self.positives = sum(row.label_sum for row in found)
        self.values = sum(row.scored_sum for row in found)


def quality(reading: Reading) -> Quality:
    """Return the loss of champion and challenger, and predicted beside real rates."""
    spans, moments = tuple(_spans(reading)), tuple(_promotions(reading))
    reference = _reference(reading)
    loss = Chart(
        title="Log loss of the answers",
        unit="log loss",
        series=tuple(_losses(reading.daily)),
        spans=spans,
        moments=moments,
        rules=() if reference is None else (Rule(value=reference, label="champion on its holdout"),),
    )
    level = Chart(
        title="Predicted beside what happened",
        unit="positive rate",
        series=tuple(_levels(reading.daily)),
        moments=moments,
        percent=True,
    )
    return Quality(loss=loss, level=level, sentence=_sentence(reading))


def trailing(days: Sequence[tuple[date, float, float]]) -> list[Point]:
    """Return the ratio of sums over the seven days that end with each day, with its interval.

    Args:
        days: Per day in order the sum and the count; days without a count are left out.
    """
    found: list[Point] = []
    kept = [day for day in days if day[2] > 0]
    for place, (day, _, _) in enumerate(kept):
        window = [one for one in kept[max(0, place - WEEK + 1) : place + 1] if (day - one[0]).days < WEEK]
        count = sum(n for _, _, n in window)
        mean = sum(total for _, total, _ in window) / count
        k = len(window)
        if k < FEWEST:
            found.append(Point(day, round(mean, 5)))
            continue
        spread = sum((total - mean * n) ** 2 for _, total, n in window)
        half = _T95[k - 1] * math.sqrt(spread * k / (k - 1)) / count
        found.append(Point(day, round(mean, 5), round(mean - half, 5), round(mean + half, 5)))
    return found


def _losses(daily: Sequence[DailyRow]) -> list[Series]:
    """Return a line per version and role: a version has one as challenger and, if it wins, one as champion."""
    by_version: defaultdict[int, defaultdict[date, list[DailyRow]]] = defaultdict(lambda: defaultdict(list))
    answered: defaultdict[date, dict[int, str]] = defaultdict(dict)
    for row in daily:
        if row.version == 0 or row.arm == "fallback":
            continue
        by_version[row.version][row.day].append(row)
        if row.arm != "shadow" or row.version not in answered[row.day]:
            answered[row.day][row.version] = "champion" if row.arm == "champion" else "challenger"
    found: list[Series] = []
    for version, by_day in sorted(by_version.items()):
        sums = {day: _Day(rows) for day, rows in by_day.items()}
        line = trailing([(day, one.total, one.labels) for day, one in sorted(sums.items())])
        for role in ("challenger", "champion"):
            points = [point for point in line if answered[point.day].get(version) == role]
            if len(points) > FEWEST:
                points = [point for point in points if point.low is not None]  # one day alone says little
            if points:
                found.append(Series(name=f"v{version} {role}", role=role, points=tuple(points)))
    return found


def _levels(daily: Sequence[DailyRow]) -> list[Series]:
    by_day: defaultdict[date, list[DailyRow]] = defaultdict(list)
    for row in daily:
        if row.arm == "champion":
            by_day[row.day].append(row)
    sums = [(day, _Day(rows)) for day, rows in sorted(by_day.items())]
    predicted = trailing([(day, one.values, one.labels) for day, one in sums])
    happened = trailing([(day, one.positives, one.labels) for day, one in sums])
    lines = [
        Series(name="happened", role="truth", points=tuple(happened)),
        Series(name="predicted", role="champion", points=tuple(Point(one.day, one.value) for one in predicted)),
    ]
    return [line for line in lines if line.points]


def _reference(reading: Reading) -> float | None:
    """Return the champion's log loss on its holdout, as the decay monitor has told it."""
    champion = reading.status.summary.champion
    for alert in reading.alerts:
        value = alert.latest.detail.get("holdout")
        if alert.version == champion and alert.monitor == "decay(log_loss)" and isinstance(value, int | float):
            return float(value)
    return None


def _spans(reading: Reading) -> list[Span]:
    found = [
        Span(
            lane="alarm",
            label=alert.monitor,
            start=alert.raised_at,
            end=alert.cleared_at or reading.now,
            open=alert.cleared_at is None,
        )
        for alert in reading.alerts
    ]
    begun: dict[int, tuple[str, datetime]] = {}
    for version, stage, at in reading.marks:
        if version in begun and (stage in _ENDED or stage == "canary"):
            lane, start = begun.pop(version)
            found.append(_release_span(lane, version, start, at))
        if stage in {"shadow", "canary"}:
            begun[version] = (stage, at)
    found += [_release_span(lane, version, start, reading.now, open_=True) for version, (lane, start) in begun.items()]
    return found


def _release_span(lane: str, version: int, start: datetime, end: datetime, *, open_: bool = False) -> Span:
    return Span(
        lane="canary" if lane == "canary" else "shadow", label=f"v{version} {lane}", start=start, end=end, open=open_
    )


def _promotions(reading: Reading) -> list[Moment]:
    return [Moment(at=at, label=f"v{version}") for version, stage, at in reading.marks if stage == "champion"]


def _sentence(reading: Reading) -> str:
    """Say what the latest fourteen days show."""
    champion = reading.status.summary.champion
    last = max((row.day for row in reading.daily), default=None)
    if last is None or champion is None:
        return ""
    rows = [row for row in reading.daily if row.arm == "champion" and (last - row.day).days < 14]
    labels = sum(row.labels for row in rows)
    if not labels:
        return ""
    happened, predicted = sum(row.label_sum for row in rows) / labels, sum(row.scored_sum for row in rows) / labels
    return f"Last 14 days: {happened:.1%} happened, {predicted:.1%} predicted, over {labels:,} labelled answers."
