"""Making a version's reference profile, at training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.statistics import block_codes, estimate, interval
from kilter.evaluation.declare import Metric, accuracy, auc, brier, log_loss, precision, recall
from kilter.evaluation.metrics import checked, statistic
from kilter.monitoring.profile import (
    PREDICTION,
    HoldoutMetric,
    ReferenceProfile,
    metric_key,
    numeric_bins,
    profile_inputs,
)

METRICS = (log_loss, brier, auc, accuracy, recall, precision)


def reference_profile(
    inputs: pl.DataFrame,
    times: NDArray[np.datetime64],
    labels: NDArray[np.float64],
    *,
    holdout_times: NDArray[np.datetime64],
    holdout_values: NDArray[np.float64],
    holdout_labels: NDArray[np.float64],
    categorical: Sequence[str] | None = None,
    metrics: Sequence[Metric] = METRICS,
    bins: int = 10,
    top: int = 30,
) -> ReferenceProfile:
    """Return the profile that a version is monitored against.

    Args:
        inputs: The training rows' raw inputs, one column each, shape (n, d); ``Dataset.frame.select(Dataset.names)``.
        times: Their event times (UTC), shape (n,).
        labels: Their labels, shape (n,).
        holdout_times: Event times of the holdout, shape (m,).
        holdout_values: The model's predictions on the holdout, shape (m,).
        holdout_labels: Labels of the holdout, shape (m,).
        categorical: Inputs that are categories; None takes those that are neither numeric nor boolean.
        metrics: What decay monitors will ask for; one at another threshold than 0.5 has to be named here.
        bins: Bins of equal counts per numeric input.
        top: Values of a categorical input that get a bin of their own.

    Raises:
        InsufficientData: When there are no training rows, or no holdout rows.
        InvalidInput: When labels and predictions can't be judged together.
    """
    days = times.astype("datetime64[D]").astype(np.int64)
    truth, scores = checked(holdout_labels, holdout_values)
    codes = block_codes(holdout_times, "day")
    holdout_days = holdout_times.astype("datetime64[D]").astype(np.int64)
    return ReferenceProfile(
        inputs=profile_inputs(inputs, days, categorical=categorical, bins=bins, top=top),
        prediction=numeric_bins(PREDICTION, pl.Series(PREDICTION, scores), holdout_days, bins=bins),
        rows=int(labels.size),
        days=int(np.unique(days).size),
        base_rate=float(np.mean(labels)),
        holdout={metric_key(each): held for each in metrics if (held := _held(each, truth, scores, codes)) is not None},
        mean_prediction=float(scores.mean()),
        mean_label=float(truth.mean()),
    )


def _held(
    metric: Metric, y: NDArray[np.float64], p: NDArray[np.float64], codes: NDArray[np.int64]
) -> HoldoutMetric | None:
    found = statistic(metric, y, p, codes)
    if not math.isfinite(estimate(found)):
        return None
    around = interval(found, level=0.9)
    return HoldoutMetric(around.estimate, around.low, around.high, int(y.size), found.blocks)
