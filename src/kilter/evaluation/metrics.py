"""Metrics of predictions against labels: as a number, per row where a row has a loss, and per block for intervals."""

from __future__ import annotations

from typing import Final

import numpy as np

from kilter.core import statistics
from kilter.core.errors import InsufficientData, InvalidInput
from kilter.core.statistics import Codes, Floats, Statistic
from kilter.evaluation.declare import Metric

EPSILON: Final = 1e-15
"""Probabilities are clipped to [1e-15, 1 - 1e-15] before a logarithm: a sure and wrong answer costs 34.5, not infinity."""

_PROPORTIONS: Final = frozenset({"recall", "precision", "accuracy"})


def checked(y: Floats, p: Floats) -> tuple[Floats, Floats]:
    """Return labels and predictions as float arrays that a metric can be computed on.

    Args:
        y: Labels, each 0 or 1, shape (rows,).
        p: Predicted probabilities of the positive class, shape (rows,).

    Raises:
        InsufficientData: When there are no rows.
        InvalidInput: When shapes differ, a label is neither 0 nor 1, or a prediction is no probability.
    """
    truth, scores = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 1:
        raise InvalidInput(
            f"labels have shape {truth.shape}, predictions {scores.shape}", where="metric", allowed="the same length"
        )
    if not truth.size:
        raise InsufficientData("there are no rows", where="metric", allowed="at least one row")
    strange = int(np.count_nonzero((truth != 0.0) & (truth != 1.0)))
    if strange:
        raise InvalidInput(f"{strange} labels are neither 0 nor 1", where="metric", allowed="labels of 0 or 1")
    wrong = int(np.count_nonzero(~((scores >= 0.0) & (scores <= 1.0))))
    if wrong:
        raise InvalidInput(
            f"{wrong} of {scores.size} predictions are no probabilities",
            where="metric",
            allowed="numbers from 0 to 1, not NaN",
        )
    return truth, scores


def row_losses(metric: Metric, y: Floats, p: Floats) -> Floats | None:
    """Return the loss of each row, or None for a metric that only exists over many rows.

    Log loss and Brier are losses already; accuracy gives 1 for a wrong decision and 0 for a right one.
    """
    if metric.name == "log_loss":
        inside = np.clip(p, EPSILON, 1.0 - EPSILON)
        return np.asarray(-np.log(np.where(y > 0.5, inside, 1.0 - inside)), dtype=np.float64)
    if metric.name == "brier":
        return np.asarray(np.square(p - y), dtype=np.float64)
    if metric.name == "accuracy":
        return np.asarray((p >= metric.threshold) != (y > 0.5), dtype=np.float64)
    return None


def parts(metric: Metric, y: Floats, p: Floats) -> tuple[Floats, Floats] | None:
    """Return numerator and denominator per row of a metric that is a ratio of sums; None for the AUC."""
    ones = np.ones_like(y)
    if metric.name in ("log_loss", "brier"):
        losses = row_losses(metric, y, p)
        return None if losses is None else (losses, ones)
    decided = (p >= metric.threshold).astype(np.float64)
    if metric.name == "accuracy":
        return (decided == y).astype(np.float64), ones
    if metric.name == "recall":
        return decided * y, y
    if metric.name == "precision":
        return decided * y, decided
    return None


def statistic(metric: Metric, y: Floats, p: Floats, codes: Codes) -> Statistic:
    """Return the metric as a function of block weights, ready for an interval.

    Args:
        metric: What to compute.
        y: Labels, 0 or 1, shape (rows,).
        p: Predictions, shape (rows,).
        codes: The block of each row, shape (rows,).
    """
    found = parts(metric, y, p)
    return statistics.pairs(y, p, codes) if found is None else statistics.ratio(found[0], found[1], codes)


def value(metric: Metric, y: Floats, p: Floats) -> float:
    """Return the metric; NaN where it does not exist (AUC with one class, recall without positives).

    Raises:
        InvalidInput: When labels or predictions can't be used; see `checked`.
    """
    truth, scores = checked(y, p)
    return statistics.estimate(statistic(metric, truth, scores, np.zeros(truth.size, dtype=np.int64)))


def bounds(metric: Metric) -> tuple[float, float]:
    """Return the range of the metric."""
    return (0.0, float("inf")) if metric.name == "log_loss" else (0.0, 1.0)


def is_proportion(metric: Metric) -> bool:
    """Tell whether the metric is a share of rows, so that a binomial variance applies."""
    return metric.name in _PROPORTIONS


__all__ = [
    "EPSILON",
    "bounds",
    "checked",
    "is_proportion",
    "parts",
    "row_losses",
    "statistic",
    "value",
]
