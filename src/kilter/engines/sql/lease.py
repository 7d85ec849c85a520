"""Leases with fencing epochs: of several processes, one acts, and a stale one can do no harm."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from kilter.core.errors import Conflict
from kilter.engines.sql.database import Database
from kilter.engines.sql.tables import leases


class Lease:
    """The right to act under a name, for a while.

    Time is the machine's monotonic clock on SQLite (whose users share one machine) and the server's clock on
    PostgreSQL; the simulated clock plays no part. A clock that jumps may move a lease early, and then the epoch keeps
    the former holder from writing: it checks the epoch in the transaction of each effect (fencing, as in Kleppmann,
    "How to do distributed locking", 2016).

    Args:
        database: Where the lease is kept.
        seconds: A monotonic clock, for tests.
    """

    def __init__(self, database: Database, seconds: Callable[[], float] | None = None) -> None:
        self._database = database
        self._seconds = seconds
        self.name = ""
        self.holder = ""
        self.ttl_seconds = 0.0
        self.epoch: int | None = None

    def acquire(self, name: str, holder: str, ttl_seconds: float, heir_of: str = "") -> int | None:
        """Take a lease that is free, has run out, or is the holder's own.

        Args:
            name: What is leased.
            holder: Who asks; must differ between processes.
            ttl_seconds: How long it lasts without a renewal.
            heir_of: Take it also from a holder whose name begins so, because the caller knows that it is dead.

        Returns:
            The new epoch, larger than every one before; ``None`` if someone else holds the lease.
        """
        with self._database.transaction() as connection:
            now = self._now(connection)
            row = connection.execute(sa.select(leases).where(leases.c.name == name).with_for_update()).one_or_none()
            if row is None:
                epoch = 1
                try:
                    with connection.begin_nested():
                        connection.execute(
                            leases.insert().values(name=name, holder=holder, epoch=epoch, expires=now + ttl_seconds)
                        )
                except sa.exc.IntegrityError:
                    return None  # Another process made the row a moment ago, and holds it.
            else:
                # A time left that is longer than the lease means a clock that began anew, as after a restart.
                free = row.holder in ("", holder) or (heir_of and row.holder.startswith(heir_of))
                if not free and 0 < row.expires - now <= ttl_seconds:
                    return None
                epoch = int(row.epoch) + 1
                connection.execute(
                    leases.update()
                    .where(leases.c.name == name)
                    .values(holder=holder, epoch=epoch, expires=now + ttl_seconds)
                )
        self.name, self.holder, self.ttl_seconds, self.epoch = name, holder, ttl_seconds, epoch
        return epoch

    def renew(self) -> bool:
        """Extend the lease by its time; return whether it is still held."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                leases.update()
                .where(leases.c.name == self.name, leases.c.epoch == self.epoch, leases.c.holder == self.holder)
                .values(expires=self._now(connection) + self.ttl_seconds)
            ).rowcount
        if not changed:
            self.epoch = None
        return bool(changed)

    def release(self) -> None:
        """Give the lease back at once; giving back one that was lost is no error."""
        if self.epoch is None:
            return
        with self._database.transaction() as connection:
            connection.execute(
                leases.update()
                .where(leases.c.name == self.name, leases.c.epoch == self.epoch)
                .values(holder="", expires=0.0)
            )
        self.epoch = None

    def check(self, connection: sa.Connection) -> None:
        """Make sure, inside a transaction, that nobody has taken the lease since: the fence before an effect.

        Raises:
            Conflict: When the lease was lost; roll back and stop acting.
        """
        found = connection.execute(
            sa.select(leases.c.epoch)
            .where(leases.c.name == self.name, leases.c.holder == self.holder)
            .with_for_update(read=True)
        ).scalar()
        if self.epoch is None or found != self.epoch:
            self.epoch = None
            raise Conflict(
                f"the lease {self.name!r} has gone to someone else", where=self._database.where, fix="acquire it again"
            )

    def _now(self, connection: sa.Connection) -> float:
        if self._seconds is not None:
            return self._seconds()
        if self._database.dialect == "postgresql":
            return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        return time.monotonic()
