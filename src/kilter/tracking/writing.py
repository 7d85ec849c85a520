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

from kilter.core.errors import Conflict, InvalidInput
from kilter.engines.sql.prepared import Prepared
from kilter.engines.sql.types import json_text, moment
from kilter.tracking.points import has_blocks, there
from kilter.tracking.records import MetricPoint
from kilter.tracking.rows import stored
from kilter.tracking.tables import metrics, params, summaries, tags

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
    chosen = sa.select(params.c.name, params.c.value).where(params.c.run == run, params.c.name.in_(list(given)))
    known = {row.name: row.value for row in connection.execute(chosen)}
    new = []
    for name, value in given.items():
        check_name(name, "param")
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        said = value if number is None or math.isfinite(number) else str(value)
        plain = msgspec.json.decode(json_text(said))  # as it will come back: a tuple is a list
        if name not in known:
            compared = _spelled_number(value) if isinstance(value, str) else number
            new.append(
                {"run": run, "name": name, "value": plain, "number": None if compared is None else stored(compared)}
            )
        elif known[name] != plain:
            raise Conflict(
                f"param {name!r} of run {run} is {known[name]!r} and can't become {value!r}",
                where="runs",
                fix="start another run, or log what changes as a metric",
            )
    if new:
        connection.execute(params.insert(), new)


def write_tags(connection: sa.Connection, run: str, given: Mapping[str, str]) -> None:
    """Write tags; the newest word counts."""
    for name in given:
        check_name(name, "tag")
    upsert(connection, tags, [{"run": run, "name": name, "value": value} for name, value in given.items()])


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
    if not points:
        return
    by_name: dict[str, list[MetricPoint]] = {}
    for point in points:
        by_name.setdefault(point.name, []).append(point)
    known: dict[str, _Summary] = {}
    for name in by_name:
        check_name(name, "metric")
        if (found := _KNOWN.first(connection, run, name)) is not None:
            known[name] = _Summary(*found)
    rows: list[_Row] = []
    for name, batch in _rows(connection, run, by_name, now).items():
        new = _unknown(connection, batch, known[name].last_step) if once and name in known else batch
        if new:
            _summarise(connection, new, known.get(name))
            rows += new
    if rows:
        _INSERT.many(connection, rows)


def _rows(
    connection: sa.Connection, run: str, by_name: Mapping[str, list[MetricPoint]], now: datetime
) -> dict[str, list[_Row]]:
    """Return points as the driver has them; each moment is put into its form once."""
    times: dict[datetime | None, Any] = {None: moment(now, connection.dialect)}
    found: dict[str, list[_Row]] = {}
    for name, batch in by_name.items():
        rows = found[name] = []
        for point in batch:
            at = times.get(point.at)
            if at is None and point.at is not None:
                at = times[point.at] = moment(point.at, connection.dialect)
            rows.append((run, name, point.step, stored(float(point.value)), at))
    return found


def _unknown(connection: sa.Connection, rows: list[_Row], last_step: int) -> list[_Row]:
    """Return the rows of a metric that are not there yet; one that only moves on to later steps is not looked at."""
    steps = [row[2] for row in rows]
    least = min(steps)
    if least > last_step:
        return rows
    run, name, *_ = rows[0]
    present = {tuple(found) for found in _BETWEEN.all(connection, run, name, least, max(steps))}
    if has_blocks(connection, run, name):
        present |= {
            (step, value, moment(at, connection.dialect))
            for step, value, at in there(connection, run, name, least, max(steps))
        }
    return [row for row in rows if row[2:] not in present]


def _summarise(
    connection: sa.Connection,
    rows: Sequence[_Row],
    before: _Summary | None,
) -> None:
    """Bring a metric's one line up to date with new rows."""
    run, name, *_ = newest = rows[0]
    for row in rows:  # the newest of a step is the one written last
        newest = row if row[2] >= newest[2] else newest
    finite = [value for *_, value, _ in rows if value is not None and math.isfinite(value)]
    if before is not None:
        finite.extend(value for value in (before.least, before.greatest) if value is not None)
    least, greatest = min(finite, default=None), max(finite, default=None)
    points, last, last_step, last_at = len(rows), newest[3], newest[2], newest[4]
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
