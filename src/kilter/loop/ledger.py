"""Where decisions are written: the state, its event and the marks it made, in one transaction.

Everything that reaches ``decide`` in production passes through ``Ledger.feed``: the controller's answers, the monitors'
alarms, and the requests of people. A crash before the commit leaves nothing; a crash after it leaves pending actions
that the controller takes up again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec
from sqlalchemy import Connection, select, update

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, NotFound
from kilter.engines.sql.database import Database
from kilter.journal.service import Journal
from kilter.loop.decide import decide
from kilter.loop.records import Actions, Events, LoopState, Mark, Notify, Tick
from kilter.loop.tables import loops
from kilter.registry.service import ModelService

Fence = Callable[[Connection], None]


class Row(msgspec.Struct, frozen=True):
    """A loop as it is stored.

    Args:
        name: The loop's name.
        environment: Where it runs: ``dev``, ``staging`` or ``prod``.
        spec: Digest of the applied declaration.
        filename: The user's file, for messages.
        state: What ``decide`` remembers.
        revision: How many decisions have been written.
        settled_at: The time up to which nothing was left to do.
    """

    name: str
    environment: str
    spec: str
    filename: str
    state: LoopState
    revision: int
    settled_at: datetime | None


class Ledger:
    """The one place where a loop's state changes.

    Args:
        database: The metadata store.
        journal: Where each event is written, in the transaction of its decision.
        models: Marks a version's stage, in the same transaction.
        clock: Tells when something was written.
    """

    def __init__(self, database: Database, journal: Journal, models: ModelService, clock: Clock) -> None:
        self._database = database
        self._journal = journal
        self._models = models
        self._clock = clock

    def names(self) -> list[str]:
        """Return the names of all applied loops."""
        with self._database.reading() as connection:
            return list(connection.execute(select(loops.c.name).order_by(loops.c.name)).scalars())

    def row(self, name: str, connection: Connection | None = None) -> Row:
        """Return a loop as it is stored.

        Raises:
            NotFound: When no loop of this name was applied.
        """
        if connection is None:
            with self._database.reading() as reading:
                return self.row(name, reading)
        found = connection.execute(select(loops).where(loops.c.name == name)).mappings().first()
        if found is None:
            known = ", ".join(connection.execute(select(loops.c.name)).scalars()) or "none"
            raise NotFound(f"There is no loop {name!r}", allowed=known, fix="apply its file with `kilter apply FILE`")
        return Row(
            name=found["name"],
            environment=found["environment"],
            spec=found["spec_digest"],
            filename=found["filename"],
            state=msgspec.convert(found["state"], LoopState),
            revision=found["revision"],
            settled_at=found["settled_at"],
        )

    def feed(self, name: str, event: Events, *, fence: Fence | None = None) -> tuple[LoopState, tuple[Actions, ...]]:
        """Decide on one event and write what follows from it.

        Args:
            name: The loop's name.
            event: What happened.
            fence: Called in the transaction before anything is written; raises when the caller has lost its lease.

        Returns:
            The new state, and the actions that were newly asked for.

        Raises:
            NotFound: When no loop of this name was applied.
        """
        with self._database.transaction() as connection:
            if fence is not None:
                fence(connection)
            return self.feed_in(connection, name, event)

    def feed_in(self, connection: Connection, name: str, event: Events) -> tuple[LoopState, tuple[Actions, ...]]:
        """Decide on one event inside the caller's transaction."""
        row = self._locked(connection, name)
        state, actions = decide(row.state, event)
        if state == row.state and not actions:
            return state, actions
        for mark in (action for action in actions if isinstance(action, Mark)):
            self._models.mark(connection, name, mark.version, mark.stage, mark.reason, event.at)
        if not isinstance(event, Tick) or actions:
            self._write(connection, name, event, actions)
        changed = connection.execute(
            update(loops)
            .where(loops.c.name == name, loops.c.revision == row.revision)
            .values(state=msgspec.to_builtins(state), revision=row.revision + 1)
        )
        if changed.rowcount != 1:
            raise Conflict(f"The state of {name!r} changed meanwhile", fix="try again")
        return state, actions

    def settle(self, name: str, at: datetime, *, revision: int | None = None, fence: Fence | None = None) -> None:
        """Remember that nothing was left to do at ``at``.

        Args:
            name: The loop's name.
            at: The moment.
            revision: The revision that was looked at; when something was decided since, nothing is remembered.
            fence: As in :meth:`feed`.
        """
        with self._database.transaction() as connection:
            if fence is not None:
                fence(connection)
            looked_at = loops.c.name == name
            if revision is not None:
                looked_at &= loops.c.revision == revision
            connection.execute(update(loops).where(looked_at).values(settled_at=at))

    def _locked(self, connection: Connection, name: str) -> Row:
        # SQLite's writer holds the whole database; PostgreSQL locks the row, so that two deciders take turns.
        if self._database.dialect == "postgresql":
            connection.execute(select(loops.c.name).where(loops.c.name == name).with_for_update())
        return self.row(name, connection)

    def _write(self, connection: Connection, name: str, event: Events, actions: tuple[Actions, ...]) -> None:
        data = msgspec.to_builtins(event)
        kind = str(data.pop("kind"))
        data.pop("at", None)
        version = data.get("version")
        subject = name if version is None else f"{name}@v{version}"
        self._journal.append(connection, kind, subject, data, at=event.at)
        for action in actions:
            said = msgspec.to_builtins(action)
            said_kind = str(said.pop("kind"))
            about = said.get("version") or said.get("challenger")
            self._journal.append(
                connection,
                said_kind,
                name if about is None else f"{name}@v{about}",
                said
                if not isinstance(action, Notify)
                else {"to": action.to, "title": action.title, "body": action.body},
                at=event.at,
            )
