"""Writing points that come in bulk, as columns; the caller holds the run's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from kilter.core.errors import InvalidInput
from kilter.tracking.columns import BLOCK, columns_of, joined, moment
from kilter.tracking.rows import stored
from kilter.tracking.tables import metrics, summaries
from kilter.tracking.writing import check_name, write_block

_INSERT = metrics.insert()
_KNOWN = sa.select(summaries).where(
    summaries.c.run == sa.bindparam("run"), summaries.c.name.in_(sa.bindparam("names", expanding=True))
)
_UPDATE = summaries.update().where(
    summaries.c.run == sa.bindparam("its_run"), summaries.c.name == sa.bindparam("its_name")
)


def write_columns(
    connection: sa.Connection, run: str, names: Sequence[str], counts: Sequence[int], data: bytes
) -> None:
    """Add points that come as columns: many of one metric become a block, few become rows.

    Args:
        connection: Of a transaction that writes.
        run: The run.
        names: The metrics, each once.
        counts: How many points each has.
        data: The points, packed as ``columns.py`` says, one metric after the other.

    Raises:
        InvalidInput: When the parts do not fit each other, or a name can't be used.
    """
    if len(names) != len(counts) or len(set(names)) != len(names) or any(count < 1 for count in counts):
        raise InvalidInput(
            f"{len(names)} names with {len(counts)} counts",
            where="names",
            allowed="each name once, and 1 or more points",
        )
    for name in names:
        check_name(name, "metric")
    steps, values, times = columns_of(data, sum(counts))
    known = {row.name: row for row in connection.execute(_KNOWN, {"run": run, "names": list(names)})}
    rows: list[dict[str, Any]] = []
    kept: list[tuple[str, int, bytes]] = []
    found: dict[str, _Found] = {}
    begin = 0
    for name, count in zip(names, counts, strict=True):
        own = [column[begin : begin + count] for column in (steps, values, times)]
        begin += count
        found[name] = _found(*own)
        if count >= BLOCK:
            kept.append((name, count, joined(*own)))
            continue
        rows += [
            {"run": run, "name": name, "step": step, "value": stored(value), "at": moment(at)}
            for step, value, at in zip(*(column.tolist() for column in own), strict=True)
        ]
    for one in kept:
        write_block(connection, run, *one)
    if rows:
        connection.execute(_INSERT, rows)
    _bring_up_to_date(connection, run, found, known)


class _Found(NamedTuple):
    """What a batch says about one metric."""

    points: int
    last: float
    last_step: int
    last_at: datetime
    least: float | None
    greatest: float | None


def _found(steps: Any, values: Any, times: Any) -> _Found:
    import numpy as np  # noqa: PLC0415 - points that come one by one are written without it

    place = len(steps) - 1 - int(np.argmax(steps[::-1]))  # the newest of a step is the one written last
    finite = values[np.isfinite(values)]
    return _Found(
        len(steps),
        float(values[place]),
        int(steps[place]),
        moment(int(times[place])),
        float(finite.min()) if len(finite) else None,
        float(finite.max()) if len(finite) else None,
    )


def _bring_up_to_date(
    connection: sa.Connection, run: str, found: Mapping[str, _Found], known: Mapping[str, sa.Row[Any]]
) -> None:
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for name, batch in found.items():
        before = known.get(name)
        bounds = [batch.least, batch.greatest, *(() if before is None else (before.least, before.greatest))]
        finite = [value for value in bounds if value is not None]
        values: dict[str, Any] = {
            "points": batch.points + (0 if before is None else before.points),
            "least": min(finite, default=None),
            "greatest": max(finite, default=None),
            "last": stored(batch.last),
            "last_step": batch.last_step,
            "last_at": batch.last_at,
        }
        if before is not None and batch.last_step < before.last_step:
            values |= {"last": before.last, "last_step": before.last_step, "last_at": before.last_at}
        if before is None:
            new.append({"run": run, "name": name, **values})
        else:
            changed.append({"its_run": run, "its_name": name, **values})
    if new:
        connection.execute(summaries.insert(), new)
    if changed:
        connection.execute(_UPDATE, changed)
