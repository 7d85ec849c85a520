"""Metrics and gates, as a user declares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricName = Literal["log_loss", "brier", "auc", "recall", "precision", "accuracy"]
Block = Literal["hour", "day", "week"]


@dataclass(frozen=True)
class Metric:
    """A measure of predictions against labels.

    Args:
        name: The metric's name.
        greater_is_better: Which way is up.
        threshold: For metrics of decisions: a score at or above it counts as a positive prediction.
    """

    name: MetricName
    greater_is_better: bool
    threshold: float = 0.5

    def at(self, threshold: float) -> Metric:
        """Return the same metric at another decision threshold."""
        return Metric(self.name, self.greater_is_better, threshold)


log_loss = Metric("log_loss", greater_is_better=False)
brier = Metric("brier", greater_is_better=False)
auc = Metric("auc", greater_is_better=True)
recall = Metric("recall", greater_is_better=True)
precision = Metric("precision", greater_is_better=True)
accuracy = Metric("accuracy", greater_is_better=True)


@dataclass(frozen=True)
class BeatsChampion:
    """The challenger must be better than the champion on the same rows."""

    metric: Metric
    confidence: float
    resample: Block
    margin: float


@dataclass(frozen=True)
class BeatsNaive:
    """The challenger must be better than always answering with the base rate of its training rows."""

    metric: Metric
    confidence: float
    resample: Block


@dataclass(frozen=True)
class AtLeast:
    """The metric must reach a bound."""

    metric: Metric
    bound: float
    confidence: float
    resample: Block


@dataclass(frozen=True)
class Fair:
    """The metric must not differ by more than a gap between groups."""

    by: str
    metric: Metric
    max_gap: float
    min_support: int
    confidence: float
    resample: Block


@dataclass(frozen=True)
class FasterThan:
    """One row must be predicted within a time."""

    p99: str


Gate = BeatsChampion | BeatsNaive | AtLeast | Fair | FasterThan


def beats_champion(
    metric: Metric, *, confidence: float = 0.95, resample: Block = "day", margin: float = 0.0
) -> BeatsChampion:
    """Demand that the challenger is better than the champion, paired on the same rows, with a block bootstrap.

    Args:
        metric: What to compare.
        confidence: Of the one-sided interval that must exclude ``margin``.
        resample: The block that is resampled whole, because rows within it are not independent.
        margin: How much worse is still accepted (non-inferiority); 0 demands superiority.
    """
    return BeatsChampion(metric, confidence, resample, margin)


def beats_naive(metric: Metric = log_loss, *, confidence: float = 0.95, resample: Block = "day") -> BeatsNaive:
    """Demand that the challenger is better than a constant: the base rate of its training rows."""
    return BeatsNaive(metric, confidence, resample)


def at_least(metric: Metric, bound: float, *, confidence: float = 0.95, resample: Block = "day") -> AtLeast:
    """Demand a metric of at least ``bound`` (at most, for metrics where less is better)."""
    return AtLeast(metric, bound, confidence, resample)


def fair(
    *,
    by: str,
    metric: Metric,
    max_gap: float,
    min_support: int = 50,
    confidence: float = 0.95,
    resample: Block = "day",
) -> Fair:
    """Demand that a metric differs by at most ``max_gap`` between the groups of a column.

    Args:
        by: The column that names the group.
        metric: What to compare between groups.
        max_gap: The largest accepted difference between the best and the worst group.
        min_support: Groups with fewer rows that count for the metric are left out, and named in the finding.
        confidence: Of the interval for the gap.
        resample: The block that is resampled whole.
    """
    return Fair(by, metric, max_gap, min_support, confidence, resample)


def faster_than(*, p99: str) -> FasterThan:
    """Demand that the packaged model answers one row within ``p99`` (a duration such as ``"20ms"``) in 99 of 100 calls."""
    return FasterThan(p99)
