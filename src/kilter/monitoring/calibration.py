"""Calibration: the mean prediction held against the mean label, over whole days."""

from __future__ import annotations

from kilter.core.evidence import Finding
from kilter.core.statistics import interval, mean
from kilter.monitoring.declare import Calibration
from kilter.monitoring.records import Judged
from kilter.monitoring.window import Window, column, enough, too_little

CONFIDENCE = 0.95
RULE = (
    "|mean prediction - mean label| above the threshold, and the two-sided 95 % interval from resampling whole days excludes 0 "
    "(core.statistics.interval)"
)


def judge_calibration(monitor: Calibration, window: Window) -> Judged:
    """Judge a calibration monitor.

    Args:
        monitor: As declared.
        window: The version's own labelled rows, with columns ``value`` and ``label``.
    """
    allowed = f"|gap| <= {monitor.above:g}"
    if not enough(window):
        return Judged(monitor.name, too_little(monitor.name, allowed, RULE, window), raised=False)
    values, labels = column(window, "value"), column(window, "label")
    gap = interval(mean(values - labels, window.codes), level=CONFIDENCE)
    beyond = (gap.low is not None and gap.low > 0) or (gap.high is not None and gap.high < 0)
    raised = abs(gap.estimate) > monitor.above and beyond
    finding = Finding(
        name=monitor.name,
        verdict="fail" if raised else "pass",
        value=gap,
        allowed=allowed,
        rows=window.frame.height,
        rule=RULE,
        detail={
            "mean_prediction": round(float(values.mean()), 6),
            "mean_label": round(float(labels.mean()), 6),
            "blocks": window.blocks,
            "over": monitor.over,
        },
    )
    return Judged(monitor.name, finding, raised=raised)
