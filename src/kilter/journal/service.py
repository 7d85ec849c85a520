"""Writing, reading and checking the journal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.clock import Clock, utc
from kilter.core.digests import digest_json
from kilter.core.errors import Conflict, Damaged, InvalidInput
from kilter.engines.sql.database import Database
from kilter.engines.sql.types import json_text
from kilter.journal.records import GENESIS, Event, Verification
from kilter.journal.tables import cursors, events, head

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HEAD = 1
_MOST = 1000
_LONGEST = 200


class Journal:
    """The one history of a store.

    Args:
        database: Where it is kept.
        clock: What time it is, when an event does not say.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def append(
        self, connection: sa.Connection, kind: str, subject: str, data: dict[str, Any], at: datetime | None = None
    ) -> Event:
        """Write an event in the caller's transaction: it is there if and only if the change it tells of is there.

        From here to the end of the transaction other writers of the journal wait, so numbers have no gaps.

        Args:
            connection: From ``Database.transaction()``.
            kind: What happened: ``"AlarmRaised"``.
            subject: A loop, ``"flight-delay"``, or a version, ``"flight-delay@v7"``.
            data: The details; anything that JSON can say.
            at: When; now, if not said.

        Raises:
            InvalidInput: When kind or subject are empty or too long, or JSON cannot say the data.
        """
        for name, text, most in (("kind", kind, 100), ("subject", subject, _LONGEST)):
            if not 1 <= len(text) <= most or "\x00" in text:
                raise InvalidInput(f"{text[:40]!r}", where=f"journal {name}", allowed=f"1 to {most} characters")
        text = json_text(data)
        micros = (utc(at if at is not None else self._clock.now()) - _EPOCH) // _MICROSECOND
        last, previous = self._lock_head(connection)
        seq = last + 1
        name = _digest((seq, micros), kind, subject, text, previous)
        connection.execute(
            events.insert().values(
                seq=seq,
                at=micros,
                kind=kind,
                subject=subject,
                topic=_topic(subject),
                data=text,
                previous=previous,
                digest=name,
            )
        )
        connection.execute(head.update().where(head.c.id == _HEAD).values(seq=seq, digest=name))
        return Event(seq, _EPOCH + micros * _MICROSECOND, kind, subject, msgspec.json.decode(text), previous, name)

    def events(
        self,
        after: int = 0,
        limit: int = 100,
        subject: str | None = None,
        kind: str | None = None,
        newest: bool = False,
    ) -> list[Event]:
        """Return events in order.

        Args:
            after: Only events with a larger ``seq``.
            limit: At most so many, from 1 to 1000.
            subject: Only events of this loop and its versions, or of this one version.
            kind: Only events of this kind.
            newest: Take the newest instead of the oldest, newest first.

        Raises:
            InvalidInput: When the limit is out of range.
        """
        if not 1 <= limit <= _MOST:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {_MOST}")
        query = sa.select(events).where(events.c.seq > after).limit(limit)
        if subject is not None:
            query = query.where(events.c.subject == subject if "@" in subject else events.c.topic == subject)
        if kind is not None:
            query = query.where(events.c.kind == kind)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(events.c.seq.desc() if newest else events.c.seq)).all()
        return [_event(row) for row in rows]

    def cursor(self, connection: sa.Connection, reader: str) -> int:
        """Return the ``seq`` up to which a reader has handled the journal; 0 for a new reader.

        Called inside the transaction of the reader's effect, together with :meth:`advance`, it makes the reader see
        each event exactly once, also beside another process of the same name.
        """
        found = connection.execute(
            sa.select(cursors.c.seq).where(cursors.c.reader == reader).with_for_update()
        ).scalar()
        return 0 if found is None else int(found)

    def advance(self, connection: sa.Connection, reader: str, seq: int) -> None:
        """Note, in the transaction of the effect, that a reader has handled all events up to ``seq``.

        Raises:
            Conflict: When another process of the same reader has come further already.
        """
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        statement = insert(cursors).values(reader=reader, seq=seq)
        moved = connection.execute(
            statement.on_conflict_do_update(
                index_elements=[cursors.c.reader], set_={"seq": seq}, where=cursors.c.seq < seq
            ).returning(cursors.c.seq)
        ).scalar()
        if moved is None:
            raise Conflict(
                f"reader {reader!r} is at {seq} or further already", where="journal", fix="read the cursor again"
            )

    def verify(self) -> Verification:
        """Check the whole chain: every byte of every event, their order, and that none is missing."""
        checked, previous = 0, GENESIS
        try:
            # One snapshot: events that are written meanwhile are in neither the rows nor the head.
            with self._database.reading() as connection:
                for row in _rows(connection):
                    reason = _broken(row, checked + 1, previous)
                    if reason:
                        return Verification(ok=False, checked=checked, broken_at=checked + 1, reason=reason)
                    checked, previous = checked + 1, row.digest
                place, reason = _head_broken(connection, checked, previous)
        except (Damaged, ValueError, TypeError) as error:
            return Verification(ok=False, checked=checked, broken_at=checked + 1, reason=f"it can't be read: {error}")
        return Verification(ok=not reason, checked=checked, broken_at=place, reason=reason)

    def _lock_head(self, connection: sa.Connection) -> tuple[int, str]:
        """Return the last number and digest, and keep other writers out until the transaction ends."""
        query = sa.select(head.c.seq, head.c.digest).where(head.c.id == _HEAD).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
            connection.execute(insert(head).values(id=_HEAD, seq=0, digest=GENESIS).on_conflict_do_nothing())
            row = connection.execute(query).one()
        return int(row.seq), str(row.digest)


def _digest(place: tuple[int, int], kind: str, subject: str, text: str, previous: str) -> str:
    """Return the digest of an event: its number and microsecond, and all that it says, as stored."""
    return digest_json([*place, kind, subject, text, previous])


def _topic(subject: str) -> str:
    return subject.partition("@")[0]


def _event(row: sa.Row[Any]) -> Event:
    at = _EPOCH + row.at * _MICROSECOND
    return Event(row.seq, at, row.kind, row.subject, msgspec.json.decode(row.data), row.previous, row.digest)


def _broken(row: sa.Row[Any], seq: int, previous: str) -> str:
    """Return what is wrong with an event, or nothing."""
    if row.seq != seq:
        return f"it is missing: event {row.seq} stands in its place"
    if row.previous != previous:
        return "it names another digest for the event before it"
    if row.topic != _topic(row.subject):
        return "its topic does not fit its subject"
    if row.digest != _digest((row.seq, row.at), row.kind, row.subject, row.data, row.previous):
        return "its content does not fit its digest"
    return ""


def _rows(connection: sa.Connection) -> Iterator[sa.Row[Any]]:
    last = -(1 << 62)
    while True:
        rows = connection.execute(
            sa.select(events).where(events.c.seq > last).order_by(events.c.seq).limit(_MOST)
        ).all()
        yield from rows
        if len(rows) < _MOST:
            return
        last = rows[-1].seq


def _head_broken(connection: sa.Connection, checked: int, previous: str) -> tuple[int | None, str]:
    """Return where and how the head contradicts the events, given that those up to ``checked`` are whole."""
    row = connection.execute(sa.select(head.c.seq, head.c.digest).where(head.c.id == _HEAD)).one_or_none()
    seq, name = (0, GENESIS) if row is None else (int(row.seq), str(row.digest))
    if seq > checked:
        return checked + 1, f"it is missing: {seq} events were written"
    if seq < checked:
        return seq + 1, "it was never written through the journal"
    if name != previous:
        return checked or None, "the head names another digest for the last event"
    if connection.dialect.name == "sqlite":
        # A byte of an index belongs to no event, but hides some from a reader.
        found = connection.execute(sa.text("PRAGMA integrity_check(1)")).scalar()
        if found != "ok":
            return None, f"the file is damaged: {found}"
    return None, ""
