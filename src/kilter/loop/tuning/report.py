"""What a study found, read from its runs: the best trial, the front, importance, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from kilter.core.errors import InsufficientData
from kilter.loop.tuning.importance import importance
from kilter.loop.tuning.records import Axis, Comparison, Line, StudyReport, StudySpec, TrialRecord
from kilter.loop.tuning.space import Dimension, Point, values_at
from kilter.loop.tuning.study import every, point_in, spec_in, trial_of
from kilter.loop.tuning.validation import against, sums_in
from kilter.tracking.records import Run
from kilter.tracking.service import RunService


def report(runs: RunService, parent: Run) -> StudyReport:
    """Return what a study found so far.

    Raises:
        NotFound: When it was not begun properly.
    """
    spec = spec_in(runs, parent)
    trials: dict[int, TrialRecord] = {}
    points: dict[int, Point] = {}
    for run in every(runs, parent):
        one = trial_of(run, spec.goals)
        if one is None:
            continue
        before = trials.get(one.number)
        if before is None or (before.state == "interrupted" and one.attempt > before.attempt):
            trials[one.number] = one
        points[one.number] = point_in(run) or points.get(one.number, {})
    listed = tuple(trials[number] for number in sorted(trials))
    complete = [one for one in listed if one.state == "complete" and one.values is not None]
    first = spec.goals[0]
    best = (
        min(complete, key=lambda one: (first.sign * _first(one), one.number))
        if complete and len(spec.goals) == 1
        else None
    )
    weights, note = importance(
        spec.space, [(points[one.number], first.sign * _first(one)) for one in complete if points[one.number]]
    )
    return StudyReport(
        name=spec.name,
        run=parent.id,
        experiment=parent.experiment,
        status=parent.status,
        spec=spec,
        trials=listed,
        best=None if best is None else best.number,
        front=_front(spec, complete),
        best_values={} if best is None else values_at(spec.space, points[best.number]),
        best_result=() if best is None or best.values is None else best.values,
        comparison=None if best is None else _comparison(runs, spec, complete, best),
        importance=weights,
        note=note,
        axes=(
            *(_axis(one) for one in spec.space),
            *(_goal_axis(spec, place, complete) for place in range(len(spec.goals))),
        ),
        lines=tuple(_line(spec, one, points[one.number]) for one in listed if one.state in {"complete", "pruned"}),
        cpu_seconds=sum(one.cpu_seconds for one in listed),
    )


def _first(one: TrialRecord) -> float:
    return math.nan if one.values is None else float(one.values[0])


def _front(spec: StudySpec, complete: Sequence[TrialRecord]) -> tuple[int, ...]:
    """Return the trials that no other beats: as good in every goal, and better in one."""
    costs = {
        one.number: tuple(goal.sign * float(value) for goal, value in zip(spec.goals, one.values or (), strict=True))
        for one in complete
    }

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in costs.values())

    return tuple(number for number, mine in costs.items() if not beaten(mine))


def _comparison(
    runs: RunService, spec: StudySpec, complete: Iterable[TrialRecord], best: TrialRecord
) -> Comparison | None:
    """Return the best trial against the first, which a loop's search begins with: the declared values."""
    declared = next((one for one in complete if one.number == 0), None)
    if spec.kind != "loop" or declared is None:
        return None
    metric = spec.goals[0].metric
    difference = None
    sums = [sums_in(runs, one.run, metric) for one in (best, declared)]
    if sums[0] is not None and sums[1] is not None:
        try:
            difference = against(sums[0], sums[1])
        except InsufficientData:
            difference = None
    return Comparison(metric=metric, declared=_first(declared), best=_first(best), difference=difference)


def _axis(one: Dimension) -> Axis:
    if one.choices:
        return Axis(name=one.name, kind="choice", choices=one.choices)
    ends = sorted((one.value(one.low), one.value(one.high))) if not one.shape else (None, None)
    return Axis(name=one.name, kind="number", low=ends[0], high=ends[1], log=one.log or one.shape == "log_normal")


def _goal_axis(spec: StudySpec, place: int, complete: Sequence[TrialRecord]) -> Axis:
    values = [float(one.values[place]) for one in complete if one.values is not None]
    finite = [value for value in values if math.isfinite(value)]
    return Axis(
        name=spec.goals[place].metric, kind="number", low=min(finite, default=None), high=max(finite, default=None)
    )


def _line(spec: StudySpec, one: TrialRecord, point: Point) -> Line:
    results: Sequence[Any] = one.values if one.values is not None else (None,) * len(spec.goals)
    params = values_at(spec.space, point) if point else {}
    return Line(
        number=one.number, run=one.run, state=one.state, at=(*(params.get(axis.name) for axis in spec.space), *results)
    )
