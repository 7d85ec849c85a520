"""Windowed features, declared once and computed twice: offline for training, online for serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kilter.data.declare import Table

Operation = Literal["count", "sum", "mean", "min", "max", "last"]


@dataclass(frozen=True)
class Aggregate:
    """One aggregate over a window of events.

    Args:
        operation: ``count``, ``sum``, ``mean``, ``min``, ``max`` or ``last``.
        over: The window's length, as a duration.
        column: The numeric column aggregated; empty for ``count``.
        resolution: Sums are kept in whole multiples of this, so that any order of adding gives the same bits.
    """

    operation: Operation
    over: str
    column: str = ""
    resolution: float = 1e-6


@dataclass(frozen=True)
class FeatureView:
    """Aggregates of one table's events per entity, as of a moment.

    At time ``t`` a feature covers the events with ``t - lag - over <= time < t - lag`` (right-open), of rows whose
    ``time`` is not null.
    """

    table: Table
    entity: str
    time: str
    lag: str
    aggregates: tuple[tuple[str, Aggregate], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in the order of their declaration."""
        return tuple(name for name, _ in self.aggregates)


def features(table: Table, *, entity: str, time: str, lag: str = "0s", **aggregates: Aggregate) -> FeatureView:
    """Declare windowed features of ``table`` per ``entity``.

    Args:
        table: Where the events are.
        entity: The column by which events are grouped, and by which a request asks.
        time: The column that tells when an event happened (UTC); rows without it are no events (yet).
        lag: How long after an event it is surely known; the window ends this long before the prediction.
        aggregates: The features by name: ``delay_3h=mean("dep_delay", "3h")``.
    """
    return FeatureView(table, entity, time, lag, tuple(aggregates.items()))


def count(over: str) -> Aggregate:
    """Count the events of the window."""
    return Aggregate("count", over)


def total(column: str, over: str, *, resolution: float = 1e-6) -> Aggregate:
    """Add up a column over the window; null when the window has no value."""
    return Aggregate("sum", over, column, resolution)


def mean(column: str, over: str, *, resolution: float = 1e-6) -> Aggregate:
    """Average a column over the window; null when the window has no value."""
    return Aggregate("mean", over, column, resolution)


def minimum(column: str, over: str) -> Aggregate:
    """Take the least value of a column in the window."""
    return Aggregate("min", over, column)


def maximum(column: str, over: str) -> Aggregate:
    """Take the greatest value of a column in the window."""
    return Aggregate("max", over, column)


def latest(column: str, over: str) -> Aggregate:
    """Take the value of the newest event in the window that has one; of events at one moment, that of the greatest key."""
    return Aggregate("last", over, column)
