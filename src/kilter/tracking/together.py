"""What several clients log at the same moment, in one commit: its cost is the disk's, and they share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import KilterError, Unavailable
from kilter.engines.sql.database import Database
from kilter.engines.sql.prepared import Prepared
from kilter.tracking.columns import Points
from kilter.tracking.liveness import alive
from kilter.tracking.writing import write_params, write_points, write_tags

_MARK = Prepared(sa.text("SAVEPOINT one_of_several"), [])
_FORGET = Prepared(sa.text("RELEASE SAVEPOINT one_of_several"), [])
_BACK = Prepared(sa.text("ROLLBACK TO SAVEPOINT one_of_several"), [])
_UNFORESEEN = (KilterError, sa.exc.SQLAlchemyError, ValueError, TypeError, ArithmeticError)


class Batch(msgspec.Struct, frozen=True):
    """What is logged to a run, all or none, as :meth:`RunService.log_batch` logs it.

    Args:
        run: The run.
        points: Points of metrics, by name.
        params: What it is given.
        tags: What people say about it.
    """

    run: str
    points: Mapping[str, Points] = {}
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}


class Together:
    """Writes batches that come at once; only one thread uses it.

    Args:
        database: Where the rows are.
        wall: What time it is on this machine; it decides which runs are dead.
    """

    def __init__(self, database: Database, wall: Clock) -> None:
        self._held = database.hold()
        self._wall = wall

    def write(self, batches: Sequence[Batch]) -> list[bool]:
        """Write batches in one commit, each whole or not at all, and say of each whether it was written.

        One that was not written is to be logged alone, which says what is wrong with it: here it has harmed nobody else.

        Raises:
            Unavailable: When the store is busy for too long, read-only, full or unreachable: nothing was written.
        """
        try:
            with self._held.transaction() as connection:
                if len(batches) > 1:
                    # Always in one order of runs: two that write groups on PostgreSQL never wait for each other.
                    order = sorted(range(len(batches)), key=lambda place: batches[place].run)
                    found = {place: self._one_of_several(connection, batches[place]) for place in order}
                    return [found[place] for place in range(len(batches))]
                for batch in batches:
                    self._one(connection, batch)
        except Unavailable:
            raise
        except _UNFORESEEN:  # all of it was rolled back; alone, only the one that it lies with fails
            return [False] * len(batches)
        return [True] * len(batches)

    def _one_of_several(self, connection: sa.Connection, batch: Batch) -> bool:
        _MARK.run(connection)
        try:
            self._one(connection, batch)
        except KilterError:
            _BACK.run(connection)
            _FORGET.run(connection)
            return False
        _FORGET.run(connection)
        return True

    def _one(self, connection: sa.Connection, batch: Batch) -> None:
        alive(connection, batch.run, self._wall, late=True)
        write_params(connection, batch.run, batch.params)
        write_points(connection, batch.run, batch.points, once=True)
        write_tags(connection, batch.run, batch.tags)

    def close(self) -> None:
        """Put the connection away."""
        self._held.close()
