"""Is the shadow better? Looks at paired answers to the same rows, which share one budget of error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from kilter.core import statistics
from kilter.core.errors import InsufficientData, InvalidInput
from kilter.core.evidence import Finding, Verdict
from kilter.core.statistics import BlockSize, Statistic
from kilter.evaluation import metrics
from kilter.evaluation.declare import Metric
from kilter.release.declare import Agreement

RULE: Final = (
    "paired difference on the rows that both answered, whole blocks resampled (see core.statistics); look k spends the error "
    "alpha / 2**k, so that all looks together spend no more than alpha (Bonferroni)"
)


def look(
    joined: pl.DataFrame,
    metric: Metric,
    confidence: float,
    look: int,
    resample: BlockSize = "day",
    *,
    name: str = "shadow",
    seed: int = 0,
    guards: Sequence[Agreement] = (),
) -> Finding:
    """Judge a shadow on the labels known so far.

    ``pass``: the challenger is better beyond doubt (its harm's upper bound is below 0). ``fail``: it is worse beyond
    doubt, or its answers are beyond doubt further from the champion's than a guard allows. ``inconclusive``: anything
    else, also when there are too few rows to say. Each of the two statements is wrong with a chance of at most
    ``1 - confidence`` over all looks together; the guards share the error of the second.

    Args:
        joined: Labelled predictions with ``time``, ``arm``, ``value``, ``label`` and ``shadow_value``; rows without a
            shadow's answer, without a label, or answered by the fallback are left out and counted.
        metric: What to compare.
        confidence: Over all looks together, of each one-sided statement.
        look: The number of this look, from 1.
        resample: The block that is resampled whole.
        name: Of the finding.
        seed: Of the resampling.
        guards: How far the answers to the same rows may differ, in the mean.

    Raises:
        InvalidInput: When the look's number or the confidence can't be used.
    """
    if look < 1 or not 0.5 < confidence < 1.0:
        raise InvalidInput(
            f"look {look} at confidence {confidence!r}",
            where="shadow",
            allowed="looks from 1, a confidence above 0.5 and below 1",
        )
    error = (1.0 - confidence) / 2.0**look
    paired = joined.filter(
        pl.col("label").is_not_null() & pl.col("shadow_value").is_not_null() & (pl.col("arm") != "fallback")
    )
    allowed = "> 0" if metric.greater_is_better else "< 0"
    detail: dict[str, float | int | str | None] = {
        "look": look,
        "error_of_this_look": error,
        "confidence": confidence,
        "resample": resample,
        "left_out": joined.height - paired.height,
    }
    try:
        y, ours = metrics.checked(_floats(paired, "label"), _floats(paired, "shadow_value"))
        _, theirs = metrics.checked(y, _floats(paired, "value"))
        codes = statistics.block_codes(
            paired["time"].cast(pl.Datetime("us", "UTC")).dt.replace_time_zone(None).to_numpy(), resample
        )
        difference: Statistic = statistics.Difference(
            metrics.statistic(metric, y, ours, codes), metrics.statistic(metric, y, theirs, codes)
        )
        value = statistics.interval(difference, level=1.0 - 2.0 * error, seed=seed)
        apart = statistics.interval(
            statistics.mean(np.abs(ours - theirs), codes), level=1.0 - 2.0 * error / (1 + len(guards)), seed=seed
        )
    except (InsufficientData, InvalidInput) as reason:
        return Finding(name, "inconclusive", None, allowed, paired.height, RULE, {**detail, "reason": str(reason)})
    detail |= {
        "challenger": metrics.value(metric, y, ours),
        "champion": metrics.value(metric, y, theirs),
        "blocks": difference.blocks,
        "mean_distance": apart.estimate,
        "same_decision": float(np.mean((ours >= metric.threshold) == (theirs >= metric.threshold))),
    }
    for guard in guards:
        if apart.low is not None and apart.low > guard.within:
            allowed = f"<= {guard.within:g} between the answers, in the mean"
            return Finding(f"{name} guard {guard.name}", "fail", apart, allowed, paired.height, RULE, detail)
    above = value.low is not None and value.low > 0.0
    below = value.high is not None and value.high < 0.0
    better, worse = (above, below) if metric.greater_is_better else (below, above)
    verdict: Verdict = "pass" if better else "fail" if worse else "inconclusive"
    return Finding(name, verdict, value, allowed, paired.height, RULE, detail)


def _floats(frame: pl.DataFrame, column: str) -> statistics.Floats:
    return np.asarray(frame[column].cast(pl.Float64).to_numpy(), dtype=np.float64)
