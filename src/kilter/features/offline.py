"""Features as of many moments at once, for training: exact, from a frame of events."""

from __future__ import annotations

import numpy as np
import polars as pl

from kilter.core.errors import DeclarationError, InvalidInput
from kilter.features.declare import FeatureView
from kilter.features.plan import Plan, plan_of
from kilter.features.windows import Events, as_fields


def offline(view: FeatureView, events: pl.DataFrame, queries: pl.DataFrame, *, time: str | None = None) -> pl.DataFrame:
    """Return the queries with the view's features beside them, each as of its own moment.

    A range index over packed keys: events are sorted by (entity, time, key) once, each window is two binary searches, sums
    and counts are differences of prefix sums.

    Args:
        view: The definition.
        events: Rows of the view's table, one per key; rows without time or entity are no events.
        queries: One row per query, with the entity's column and the moment; order and other columns are kept.
        time: The column of the moments (UTC); the table's event time if not said.

    Raises:
        DeclarationError: When the events lack a column of the view, or one has a type that can't be aggregated.
        InvalidInput: When the queries lack the entity or the moment.
    """
    plan = plan_of(view)
    moment = time or view.table.time
    for name in (view.entity, moment):
        if name not in queries.columns:
            raise InvalidInput(
                f"the queries have no column {name!r}", where="queries", allowed=", ".join(queries.columns)
            )
    ordered = sorted_events(plan, events)
    entities = ordered[view.entity].cast(pl.String)
    known = entities.unique(maintain_order=True)  # in sorted order, as the events are
    asked = queries[view.entity].cast(pl.String)
    numbers = pl.Series(np.arange(known.len(), dtype=np.int64))
    codes = _codes(entities, known, numbers)
    query_codes = _codes(asked, known, numbers)
    at = _micros(queries[moment])
    missing = (query_codes < 0) | queries[moment].is_null().to_numpy()
    stamps = _micros(ordered[view.time])
    index = _Index(codes, stamps)
    table = Events(plan, as_fields(plan, [_floats(ordered[name], name) for name in plan.columns]), ordered.height)
    end = index.find(query_codes, at - plan.lag)
    end[missing] = 0
    begins: dict[int, np.ndarray] = {}
    result: list[pl.Series] = []
    for feature in plan.features:
        if feature.over not in begins:
            begin = index.find(query_codes, at - plan.lag - feature.over)
            begin[missing] = 0
            begins[feature.over] = begin
        values = table.value(feature, begins[feature.over], end)
        result.append(pl.Series(feature.name, values, dtype=pl.Float64, nan_to_null=True))
    return queries.with_columns(result)


def sorted_events(plan: Plan, events: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that are events, with the view's columns only, sorted by (entity, time, key).

    Raises:
        DeclarationError: When a column of the view is not there.
    """
    view = plan.view
    needed = dict.fromkeys((view.table.key, view.entity, view.time, *plan.columns))
    absent = [name for name in needed if name not in events.columns]
    if absent:
        raise DeclarationError(
            f"unknown column {absent[0]!r}",
            where=f"features({view.table.name!r}, entity={view.entity!r})",
            allowed=", ".join(sorted(events.columns)),
        )
    kind = events.schema[view.entity]
    if not (kind.is_integer() or kind in (pl.String, pl.Null) or isinstance(kind, pl.Categorical | pl.Enum)):
        raise DeclarationError(
            f"entity {view.entity!r} is a column of {kind}",
            where=f"features({view.table.name!r})",
            allowed="strings and whole numbers",
        )
    happened = pl.col(view.time).is_not_null() & pl.col(view.entity).is_not_null()
    return (
        events.select(list(needed))
        .filter(happened)
        .sort(pl.col(view.entity).cast(pl.String), view.time, view.table.key)
    )


class _Index:
    """Finds positions in events that are sorted by (entity, time).

    Entity and time are packed into one int64, the times as they are when they fit, else as ranks.
    """

    def __init__(self, codes: np.ndarray, stamps: np.ndarray) -> None:
        count = int(codes[-1]) + 1 if len(codes) else 1
        self._least = int(stamps.min()) if len(stamps) else 0
        self._span = (int(stamps.max()) - self._least + 2) if len(stamps) else 1
        self._ranks: np.ndarray | None = None
        shifted = stamps - self._least
        if count * self._span >= 2**63:
            self._ranks = np.unique(stamps)
            shifted = np.searchsorted(self._ranks, stamps)
            self._span = len(self._ranks) + 1
        self._packed = codes * self._span + shifted

    def find(self, codes: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """Return for each query the position of its entity's first event at or after the moment."""
        if self._ranks is not None:
            shifted = np.searchsorted(self._ranks, moments)
        else:
            shifted = np.clip(moments - self._least, 0, self._span - 1)
        found: np.ndarray = np.searchsorted(self._packed, codes * self._span + shifted).astype(np.int64)
        return found


def _codes(values: pl.Series, known: pl.Series, numbers: pl.Series) -> np.ndarray:
    if known.len() == 0:
        return np.full(values.len(), -1, dtype=np.int64)
    return values.replace_strict(known, numbers, default=-1, return_dtype=pl.Int64).fill_null(-1).to_numpy()


def _micros(values: pl.Series) -> np.ndarray:
    if not isinstance(values.dtype, pl.Datetime):
        raise InvalidInput(f"column {values.name!r} is {values.dtype}", where=values.name, allowed="a time (UTC)")
    return values.dt.cast_time_unit("us").to_physical().fill_null(0).to_numpy()


def _floats(values: pl.Series, name: str) -> np.ndarray:
    if not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)):
        raise DeclarationError(f"column {name!r} is {values.dtype}", where=name, allowed="a numeric or boolean column")
    return values.cast(pl.Float64).to_numpy()
