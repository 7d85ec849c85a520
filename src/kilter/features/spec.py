"""A feature view as JSON, and the digest that names its state in every store."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from kilter.core.digests import digest_json
from kilter.data.declare import Table
from kilter.features.declare import Aggregate, FeatureView, Operation


class AggregateSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One aggregate of a view; see :class:`kilter.features.declare.Aggregate`."""

    name: str
    operation: Operation
    over: str
    column: str = ""
    resolution: float = 1e-6


class ViewSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A view; see :class:`kilter.features.declare.FeatureView`."""

    table: str
    key: str
    table_time: str
    entity: str
    time: str
    lag: str
    aggregates: tuple[AggregateSpec, ...]


def spec_of(view: FeatureView) -> ViewSpec:
    """Return the view as a record that can be written as JSON."""
    return ViewSpec(
        view.table.name,
        view.table.key,
        view.table.time,
        view.entity,
        view.time,
        view.lag,
        tuple(
            AggregateSpec(name, aggregate.operation, aggregate.over, aggregate.column, aggregate.resolution)
            for name, aggregate in view.aggregates
        ),
    )


def view_of(spec: ViewSpec) -> FeatureView:
    """Return the view that a record describes: ``view_of(spec_of(view)) == view``."""
    return FeatureView(
        Table(spec.table, spec.key, spec.table_time),
        spec.entity,
        spec.time,
        spec.lag,
        tuple((one.name, Aggregate(one.operation, one.over, one.column, one.resolution)) for one in spec.aggregates),
    )


def to_json(view: FeatureView) -> bytes:
    """Return the view as JSON."""
    return msgspec.json.encode(spec_of(view))


def from_json(data: bytes | str) -> FeatureView:
    """Return the view that JSON describes.

    Raises:
        msgspec.ValidationError: When the JSON describes no view.
    """
    return view_of(msgspec.json.decode(data, type=ViewSpec))


@lru_cache(maxsize=256)
def view_digest(view: FeatureView) -> str:
    """Return the digest of a view's definition; any change of it makes a new digest."""
    return digest_json(spec_of(view))
