"""Monitors, as a user declares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kilter.evaluation.declare import Metric


@dataclass(frozen=True)
class Decay:
    """The champion's metric on live labels, held against what it was on its holdout."""

    metric: Metric
    by: float
    over: str

    @property
    def name(self) -> str:
        """The monitor's name in alarms and triggers."""
        return f"decay({self.metric.name})"


@dataclass(frozen=True)
class Calibration:
    """The mean prediction, held against the mean label."""

    above: float
    over: str

    @property
    def name(self) -> str:
        """The monitor's name in alarms and triggers."""
        return "calibration"


@dataclass(frozen=True)
class Drift:
    """The distribution of each input and of the prediction, held against the training rows."""

    method: Literal["psi"]
    above: float
    over: str

    @property
    def name(self) -> str:
        """The monitor's name in alarms and triggers."""
        return f"drift({self.method})"


Monitor = Decay | Calibration | Drift


def decay(metric: Metric, *, by: float = 0.10, over: str = "14d") -> Decay:
    """Watch for a metric that got worse by a fraction ``by`` of its holdout value, over a window of live labels."""
    return Decay(metric, by, over)


def calibration(*, above: float = 0.06, over: str = "14d") -> Calibration:
    """Watch for a gap between mean prediction and mean label larger than ``above`` (in probability)."""
    return Calibration(above, over)


def drift(method: Literal["psi"] = "psi", *, above: float = 0.2, over: str = "14d") -> Drift:
    """Watch for inputs or predictions whose distribution moved away from the training rows (an effect size, not a p-value)."""
    return Drift(method, above, over)
