"""Which rows a training sees: cut by event time, the holdout after the training rows, and only truth that is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from kilter.core.clock import utc
from kilter.core.durations import format_duration, parse_duration
from kilter.core.errors import DeclarationError, InsufficientData
from kilter.data.declare import Label, Table, Window
from kilter.data.schema import nearest

LABEL = "_label"
"""The column in which a cut keeps the truth, float64; a boolean label is 0 or 1."""

LEAST_TRAINING = 50
LEAST_HOLDOUT = 10

_TIME = pl.Datetime("us", "UTC")


@dataclass(frozen=True, eq=False)
class Cut:
    """Training rows and the holdout after them.

    Args:
        training: Rows with their label in ``_label``, in order of (time, key).
        holdout: The same for the newest stretch.
        starts: Where the training rows begin.
        splits: Where the holdout begins.
        ends: Where it ends: the moment of the cut.
        censored: Rows of both stretches whose label will not be known, or is not known yet, and that take no part.
        binary: The label is boolean.
    """

    training: pl.DataFrame
    holdout: pl.DataFrame
    starts: datetime
    splits: datetime
    ends: datetime
    censored: int
    binary: bool

    @property
    def base_rate(self) -> float:
        """The mean label of the training rows."""
        return float(self.training[LABEL].mean() or 0.0)  # type: ignore[arg-type]


def labelled(frame: pl.DataFrame, table: Table, label: Label, at: datetime) -> pl.DataFrame:
    """Return the frame with the truth that is known at a moment in ``_label``; null where it isn't.

    Args:
        frame: The table's rows.
        table: The table.
        label: What the truth is and when it is known.
        at: The moment.

    Raises:
        DeclarationError: When the label needs a column that is not there, or is neither boolean nor numeric.
    """
    where = f"Label of {table.name!r}"
    expression = label.expression()
    for name in dict.fromkeys((*expression.meta.root_names(), label.known_at, table.time, table.key)):
        if name not in frame.columns:
            raise DeclarationError(
                f"unknown column {name!r}",
                where=where,
                allowed=", ".join(sorted(frame.columns)),
                fix=nearest(name, frame.columns) or "append rows that have it, or correct the name",
            )
    for name in (label.known_at, table.time):
        if not isinstance(frame.schema[name], pl.Datetime):
            raise DeclarationError(f"column {name!r} is {frame.schema[name]}", where=where, allowed="a time (UTC)")
    truth = frame.select(expression.alias(LABEL))[LABEL]
    if not (truth.dtype == pl.Boolean or truth.dtype.is_numeric()):
        raise DeclarationError(
            f"the label is {truth.dtype}", where=where, allowed="a boolean or a number", fix="compare or cast it"
        )
    if truth.len() != frame.height:
        raise DeclarationError("the label is not one value per row", where=where, allowed="an expression over a row")
    known = (pl.col(label.known_at) <= pl.lit(utc(at)).cast(_TIME)).fill_null(value=False)
    finite = truth.cast(pl.Float64).fill_nan(None)
    return frame.with_columns(finite.alias(LABEL)).with_columns(pl.when(known).then(pl.col(LABEL)).alias(LABEL))


def cut(
    frame: pl.DataFrame,
    table: Table,
    label: Label,
    window: Window,
    at: datetime,
    *,
    least_training: int = LEAST_TRAINING,
    least_holdout: int = LEAST_HOLDOUT,
) -> Cut:
    """Cut training and holdout rows as of a moment.

    Training rows have ``at - holdout - train <= time < at - holdout`` (with ``mode="expand"`` anything older, too), the
    holdout ``at - holdout <= time < at``; rows whose label is not known at ``at`` are censored: left out and counted.

    Args:
        frame: The table's rows as known at ``at``.
        table: The table.
        label: What the truth is and when it is known.
        window: How far back.
        at: The moment.
        least_training: How few training rows are too few.
        least_holdout: How few holdout rows are too few.

    Raises:
        DeclarationError: When the label can't be computed.
        InsufficientData: When a stretch has no rows, too few, or one class only.
    """
    ends = utc(at)
    rows = labelled(frame, table, label, ends)
    binary = _is_binary(frame, label)
    span, holdout = (
        parse_duration(window.train, where="Window.train"),
        parse_duration(window.holdout, where="Window.holdout"),
    )
    splits = ends - holdout
    time = pl.col(table.time)
    starts = splits - span
    if window.mode == "expand":
        first = frame[table.time].min()
        starts = min(first, starts) if isinstance(first, datetime) else starts
    inside = rows.filter(time.is_between(_moment(starts), _moment(ends), closed="left")).sort(table.time, table.key)
    known = inside.filter(pl.col(LABEL).is_not_null())
    training, held = known.filter(time < _moment(splits)), known.filter(time >= _moment(splits))
    total = _Span(frame, table.time)
    before = inside.filter(time < _moment(splits)).height
    _enough(training, before, "training", (starts, splits), least_training, binary=binary, total=total)
    _enough(held, inside.height - before, "holdout", (splits, ends), least_holdout, binary=binary, total=total)
    return Cut(training, held, starts, splits, ends, inside.height - known.height, binary)


def nested(
    outer: Cut,
    table: Table,
    window: Window,
    *,
    least_training: int = LEAST_TRAINING,
    least_holdout: int = LEAST_HOLDOUT,
) -> Cut:
    """Split an inner holdout from a cut's training rows, to choose between candidate windows.

    The inner holdout is the newest ``window.holdout`` of the training rows; the outer holdout is not touched, so that the
    gates judge the chosen window on rows that took no part in choosing it.

    Args:
        outer: What :func:`cut` returned for the candidate.
        table: The table.
        window: The candidate.
        least_training: How few training rows are too few.
        least_holdout: How few holdout rows are too few.

    Raises:
        InsufficientData: When a stretch has no rows, too few, or one class only.
    """
    splits = outer.splits - parse_duration(window.holdout, where="Window.holdout")
    time = pl.col(table.time)
    training, held = outer.training.filter(time < _moment(splits)), outer.training.filter(time >= _moment(splits))
    total = _Span(outer.training, table.time)
    _enough(
        training,
        training.height,
        "nested training",
        (outer.starts, splits),
        least_training,
        binary=outer.binary,
        total=total,
    )
    _enough(
        held, held.height, "nested holdout", (splits, outer.splits), least_holdout, binary=outer.binary, total=total
    )
    return Cut(training, held, outer.starts, splits, outer.splits, 0, outer.binary)


class _Span:
    """The whole extent of a frame, for messages."""

    def __init__(self, frame: pl.DataFrame, time: str) -> None:
        first, last = frame[time].min(), frame[time].max()
        self.rows = frame.height
        self.words = (
            f"{frame.height:,} rows from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}"
            if isinstance(first, datetime) and isinstance(last, datetime)
            else "no rows with an event time"
        )


def _is_binary(frame: pl.DataFrame, label: Label) -> bool:
    return frame.head(0).select(label.expression().alias(LABEL)).schema[LABEL] == pl.Boolean


def _moment(moment: datetime) -> pl.Expr:
    return pl.lit(moment).cast(_TIME)


def _enough(
    known: pl.DataFrame,
    rows: int,
    name: str,
    span: tuple[datetime, datetime],
    least: int,
    *,
    binary: bool,
    total: _Span,
) -> None:
    """Refuse a stretch that can teach or judge nothing; the message says how many rows are where, and what to do."""
    length = format_duration(timedelta(seconds=round((span[1] - span[0]).total_seconds())))
    stretch = f"{span[0]:%Y-%m-%d %H:%M} to {span[1]:%Y-%m-%d %H:%M} UTC ({length})"
    inner = name.startswith("nested")
    field = "data=Window(train=...)" if name.endswith("training") else "data=Window(holdout=...)"
    longer = "a longer span, fewer candidate windows" if inner else "a longer span"
    if rows == 0:
        raise InsufficientData(
            f"the {name} window {stretch} has no rows; the table has {total.words}",
            where=field,
            allowed=f"at least {least} rows",
            fix="train at a moment for which there are rows, or append them",
        )
    if known.height < least:
        raise InsufficientData(
            f"the {name} window {stretch} has {known.height:,} rows with a known label, of {rows:,} rows in all",
            where=field,
            allowed=f"at least {least} rows with a known label",
            fix=f"use {longer}, or wait until more labels are known",
        )
    if binary and known[LABEL].n_unique() == 1:
        value = bool(known[LABEL][0])
        raise InsufficientData(
            f"the {name} window {stretch} has one class only: the label is {value} in all {known.height:,} rows",
            where=field,
            allowed="both classes",
            fix=f"use {longer}, or check the label's expression",
        )
