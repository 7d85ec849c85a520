"""What a trial's validation rows say by day: two sums from which a metric and its interval are made again."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from kilter.core import statistics
from kilter.core.errors import NotFound
from kilter.core.evidence import Interval
from kilter.core.statistics import Floats
from kilter.evaluation.declare import Metric
from kilter.evaluation.metrics import parts
from kilter.tracking.service import RunService

VALIDATION: Final = "validation.json"


class Sums(msgspec.Struct, frozen=True):
    """A metric's two sums per day: their quotient is the metric.

    Args:
        numerator: Per day.
        denominator: Per day.
    """

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]


def sums_of(metric: Metric, y: Floats, p: Floats, times: NDArray[np.datetime64]) -> Sums | None:
    """Return a metric's sums by day, cut as everywhere (see ``core.statistics``); None for the AUC, which is no quotient.

    Args:
        metric: The metric.
        y: Labels (rows,).
        p: Predictions (rows,).
        times: Event times (rows,).
    """
    found = parts(metric, y, p)
    if found is None:
        return None
    ratio = statistics.ratio(found[0], found[1], statistics.block_codes(times, "day"))
    return Sums(tuple(ratio.numerator.tolist()), tuple(ratio.denominator.tolist()))


def against(best: Sums, declared: Sums) -> Interval:
    """Return best less declared on the same rows, with an interval over days."""
    return statistics.interval(statistics.Difference(_ratio(best), _ratio(declared)))


def sums_in(runs: RunService, run: str, metric: str) -> Sums | None:
    """Return the sums that a trial left, or None when its metric has none."""
    try:
        found = msgspec.json.decode(runs.artifact(run, VALIDATION), type=dict[str, Sums | None])
    except NotFound:
        return None
    return found.get(metric)


def _ratio(sums: Sums) -> statistics.Ratio:
    return statistics.Ratio(np.array(sums.numerator), np.array(sums.denominator))
