"""Writing the parts of runs; the caller holds the run's row, so nobody else writes them meanwhile."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.errors import Conflict, InvalidInput
from kilter.engines.sql.types import json_text
from kilter.tracking.records import MetricPoint
from kilter.tracking.rows import stored
from kilter.tracking.tables import metrics, params, summaries, tags

_NAME = re.compile(r"^(?=.*\S)[\w ./@:+%()\-]{1,250}$")
_INSERT = metrics.insert()
_KNOWN = sa.select(summaries).where(
    summaries.c.run == sa.bindparam("run"), summaries.c.name.in_(sa.bindparam("names", expanding=True))
)
_UPDATE = summaries.update().where(
    summaries.c.run == sa.bindparam("its_run"), summaries.c.name == sa.bindparam("its_name")
)


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
    for name in by_name:
        check_name(name, "metric")
    known = {row.name: row for row in connection.execute(_KNOWN, {"run": run, "names": list(by_name)})}
    if once:
        by_name = _new(connection, run, by_name, known)
    rows = [
        {"run": run, "name": point.name, "step": point.step, "value": stored(point.number), "at": point.at or now}
        for batch in by_name.values()
        for point in batch
    ]
    if rows:
        connection.execute(_INSERT, rows)
        _summarise(connection, run, by_name, known, now)


def _new(
    connection: sa.Connection,
    run: str,
    by_name: Mapping[str, list[MetricPoint]],
    known: Mapping[str, sa.Row[Any]],
) -> dict[str, list[MetricPoint]]:
    """Return the points that are not there yet; a metric that only moves on to later steps is not looked at."""
    found: dict[str, list[MetricPoint]] = {}
    for name, batch in by_name.items():
        steps = [point.step for point in batch]
        if name in known and min(steps) <= known[name].last_step:
            between = metrics.c.step.between(min(steps), max(steps))
            of = (metrics.c.run == run) & (metrics.c.name == name) & between
            rows = connection.execute(sa.select(metrics.c.step, metrics.c.value, metrics.c.at).where(of))
            there = {tuple(row) for row in rows}
            batch = [point for point in batch if (point.step, stored(point.number), point.at) not in there]  # noqa: PLW2901
        if batch:
            found[name] = batch
    return found


def _summarise(
    connection: sa.Connection,
    run: str,
    by_name: Mapping[str, list[MetricPoint]],
    known: Mapping[str, sa.Row[Any]],
    now: datetime,
) -> None:
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for name, batch in by_name.items():
        before = known.get(name)
        newest = batch[0]
        for point in batch:  # the newest of a step is the one written last
            newest = point if point.step >= newest.step else newest
        finite = [number for number in (point.number for point in batch) if math.isfinite(number)]
        if before is not None:
            finite.extend(value for value in (before.least, before.greatest) if value is not None)
        values: dict[str, Any] = {
            "points": len(batch) + (0 if before is None else before.points),
            "least": min(finite, default=None),
            "greatest": max(finite, default=None),
            "last": stored(newest.number),
            "last_step": newest.step,
            "last_at": newest.at or now,
        }
        if before is not None and newest.step < before.last_step:
            values |= {"last": before.last, "last_step": before.last_step, "last_at": before.last_at}
        if before is None:
            new.append({"run": run, "name": name, **values})
        else:
            changed.append({"its_run": run, "its_name": name, **values})
    if new:
        connection.execute(summaries.insert(), new)
    if changed:
        connection.execute(_UPDATE, changed)


def _spelled_number(text: str) -> float | None:
    """Return the number that a text spells: clients that know only texts log 0.1 as one, and filters compare numbers."""
    try:
        return float(text)
    except ValueError:
        return None
