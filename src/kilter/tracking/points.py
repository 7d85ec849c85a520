"""The points of metrics, read back: rows, and blocks of columns for what came in bulk, in one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from kilter.engines.sql.prepared import Prepared
from kilter.engines.sql.types import moment_of
from kilter.tracking.columns import Points, columns_of, microseconds, moment
from kilter.tracking.records import MetricPoint, spelled
from kilter.tracking.rows import restored, stored
from kilter.tracking.tables import blocks, metrics

if TYPE_CHECKING:
    import numpy as np


_OF = (blocks.c.run == sa.bindparam("run"), blocks.c.name == sa.bindparam("name"))
_ROWS = Prepared(
    sa.select(metrics.c.step, metrics.c.value, metrics.c.at)
    .where(
        metrics.c.run == sa.bindparam("run"),
        metrics.c.name == sa.bindparam("name"),
        metrics.c.step >= sa.bindparam("least", type_=sa.BigInteger),
    )
    .order_by(metrics.c.step, metrics.c.id)
    .limit(sa.bindparam("most", type_=sa.BigInteger))
    .offset(sa.bindparam("skip", type_=sa.BigInteger)),
    ["run", "name", "least", "most", "skip"],
)
_ANY_BLOCK = Prepared(sa.select(blocks.c.id).where(*_OF).limit(sa.literal_column("1")), ["run", "name"])
_BLOCKS = Prepared(
    sa.select(blocks.c.after, blocks.c.points, blocks.c.data).where(*_OF).order_by(blocks.c.id), ["run", "name"]
)


class Series(NamedTuple):
    """All points of one metric, by step and in order of writing within a step.

    Args:
        steps: Their steps.
        values: Their values; NaN is one.
        times: Their moments, in microseconds since 1970.
    """

    steps: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]
    times: np.ndarray[Any, Any]


def has_blocks(connection: sa.Connection, run: str, name: str) -> bool:
    """Say whether some of a metric's points came in bulk: then rows alone are not all of them."""
    return _ANY_BLOCK.first(connection, run, name) is not None


def series(connection: sa.Connection, run: str, name: str) -> Series:
    """Return all points of a metric."""
    import numpy as np  # noqa: PLC0415 - a metric without blocks is read without it

    chosen = sa.select(metrics.c.id, metrics.c.step, metrics.c.value, metrics.c.at)
    rows = connection.execute(chosen.where(metrics.c.run == run, metrics.c.name == name).order_by(metrics.c.id)).all()
    kept = _BLOCKS.all(connection, run, name)
    parts: list[tuple[Any, Any, Any]] = []
    place = 0
    for after, points, data in kept:
        until = place
        while until < len(rows) and rows[until].id <= after:
            until += 1
        if until > place:
            parts.append(_of_rows(rows[place:until]))
        parts.append(columns_of(bytes(data), points))
        place = until
    parts.append(_of_rows(rows[place:]))
    steps, values, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(steps) > 1 and bool(np.any(steps[1:] < steps[:-1])):
        order = np.argsort(steps, kind="stable")
        steps, values, times = steps[order], values[order], times[order]
    return Series(steps, values, times)


def rows_of(connection: sa.Connection, run: str, name: str, after: int | None, skip: int, limit: int) -> Points:
    """Return those points of a metric that are rows, from a place on.

    Args:
        connection: Of a transaction that reads.
        run: The run.
        name: The metric.
        after: Only steps greater than this.
        skip: How many to leave out at the beginning.
        limit: At most so many.
    """
    least = -(2**63) if after is None else after + 1
    found = _ROWS.all(connection, run, name, least, limit, skip) if least < 2**63 else ()
    return Points(
        [step for step, _, _ in found],
        [restored(value) for _, value, _ in found],
        [microseconds(moment_of(at)) for _, _, at in found],
    )


def points_of(name: str, found: Points) -> tuple[MetricPoint, ...]:
    """Return columns as points."""
    return tuple(
        MetricPoint(name=name, value=spelled(value), step=step, at=moment(at))
        for step, value, at in zip(*found, strict=True)
    )


def thin(found: Series, points: int, first: int | None, last: int | None) -> Series:
    """Return the newest point of each step, thinned evenly over the steps; the ends are kept.

    Args:
        found: All points.
        points: About how many to keep; all when there are no more.
        first: The first step.
        last: The last step.
    """
    import numpy as np  # noqa: PLC0415 - see above

    low = 0 if first is None else int(np.searchsorted(found.steps, first, "left"))
    high = len(found.steps) if last is None else int(np.searchsorted(found.steps, last, "right"))
    steps = found.steps[low:high]
    if not len(steps):
        return Series(*(column[:0] for column in found))
    newest = np.append(steps[1:] != steps[:-1], True)
    if len(steps) > points:
        width = max((int(steps[-1]) - int(steps[0]) + 1) // max(points - 2, 1), 1)
        stretch = (steps - steps[0]) // width
        ends = np.append(stretch[1:] != stretch[:-1], True)
        ends[0] = True
        newest = ends
    return Series(*(column[low:high][newest] for column in found))


def in_blocks(
    connection: sa.Connection, run: str, name: str, least: int, greatest: int
) -> set[tuple[int, float | None, int]]:
    """Return which points between two steps came in bulk: step, value as a column holds it, and microseconds since 1970."""
    found: set[tuple[int, float | None, int]] = set()
    for _, points, data in _BLOCKS.all(connection, run, name):
        steps, values, times = columns_of(bytes(data), points)
        inside = (steps >= least) & (steps <= greatest)
        if inside.any():
            columns = (column[inside].tolist() for column in (steps, values, times))
            found |= {(step, stored(value), at) for step, value, at in zip(*columns, strict=True)}
    return found


def _of_rows(rows: Sequence[Any]) -> tuple[Any, Any, Any]:
    import numpy as np  # noqa: PLC0415 - see above

    return (
        np.array([row.step for row in rows], dtype="<i8"),
        np.array([restored(row.value) for row in rows], dtype="<f8"),
        np.array([microseconds(row.at) for row in rows], dtype="<i8"),
    )
