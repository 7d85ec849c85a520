"""The words of monitoring: what was judged, what is kept per day, what the page shows."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple

import msgspec

from kilter.core.evidence import Finding


class Judged(NamedTuple):
    """A monitor's answer: its name as declared, the finding, and whether its condition holds."""

    monitor: str
    finding: Finding
    raised: bool


class FeatureDrift(msgspec.Struct, frozen=True):
    """How far one column moved from its reference.

    Args:
        name: The input, or ``prediction``.
        psi: The population stability index as counted.
        noise: The index that sampling alone is expected to give, rows of a day taken as alike.
        excess: ``psi - noise``, not below 0: what monitors compare with their threshold.
        chance: How probable so large an index is without any move, corrected for the number of columns.
        js: Jensen-Shannon distance, for information.
        ks: Kolmogorov-Smirnov distance on the bins, for information; None for categories.
        rows: Rows of the window.
    """

    name: str
    psi: float
    noise: float
    excess: float
    chance: float
    js: float
    ks: float | None
    rows: int


class DailyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One day of one version in one role.

    Args:
        loop: The loop.
        version: The version that gave the value.
        arm: ``champion``, ``challenger``, ``fallback``, or ``shadow`` for values that were not answered.
        day: The UTC day of the predictions.
        rows: Predictions.
        labels: Predictions whose label is known; the sums below are over these.
        value_sum: Sum of all predictions' values.
        scored_sum: Sum of the values of the labelled predictions.
        label_sum: Sum of the labels.
        log_loss_sum: Sum of the log losses.
        brier_sum: Sum of the squared errors.
    """

    loop: str
    version: int
    arm: str
    day: date
    rows: int
    labels: int
    value_sum: float
    scored_sum: float
    label_sum: float
    log_loss_sum: float
    brier_sum: float

    @property
    def mean_value(self) -> float | None:
        """Mean prediction of the labelled rows, beside which ``mean_label`` can be held."""
        return self.scored_sum / self.labels if self.labels else None

    @property
    def mean_label(self) -> float | None:
        """Mean label."""
        return self.label_sum / self.labels if self.labels else None

    @property
    def log_loss(self) -> float | None:
        """Mean log loss."""
        return self.log_loss_sum / self.labels if self.labels else None

    @property
    def brier(self) -> float | None:
        """Mean squared error."""
        return self.brier_sum / self.labels if self.labels else None


class HeatmapCell(msgspec.Struct, frozen=True, kw_only=True):
    """One feature on one day: the drift of the seven days that end with it, against the champion's reference of that day."""

    feature: str
    day: date
    psi: float
    excess: float
    rows: int
    version: int


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """One feature's counts of one day beside the reference's, on the same bins."""

    loop: str
    feature: str
    day: date
    version: int
    labels: tuple[str, ...]
    reference: tuple[int, ...]
    counts: tuple[int, ...]
    trailing: tuple[int, ...]
    psi: float
    excess: float


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor's condition held for a version, from ``raised_at`` until ``cleared_at``.

    Args:
        id: Loop, version, monitor and time of raising: the same alert, however often it is written.
        finding: The finding that raised it.
        latest: The finding of the last evaluation.
    """

    id: str
    loop: str
    version: int
    monitor: str
    raised_at: datetime
    cleared_at: datetime | None
    finding: Finding
    latest: Finding
