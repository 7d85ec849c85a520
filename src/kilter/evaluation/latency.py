"""How long one row takes, and the gate on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from kilter.core.durations import parse_duration
from kilter.core.errors import InsufficientData
from kilter.core.evidence import Finding, Interval, Verdict
from kilter.core.statistics import Floats, normal_quantile
from kilter.evaluation.declare import FasterThan

WARM_UP = 50
CONFIDENCE = 0.95
RULE = (
    "99th percentile of single-row calls with its distribution-free interval from binomial order statistics; "
    "fails when the estimate misses, is inconclusive when only the interval does"
)


def measure(predict: Callable[[Floats], object], rows: Floats, calls: int = 1000) -> Floats:
    """Time single-row calls of a model.

    Args:
        predict: The packaged model's prediction, given a matrix of shape (1, inputs).
        rows: Rows to take in turn, shape (n, inputs).
        calls: How many calls are timed, after 50 that are not.

    Returns:
        Seconds per call on the monotonic clock, shape (calls,).

    Raises:
        InsufficientData: When there is no row to predict.
    """
    if not len(rows):
        raise InsufficientData("there is no row to time", where="latency", allowed="at least one row")
    singles = [np.ascontiguousarray(rows[i : i + 1]) for i in range(min(len(rows), 256))]
    taken = np.empty(calls)
    for i in range(WARM_UP):
        predict(singles[i % len(singles)])
    for i in range(calls):
        row = singles[i % len(singles)]
        start = time.perf_counter()
        predict(row)
        taken[i] = time.perf_counter() - start
    return taken


def percentile(timings: Floats, share: float = 0.99, confidence: float = CONFIDENCE) -> Interval:
    """Return a percentile with an interval whose ends each hold with ``confidence``, whatever the distribution.

    The ends are order statistics: the number of calls below the true percentile is binomial (normal approximation with
    continuity, slightly conservative). With too few calls for an upper end it is None.

    Args:
        timings: Seconds, shape (calls,).
        share: The percentile as a share.
        confidence: One-sided, of each end.
    """
    ordered = np.sort(timings)
    calls = ordered.size
    reach = normal_quantile(confidence) * math.sqrt(calls * share * (1.0 - share))
    first = math.floor(calls * share - reach - 0.5)
    last = math.ceil(calls * share + reach + 0.5)
    return Interval(
        estimate=float(ordered[min(math.ceil(calls * share), calls) - 1]),
        low=float(ordered[first - 1]) if first >= 1 else None,
        high=float(ordered[last - 1]) if last <= calls else None,
        level=2.0 * confidence - 1.0,
    )


def judge_speed(gate: FasterThan, timings: Floats | None, name: str) -> Finding:
    """Judge `faster_than`.

    ``fail``: the estimated p99 is above the limit. ``pass``: its upper bound is below. ``inconclusive``: the estimate
    is below and the bound above.

    Raises:
        InsufficientData: When nothing was measured.
    """
    limit = parse_duration(gate.p99, where="faster_than").total_seconds()
    if timings is None or not np.asarray(timings).size:
        raise InsufficientData("no call was timed", where="faster_than", allowed="timings of latency.measure")
    value = percentile(np.asarray(timings, dtype=np.float64))
    verdict: Verdict = "inconclusive"
    if not value.estimate <= limit:
        verdict = "fail"
    elif value.high is not None and value.high <= limit:
        verdict = "pass"
    return Finding(
        name=name,
        verdict=verdict,
        value=value,
        allowed=f"<= {limit:g} s",
        rows=int(np.asarray(timings).size),
        rule=RULE,
        detail={"median_ms": float(np.median(timings)) * 1e3, "p99_ms": value.estimate * 1e3, "limit_ms": limit * 1e3},
    )
