"""A run's points on their way into the store: in batches, those that are there passed over."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kilter.tracking.records import MetricPoint, MetricSummary, Run
from kilter.tracking.service import RunService

_BATCH = 10_000


class Edited(Exception):
    """The source's points are not those that were imported before: they have to be compared one by one."""


class _There:
    """The points of a metric that are in the store already, checked against the source's as they are passed over."""

    def __init__(self, summary: MetricSummary) -> None:
        self.left = summary.count
        self._summary = summary
        self._newest: MetricPoint | None = None
        self._least, self._greatest = math.inf, -math.inf

    def passed(self, point: MetricPoint) -> None:
        """Pass over a point.

        Raises:
            Edited: When it was the last of those that are there, and they were others.
        """
        self.left -= 1
        if self._newest is None or point.step >= self._newest.step:
            self._newest = point
        value = point.number
        if math.isfinite(value):
            self._least, self._greatest = min(self._least, value), max(self._greatest, value)
        if not self.left:
            self._check(self._newest)

    def _check(self, newest: MetricPoint) -> None:
        least = self._least if math.isfinite(self._least) else None
        greatest = self._greatest if math.isfinite(self._greatest) else None
        there = self._summary
        same = (str(newest.number), newest.step, _moment(newest.at), least, greatest) == (
            str(float(there.last)),
            there.last_step,
            _moment(there.last_at),
            there.least,
            there.greatest,
        )
        if not same:
            raise Edited


def _moment(at: datetime | None) -> float:
    return 0.0 if at is None else at.timestamp()


class Batches:
    """Adds a run's points.

    Args:
        run: The run as it is in the store.
        service: The room's operations; None to write nothing.
        compare: Compare each point with what is there, instead of counting.
    """

    def __init__(self, run: Run, service: RunService | None, *, compare: bool = False) -> None:
        self._run = run
        self._service = service
        self._compare = compare
        self._there = {} if compare else {one.name: _There(one) for one in run.metrics if one.count}
        self._pending: list[MetricPoint] = []
        self._added = 0

    def add(self, points: list[MetricPoint]) -> None:
        """Take points, in the source's order.

        Raises:
            Edited: When the points that are there are not the source's.
        """
        if self._there:
            points = [point for point in points if self._is_new(point)]
        self._pending.extend(points)
        if len(self._pending) >= _BATCH:
            self._flush()

    def close(self, params: Mapping[str, Any], tags: Mapping[str, str]) -> int:
        """Write what is left together with the last words about the run, and return how many points were added."""
        self._flush(params, tags)
        if not self._compare or self._service is None:
            return self._added
        before = sum(one.count for one in self._run.metrics)
        return sum(one.count for one in self._service.get(self._run.id).metrics) - before

    def _is_new(self, point: MetricPoint) -> bool:
        there = self._there.get(point.name)
        if there is None:
            return True
        there.passed(point)
        if not there.left:
            del self._there[point.name]
        return False

    def _flush(self, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None) -> None:
        points, self._pending = self._pending, []
        self._added += len(points)
        if self._service is None or not (points or params or tags):
            return
        # A key of its own means: these are new, don't look for them. Without one, each is compared with what is there.
        key = "" if self._compare else uuid.uuid4().hex
        for start in range(0, max(len(points), 1), _BATCH):
            last = start + _BATCH >= len(points)
            self._service.log_batch(
                self._run.id,
                points[start : start + _BATCH],
                dict(params or {}) if last else None,
                dict(tags or {}) if last else None,
                f"{key}/{start}" if key else "",
            )
