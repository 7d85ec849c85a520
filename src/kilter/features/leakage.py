"""Views whose events carry the truth before it is known."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from kilter.core.errors import DeclarationError
from kilter.data.declare import Label
from kilter.data.schema import nearest
from kilter.features.declare import FeatureView
from kilter.features.plan import plan_of

_TOLERATED = 0.001


def refuse_leaky_views(views: Sequence[FeatureView], label: Label, frame: pl.DataFrame) -> None:
    """Refuse views that would use the label's columns before they are known.

    An event counts from ``time + lag`` on. When a view aggregates a column of the label's expression, that has to be at
    or after the moment when the label is known, in all rows but a thousandth.

    Args:
        views: The model's feature views.
        label: The truth.
        frame: Rows of the views' table.

    Raises:
        DeclarationError: For the first view that is unknown to the table, or leaks; it names the feature, the evidence
            and the fix.
    """
    of_label = {*label.expression().meta.root_names(), label.known_at}
    for view in views:
        plan = plan_of(view)
        where = f"features({view.table.name!r}, entity={view.entity!r})"
        for name in (view.entity, view.time, *plan.columns):
            if name not in frame.columns:
                raise DeclarationError(
                    f"unknown column {name!r}",
                    where=where,
                    allowed=", ".join(sorted(frame.columns)),
                    fix=nearest(name, frame.columns) or "append rows that have it, or correct the name",
                )
        if view.time not in frame.columns or not isinstance(frame.schema[view.time], pl.Datetime):
            raise DeclarationError(
                f"column {view.time!r} is {frame.schema[view.time]}", where=where, allowed="a time (UTC)"
            )
        used = [name for name, one in view.aggregates if one.column in of_label]
        if not used or label.known_at not in frame.columns:
            continue
        counts = pl.col(view.time) + pl.duration(microseconds=plan.lag)
        both = frame.filter(pl.col(view.time).is_not_null() & pl.col(label.known_at).is_not_null())
        early = both.filter(counts < pl.col(label.known_at)).height
        if both.height and early / both.height > _TOLERATED:
            raise DeclarationError(
                f"feature {used[0]!r} leaks the label: it aggregates a column of the label as of {view.time!r} + {view.lag}, "
                f"which is before the label is known ({label.known_at!r}) in {early:,} of {both.height:,} rows",
                where=where,
                allowed=f"events that count when {label.known_at!r} has passed",
                fix=f"declare the view with time={label.known_at!r}, or a longer lag",
            )
