"""How champion and challenger have done since a release began: pure, from one reading."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta

import msgspec

from kilter.monitoring.records import DailyRow
from kilter.server.ui.proof import proof
from kilter.server.ui.reading import Reading
from kilter.server.ui.records import Chart, Moment, Point, Series

ERROR = 0.05
_TUNED = 31.4
"""Rho of the mixture: with it the bands are about as narrow as they can be near 1,000 rows."""


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """How the two have done since the release began.

    Args:
        curves: Their running means, with bands that hold at every look.
        harm: The difference of the two, with its own band; None before the first label of a canary.
        sentence: The same in words.
    """

    curves: Chart
    harm: Chart | None
    sentence: str


def outcomes(reading: Reading) -> Outcomes | None:
    """Return champion and challenger since the release began; None before the first release."""
    found = proof(reading)
    if found is None:
        return None
    version = found.version
    begun = _begun(reading, version)
    champion = _champion(reading, version)
    over = _over(reading, version, begun)
    rows = [row for row in reading.daily if begun is not None and begun.date() <= row.day <= over]
    lines = [
        Series(name=f"v{number} {role}", role=role, points=tuple(running(mine)))
        for number, role, mine in (
            (champion, "champion", [row for row in rows if row.version == champion and row.arm == "champion"]),
            (
                version,
                "challenger",
                [row for row in rows if row.version == version and row.arm in {"challenger", "shadow"}],
            ),
        )
    ]
    lines = [line for line in lines if line.points]
    return Outcomes(
        curves=Chart(
            title="Squared error of the answers since the release began",
            unit="squared error",
            series=tuple(lines),
            funnel=True,
            moments=tuple(
                Moment(at=at, label=stage)
                for number, stage, at in reading.marks
                if number == version and stage in {"shadow", "canary"}
            ),
        ),
        harm=None if found.harm is None else msgspec.structs.replace(found.harm, funnel=True),
        sentence=_sentence(lines, rows, version),
    )


def _begun(reading: Reading, version: int) -> datetime | None:
    """Return when the version's canary began, or its shadow when it has had no canary."""
    at = {stage: moment for number, stage, moment in reading.marks if number == version}
    return at.get("canary") or at.get("shadow")


def _over(reading: Reading, version: int, begun: datetime | None) -> date:
    """Return the day on which the release ended; the last day there is while it goes on."""
    ends = [
        at for number, stage, at in reading.marks
        if number == version and stage in _ENDS and begun is not None and at >= begun
    ]  # fmt: skip
    return (min(ends) - timedelta(microseconds=1)).date() if ends else date.max


_ENDS = frozenset({"champion", "rejected", "rolled_back", "inconclusive"})


def _champion(reading: Reading, version: int) -> int | None:
    """Return who was champion when the version began to prove itself."""
    begun = _begun(reading, version)
    before = [
        number
        for number, stage, at in reading.marks
        if stage == "champion" and number != version and (begun is None or at <= begun)
    ]
    return before[-1] if before else None


def running(rows: Sequence[DailyRow], error: float = ERROR) -> list[Point]:
    """Return the running mean of the squared errors by day, with a band that holds at every look.

    A squared error lies in [0, 1], so that it is sub-Gaussian with variance 1/4 whatever was before it, and the band is the
    two-sided normal mixture of Robbins 1970 (Howard, Ramdas, McAuliffe & Sekhon 2021, eq. 14). It covers the running mean of
    what was to be expected, at all days together; rows may depend on those before.

    Args:
        rows: Days of one version.
        error: The chance that the band ever misses.
    """
    days: defaultdict[date, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        days[row.day][0] += row.labels
        days[row.day][1] += row.brier_sum
    found: list[Point] = []
    count = total = 0.0
    for day, (labels, errors) in sorted(days.items()):
        if not labels:
            continue
        count, total = count + labels, total + errors
        spread = count / 4 + _TUNED
        half = math.sqrt(spread * math.log(spread / (_TUNED * error**2))) / count
        mean = total / count
        found.append(Point(day, round(mean, 5), round(max(0.0, mean - half), 5), round(min(1.0, mean + half), 5)))
    return found


def _sentence(lines: Sequence[Series], rows: Sequence[DailyRow], version: int) -> str:
    if len(lines) < 2:
        return "Waiting for the first labels of both."
    labels = sum(row.labels for row in rows if row.version == version)
    first, second = lines[0].points[-1].value, lines[1].points[-1].value
    return (
        f"{lines[0].name} {first:.4f}, {lines[1].name} {second:.4f}, over {labels:,.0f} labelled answers of v{version}."
    )
