"""A view, compiled once: durations in microseconds, and which stored fields each feature reads.

Sums are exact because they are made of whole multiples of the declared resolution, so that any order of adding, and a
difference of prefix sums as well, gives the same bits. ``min``, ``max`` and ``last`` read the plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import numpy as np

from kilter.core.durations import parse_duration
from kilter.core.errors import DeclarationError
from kilter.features.declare import FeatureView, Operation
from kilter.features.spec import view_digest

NULL = -(2**63)
"""What a missing value is among whole multiples."""

LARGEST = 2**53
"""A value of more multiples than this can't be kept exactly, and counts as missing."""

_MICROSECOND = timedelta(microseconds=1)
_EXACT = ("sum", "mean")


@dataclass(frozen=True)
class Scale:
    """Whole multiples of a resolution, and back.

    Args:
        factor: How many multiples make one; used when it is a whole number, because ``n / factor`` rounds best.
        step: The resolution itself, otherwise.
    """

    factor: float | None
    step: float

    @classmethod
    def of(cls, resolution: float) -> Scale:
        """Return the scale of a resolution such as ``0.01``."""
        factor = round(1 / resolution)
        return (
            cls(float(factor), resolution)
            if factor >= 1 and abs(factor * resolution - 1) < 1e-12
            else cls(None, resolution)
        )

    def quantise(self, values: np.ndarray) -> np.ndarray:
        """Return float64 values as int64 multiples, rounded half to even; what is missing or too large is ``NULL``."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint(values * self.factor if self.factor is not None else values / self.step)
            fits = np.abs(scaled) <= LARGEST
        return np.where(fits, np.where(fits, scaled, 0.0).astype(np.int64), NULL)

    def quantise_one(self, value: float | None) -> int:
        """Return one value as multiples: the same number as :meth:`quantise`."""
        if value is None:
            return NULL
        scaled = value * self.factor if self.factor is not None else value / self.step
        return round(scaled) if abs(scaled) <= LARGEST else NULL

    def restore(self, multiples: np.ndarray) -> np.ndarray:
        """Return sums of multiples as float64."""
        restored: np.ndarray = multiples / self.factor if self.factor is not None else multiples * self.step
        return restored


@dataclass(frozen=True)
class Field:
    """What is stored of one column of an event: multiples of a resolution, or the plain value.

    Args:
        column: The column's name.
        place: Its position among the plan's columns.
        scale: For sums and means; None for the plain value.
    """

    column: str
    place: int
    scale: Scale | None


@dataclass(frozen=True)
class Feature:
    """One feature of the plan.

    Args:
        name: Its name.
        operation: How the window's values become one.
        over: The window's length in microseconds.
        field: The position of its field; -1 for ``count``.
    """

    name: str
    operation: Operation
    over: int
    field: int


@dataclass(frozen=True)
class Plan:
    """A compiled view.

    Args:
        view: What was declared.
        digest: The digest of the declaration.
        lag: How far before a query its windows end, in microseconds.
        longest: The longest window, in microseconds.
        columns: The columns that are read of an event.
        fields: What is kept of them.
        features: The features, in the order of their declaration.
    """

    view: FeatureView
    digest: str
    lag: int
    longest: int
    columns: tuple[str, ...]
    fields: tuple[Field, ...]
    features: tuple[Feature, ...]


@lru_cache(maxsize=256)
def plan_of(view: FeatureView) -> Plan:
    """Compile a view.

    Raises:
        DeclarationError: When a duration, a column, a resolution or a name can't work.
    """
    where = f"features({view.table.name!r}, entity={view.entity!r})"
    if not view.aggregates:
        raise DeclarationError("a view without aggregates", where=where, fix='add one, such as n_1h=count("1h")')
    lag = 0 if view.lag in ("0s", "0") else parse_duration(view.lag, where=f"{where}.lag") // _MICROSECOND
    columns: list[str] = []
    fields: list[Field] = []
    features: list[Feature] = []
    for name, aggregate in view.aggregates:
        spot = f"{where}.{name}"
        over = parse_duration(aggregate.over, where=f"{spot}.over") // _MICROSECOND
        if aggregate.operation == "count":
            features.append(Feature(name, "count", over, -1))
            continue
        if not aggregate.column:
            raise DeclarationError(
                f"{aggregate.operation} needs a column", where=spot, allowed="a numeric column's name"
            )
        if not (0 < aggregate.resolution < float("inf")):
            raise DeclarationError(
                f"resolution {aggregate.resolution!r} can't be used", where=spot, allowed="a positive number like 0.01"
            )
        if aggregate.column not in columns:
            columns.append(aggregate.column)
        scale = Scale.of(aggregate.resolution) if aggregate.operation in _EXACT else None
        field = Field(aggregate.column, columns.index(aggregate.column), scale)
        if field not in fields:
            fields.append(field)
        features.append(Feature(name, aggregate.operation, over, fields.index(field)))
    longest = max(feature.over for feature in features)
    return Plan(view, view_digest(view), lag, longest, tuple(columns), tuple(fields), tuple(features))
