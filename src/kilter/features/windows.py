"""The arithmetic of windows over sorted events: the one place where a feature's value is made.

Events are sorted by (entity, time, key); a window is a range ``[first, last)`` of their positions. Offline, the events
are a whole history; online, they are the few that a request needs. The same functions give the same bits for both.
"""

from __future__ import annotations

import numpy as np

from kilter.features.plan import NULL, Feature, Field, Plan

_SAFE = 2.0**62


class Events:
    """Sorted events with what the windows need of them, computed at first use.

    Args:
        plan: The compiled view.
        fields: Per field of the plan an array: int64 multiples (``NULL`` missing) or float64 (NaN missing).
        count: How many events there are.
    """

    def __init__(self, plan: Plan, fields: list[np.ndarray], count: int) -> None:
        self._plan = plan
        self._fields = fields
        self._count = count
        self._totals: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def value(self, feature: Feature, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return a feature over windows as float64; NaN where the window has no value.

        Args:
            feature: One of the plan's features.
            first: Where each window begins, int64 (windows).
            last: Where each window ends, exclusive.
        """
        if feature.operation == "count":
            counts: np.ndarray = np.maximum(last - first, 0).astype(np.float64)
            return counts
        if self._count == 0:
            return np.full(len(first), np.nan)
        if feature.operation in ("sum", "mean"):
            return self._sum(feature, first, last)
        if feature.operation == "last":
            return self._last(feature, first, last)
        return self._extreme(feature, first, last)

    def _sum(self, feature: Feature, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        field: Field = self._plan.fields[feature.field]
        assert field.scale is not None  # noqa: S101 - the plan gives every sum a scale
        last = np.maximum(first, last)
        totals, counts = self._prefix(feature.field)
        values = counts[last] - counts[first]
        if totals.dtype == np.int64:
            sums = (totals[last] - totals[first]).astype(np.float64)
        else:
            sums = np.array([float(total) for total in totals[last] - totals[first]], dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            result = field.scale.restore(sums)
            if feature.operation == "mean":
                result = result / values
        return np.where(values > 0, result, np.nan)

    def _prefix(self, field: int) -> tuple[np.ndarray, np.ndarray]:
        if field not in self._totals:
            multiples = self._fields[field]
            there = multiples != NULL
            kept = np.where(there, multiples, 0)
            # Python's integers take over, slower and still exact, before 64 bits could overflow.
            exact = kept if float(np.abs(kept.astype(np.float64)).sum()) < _SAFE else kept.astype(object)
            totals = np.zeros(self._count + 1, dtype=exact.dtype)
            np.cumsum(exact, out=totals[1:])
            counts = np.zeros(self._count + 1, dtype=np.int64)
            np.cumsum(there, out=counts[1:])
            self._totals[field] = (totals, counts)
        return self._totals[field]

    def _last(self, feature: Feature, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        values = self._fields[feature.field]
        newest = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(self._count)))
        place = newest[np.maximum(last - 1, 0)]
        return np.where((last > first) & (place >= first), values[np.maximum(place, 0)], np.nan)

    def _extreme(self, feature: Feature, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        least = feature.operation == "min"
        none = np.inf if least else -np.inf
        reduce = np.minimum if least else np.maximum
        result = np.full(len(first), np.nan)
        filled = np.flatnonzero(last > first)
        if len(filled) == 0:
            return result
        # In order of their beginnings, the gaps between windows are walked at most once.
        filled = filled[np.argsort(first[filled], kind="stable")]
        values = self._fields[feature.field]
        padded = np.append(np.where(np.isnan(values), none, values), none)
        edges = np.empty(2 * len(filled), dtype=np.int64)
        edges[0::2], edges[1::2] = first[filled], last[filled]
        found = reduce.reduceat(padded, edges)[0::2]
        result[filled] = np.where(found == none, np.nan, found)
        return result


def as_fields(plan: Plan, columns: list[np.ndarray]) -> list[np.ndarray]:
    """Return the fields of a plan from float64 columns; what is not finite is missing.

    Args:
        plan: The compiled view.
        columns: One float64 array per column of the plan.
    """
    finite = [np.where(np.isfinite(values), values + 0.0, np.nan) for values in columns]  # + 0.0 makes -0.0 into 0.0
    return [
        finite[field.place] if field.scale is None else field.scale.quantise(finite[field.place])
        for field in plan.fields
    ]
