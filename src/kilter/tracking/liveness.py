"""Which runs are alive: each sign of life holds for a while, by the machine's clock."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, NotFound
from kilter.engines.sql.prepared import Prepared
from kilter.engines.sql.types import moment_of
from kilter.tracking.records import Status
from kilter.tracking.tables import runs

LEASE_SECONDS = 120.0
"""How long after its last sign of life a run counts as interrupted."""

SILENT = "no sign of life"
"""The reason of a run that was taken for dead."""


_STATE = Prepared(
    sa.select(runs.c.status, runs.c.reason, runs.c.lease_until, runs.c.patience, runs.c.deleted_at)
    .where(runs.c.id == sa.bindparam("run"))
    .with_for_update(),
    ["run"],
)
_RENEW = Prepared(
    runs.update()
    .where(runs.c.id == sa.bindparam("its_run"))
    .values(status="RUNNING", lease_until=sa.bindparam("its_lease"), ended_at=sa.null(), reason=""),
    ["its_lease", "its_run"],
)


def lease(wall: Clock, patience: float) -> datetime:
    """Return until when a sign of life holds that comes now.

    Args:
        wall: What time it is on this machine.
        patience: For how many seconds.
    """
    return wall.now() + timedelta(seconds=patience)


def require(connection: sa.Connection, run: str) -> Status:
    """Return a run's status.

    Raises:
        NotFound: When there is no such run.
    """
    status: Status | None = connection.execute(sa.select(runs.c.status).where(runs.c.id == run)).scalar()
    if status is None:
        raise NotFound(f"there is no run {run!r}", where="runs")
    return status


def alive(connection: sa.Connection, run: str, wall: Clock, *, late: bool = False) -> None:
    """Renew the lease; a run that was taken for dead is alive again. SQLite's writer is alone; PostgreSQL locks the row.

    Args:
        connection: Of a transaction that writes.
        run: The run.
        wall: What time it is on this machine.
        late: A run that has ended may be written to as well.

    Raises:
        NotFound: When there is no such run.
        Conflict: When it is deleted, or has ended and may not be written to.
    """
    found = _STATE.first(connection, run)
    if found is None:
        raise NotFound(f"there is no run {run!r}", where="runs")
    status, reason, until, patience, deleted_at = found
    if deleted_at is not None:
        raise Conflict(f"run {run} is deleted", where="runs", fix="restore it first")
    taken_for_dead = status == "INTERRUPTED" and (not late or reason == SILENT)
    if status != "RUNNING" and not taken_for_dead:
        if late:
            return
        raise Conflict(f"run {run} has ended as {status}", where="runs", fix="start another run")
    fresh = lease(wall, patience)
    if status != "RUNNING" or fresh - moment_of(until) > timedelta(seconds=patience / 10):
        _RENEW.run(connection, fresh, run)
