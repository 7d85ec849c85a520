"""Writing the parts of runs; the caller holds the run's row, so nobody else writes them meanwhile."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.clock import utc
from kilter.core.errors import Conflict, InvalidInput
from kilter.engines.sql.prepared import Prepared
from kilter.engines.sql.types import json_text, moment
from kilter.tracking.columns import BLOCK, Points, microseconds, packed
from kilter.tracking.columns import moment as moment_at
from kilter.tracking.points import has_blocks, in_blocks
from kilter.tracking.records import MetricPoint
from kilter.tracking.rows import stored
from kilter.tracking.tables import blocks, metrics, params, summaries, tags

_NAME = re.compile(r"^(?=.*\S)[\w ./@:+%()\-]{1,250}$")
_POINT = ["run", "name", "step", "value", "at"]
_INSERT = Prepared(
    metrics.insert().values({name: sa.bindparam(f"its_{name}") for name in _POINT}).inline(),
    [f"its_{name}" for name in _POINT],
    plain=["its_value", "its_at"],
)
_SUMMARY = ["points", "last", "last_step", "least", "greatest", "last_at"]
_KNOWN = Prepared(
    sa.select(*(summaries.c[name] for name in _SUMMARY)).where(
        summaries.c.run == sa.bindparam("run"), summaries.c.name == sa.bindparam("name")
    ),
    ["run", "name"],
)
_PLAIN = ["its_last", "its_least", "its_greatest", "its_last_at"]
_SUMMARISE = Prepared(
    summaries.insert().values({name: sa.bindparam(f"its_{name}") for name in [*_SUMMARY, "run", "name"]}).inline(),
    [f"its_{name}" for name in [*_SUMMARY, "run", "name"]],
    plain=_PLAIN,
)
_UPDATE = Prepared(
    summaries.update()
    .where(summaries.c.run == sa.bindparam("its_run"), summaries.c.name == sa.bindparam("its_name"))
    .values({name: sa.bindparam(f"its_{name}") for name in _SUMMARY}),
    [f"its_{name}" for name in [*_SUMMARY, "run", "name"]],
    plain=_PLAIN,
)


_BETWEEN = Prepared(
    sa.select(metrics.c.step, metrics.c.value, metrics.c.at).where(
        metrics.c.run == sa.bindparam("run"),
        metrics.c.name == sa.bindparam("name"),
        metrics.c.step.between(sa.bindparam("first"), sa.bindparam("last")),
    ),
    ["run", "name", "first", "last"],
)
_PARAM = Prepared(
    sa.select(params.c.value).where(params.c.run == sa.bindparam("run"), params.c.name == sa.bindparam("name")),
    ["run", "name"],
)
_PARAMS = ["run", "name", "value", "number"]
_GIVE = Prepared(
    params.insert().values({name: sa.bindparam(f"its_{name}") for name in _PARAMS}).inline(),
    [f"its_{name}" for name in _PARAMS],
    plain=["its_value"],
)
_TAG: dict[str, Any] = {name: sa.bindparam(f"its_{name}") for name in ("run", "name", "value")}
_SAY = {
    dialect: Prepared(
        (said := insert(tags).values(_TAG)).on_conflict_do_update(
            index_elements=["run", "name"], set_={"value": said.excluded["value"]}
        ),
        [f"its_{name}" for name in _TAG],
    )
    for dialect, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
_NEWEST = Prepared(sa.select(sa.func.coalesce(sa.func.max(metrics.c.id), sa.literal_column("0"))), [])
_BLOCK = ["run", "name", "after", "points", "data"]
_KEEP = Prepared(
    blocks.insert().values({name: sa.bindparam(f"its_{name}") for name in _BLOCK}).inline(),
    [f"its_{name}" for name in _BLOCK],
)
_Row: TypeAlias = tuple[str, str, int, float | None, Any]
"""A point as the driver has it: run, name, step, value, time."""


class _Summary(NamedTuple):
    """A metric in one line, as the driver has it."""

    points: int
    last: float | None
    last_step: int
    least: float | None
    greatest: float | None
    last_at: Any


def check_name(name: str, what: str) -> None:
    """Refuse what can't be the name of a param, a metric or a tag.

    Raises:
        InvalidInput: Saying what is allowed.
    """
    if not _NAME.match(name) or name.startswith("/"):
        raise InvalidInput(
            f"{name[:60]!r} can't be the name of a {what}",
            where=what,
            allowed="1 to 250 letters, digits, spaces or ./@:+%()-_, not beginning with a slash",
        )


def file_name(name: str) -> str:
    """Return a relative path in its shortest form.

    Raises:
        InvalidInput: When it climbs.
    """
    clean = posixpath.normpath(name)
    if not name or clean.startswith(("/", "../")) or clean in {".", ".."} or "\\" in name or "\x00" in name:
        raise InvalidInput(
            f"{name!r} is not a file's name", where="artifact", allowed='a relative path: "plots/roc.png"'
        )
    return clean


def upsert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows over those with the same key."""
    if not rows:
        return
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: insert.excluded[column.name] for column in table.columns if column.name not in keys}
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))


def write_params(connection: sa.Connection, run: str, given: Mapping[str, Any]) -> None:
    """Write parameters; one never changes its value.

    Raises:
        Conflict: When one has another value already.
    """
    if not given:
        return
    new = []
    for name, value in given.items():
        check_name(name, "param")
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        said = value if number is None or math.isfinite(number) else str(value)
        text = None if said is None else json_text(said)
        known = _PARAM.first(connection, run, name)
        if known is None:
            compared = _spelled_number(value) if isinstance(value, str) else number
            new.append((run, name, text, None if compared is None else stored(compared)))
        elif (before := _decoded(known[0])) != _decoded(text):  # as it will come back: a tuple is a list
            raise Conflict(
                f"param {name!r} of run {run} is {before!r} and can't become {value!r}",
                where="runs",
                fix="start another run, or log what changes as a metric",
            )
    if new:
        _GIVE.many(connection, new)


def _decoded(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


def write_tags(connection: sa.Connection, run: str, given: Mapping[str, str]) -> None:
    """Write tags; the newest word counts."""
    if not given:
        return
    for name in given:
        check_name(name, "tag")
    _SAY[connection.dialect.name].many(connection, [(run, name, value) for name, value in given.items()])


def write_metrics(
    connection: sa.Connection, run: str, points: Sequence[MetricPoint], now: datetime, *, once: bool = False
) -> None:
    """Add points to metrics, and bring each metric's one line up to date.

    Args:
        connection: Of a transaction that writes.
        run: The run.
        points: The points.
        now: When those happened that don't say it.
        once: Leave out points that are there already, equal in step, value and time: a client that has no keys sends a batch
            again when its answer was lost.
    """
    times: dict[datetime, int] = {}
    by_name: dict[str, Points] = {}
    for point in points:
        at = now if point.at is None else point.at
        time = times.get(at)
        if time is None:
            time = times[at] = microseconds(utc(at))
        columns = by_name.get(point.name)
        if columns is None:
            columns = by_name[point.name] = Points([], [], [])
        columns.steps.append(point.step)
        columns.values.append(float(point.value))
        columns.times.append(time)
    write_points(connection, run, by_name, once=once)


def write_points(connection: sa.Connection, run: str, given: Mapping[str, Points], *, once: bool = False) -> None:
    """Add points to metrics as :meth:`write_metrics` does, by name and column; many of one metric become a block, few become rows."""
    times = _Times(connection.dialect)
    rows: list[_Row] = []
    for name, points in given.items():
        check_name(name, "metric")
        found = _KNOWN.first(connection, run, name)
        before = None if found is None else _Summary(*found)
        new = points
        # A metric that only moves on to later steps has none of them yet.
        if once and before is not None and min(points.steps) <= before.last_step:
            new = _unknown(connection, run, name, points, times)
        if not new.steps:
            continue
        _summarise(connection, run, name, new, before, times)
        if len(new.steps) >= BLOCK and min(new.times) >= 0:
            write_block(connection, run, name, len(new.steps), packed(*new))
        else:
            rows += [(run, name, step, stored(value), times[at]) for step, value, at in zip(*new, strict=True)]
    if rows:
        _INSERT.many(connection, rows)


def write_block(connection: sa.Connection, run: str, name: str, points: int, data: bytes) -> None:
    """Keep points of one metric as the columns that they are."""
    ((after,),) = _NEWEST.all(connection)
    _KEEP.run(connection, run, name, after, points, data)


class _Times(dict[int, Any]):
    """Moments as the driver has them, by their microseconds since 1970: points that come together often share one."""

    def __init__(self, dialect: sa.Dialect) -> None:
        super().__init__()
        self._dialect = dialect

    def __missing__(self, time: int) -> Any:
        self[time] = found = moment(moment_at(time), self._dialect)
        return found


def _unknown(connection: sa.Connection, run: str, name: str, points: Points, times: _Times) -> Points:
    """Return those of a metric's points that are not there yet."""
    least, greatest = min(points.steps), max(points.steps)
    rows = {tuple(found) for found in _BETWEEN.all(connection, run, name, least, greatest)}
    kept = in_blocks(connection, run, name, least, greatest) if has_blocks(connection, run, name) else set()
    new = [
        (step, value, at)
        for step, value, at in zip(*points, strict=True)
        if (step, stored(value), times[at]) not in rows and (step, stored(value), at) not in kept
    ]
    return Points(*(list(column) for column in zip(*new, strict=True))) if new else Points([], [], [])


def _summarise(
    connection: sa.Connection, run: str, name: str, new: Points, before: _Summary | None, times: _Times
) -> None:
    """Bring a metric's one line up to date with new points."""
    last_step = max(new.steps)
    place = len(new.steps) - 1 - new.steps[::-1].index(last_step)  # the newest of a step is the one written last
    last, last_at = stored(new.values[place]), times[new.times[place]]
    finite = [value for value in new.values if math.isfinite(value)]
    if before is not None:
        finite.extend(value for value in (before.least, before.greatest) if value is not None)
    least, greatest, points = min(finite, default=None), max(finite, default=None), len(new.steps)
    if before is None:
        _SUMMARISE.run(connection, points, last, last_step, least, greatest, last_at, run, name)
        return
    if last_step < before.last_step:
        last, last_step, last_at = before.last, before.last_step, before.last_at
    _UPDATE.run(connection, points + before.points, last, last_step, least, greatest, last_at, run, name)


def _spelled_number(text: str) -> float | None:
    """Return the number that a text spells: clients that know only texts log 0.1 as one, and filters compare numbers."""
    try:
        return float(text)
    except ValueError:
        return None
