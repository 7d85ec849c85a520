"""Decay: the metric on live labels held against what it was on the holdout, both with their days' noise."""

from __future__ import annotations

import math

from kilter.core.evidence import Finding, Interval
from kilter.core.statistics import estimate, interval
from kilter.evaluation.metrics import statistic
from kilter.monitoring.declare import Decay
from kilter.monitoring.profile import HoldoutMetric
from kilter.monitoring.records import Judged
from kilter.monitoring.window import Window, column, enough, too_little

CONFIDENCE = 0.95
RULE = (
    "relative worsening against the holdout at least the threshold, and its one-sided 95 % bound from resampling whole days above 0; "
    "the holdout's own error counts (MOVER: Zou & Donner 2008, Statistics in Medicine 27)"
)


def judge_decay(monitor: Decay, window: Window, reference: HoldoutMetric | None) -> Judged:
    """Judge a decay monitor.

    Args:
        monitor: As declared.
        window: The version's own labelled rows, with columns ``value`` and ``label``.
        reference: The same metric of the same version on its holdout.
    """
    allowed = f"< {monitor.by:+.0%} worse than on the holdout"
    if reference is None or reference.value == 0:
        why = "no holdout value to hold against"
        finding = Finding(monitor.name, "inconclusive", None, allowed, window.frame.height, RULE, {"why": why})
        return Judged(monitor.name, finding, raised=False)
    if not enough(window):
        return Judged(monitor.name, too_little(monitor.name, allowed, RULE, window), raised=False)
    values, labels = column(window, "value"), column(window, "label")
    live = statistic(monitor.metric, labels, values, window.codes)
    if not math.isfinite(estimate(live)):
        why = f"{monitor.metric.name} does not exist on these labels"
        finding = Finding(
            monitor.name, "inconclusive", None, allowed, labels.size, RULE, {"why": why, "blocks": window.blocks}
        )
        return Judged(monitor.name, finding, raised=False)
    now = interval(live, level=2 * CONFIDENCE - 1)
    worse = _worsening(monitor, now, reference)
    raised = worse.estimate >= monitor.by and worse.low is not None and worse.low > 0
    base = float(labels.mean())
    finding = Finding(
        name=monitor.name,
        verdict="fail" if raised else "pass",
        value=worse,
        allowed=allowed,
        rows=window.frame.height,
        rule=RULE,
        detail={
            "live": round(now.estimate, 6),
            "live_low": now.low,
            "live_high": now.high,
            "holdout": round(reference.value, 6),
            "holdout_low": reference.low,
            "holdout_high": reference.high,
            "mean_label": round(base, 6),
            "blocks": window.blocks,
            "over": monitor.over,
        },
    )
    return Judged(monitor.name, finding, raised=raised)


def _worsening(monitor: Decay, live: Interval, reference: HoldoutMetric) -> Interval:
    """Return the worsening as a fraction of the holdout's value; both ends one-sided 95 %, so 90 % together."""
    scale = abs(reference.value)
    sign = -1.0 if monitor.metric.greater_is_better else 1.0
    moved = sign * (live.estimate - reference.value)
    before, after = (live.low, live.high) if sign > 0 else (live.high, live.low)
    if before is None or after is None:
        return Interval(moved / scale, None, None, 2 * CONFIDENCE - 1)
    down, up = abs(live.estimate - before), abs(after - live.estimate)
    known_down, known_up = _reach(reference, sign)
    low = moved - math.hypot(down, known_up)
    high = moved + math.hypot(up, known_down)
    return Interval(moved / scale, low / scale, high / scale, 2 * CONFIDENCE - 1)


def _reach(reference: HoldoutMetric, sign: float) -> tuple[float, float]:
    """Return how far the holdout's value may lie on its better and on its worse side; 0 where too few days told."""
    worse, better = (reference.high, reference.low) if sign > 0 else (reference.low, reference.high)
    return (
        0.0 if better is None else abs(reference.value - better),
        0.0 if worse is None else abs(worse - reference.value),
    )
