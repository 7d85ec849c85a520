"""The operations on persons."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from kilter.core.clock import Clock, utc
from kilter.core.errors import Conflict, Forbidden, InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.governance.records import Everybody, Person, PersonToken
from kilter.governance.rules import check_digest, check_name, check_pattern, check_stays, name_from
from kilter.governance.tables import people, person_tokens
from kilter.journal.service import Journal
from kilter.operations.identity import EVERYTHING, Identity, asking
from kilter.operations.table import Role, operation

PREFIX = "kp_"
_MOST_TOKENS = 100


class PeopleService:
    """Persons, their roles and their tokens. Every change is an event of the journal.

    Args:
        database: The store's metadata.
        journal: Where changes are told.
        clock: The machine's clock.
    """

    def __init__(self, database: Database, journal: Journal, clock: Clock) -> None:
        self._database = database
        self._journal = journal
        self._clock = clock

    # ------------------------------------------------------------ persons

    @operation(writes=True, role="admin")
    def add(self, name: str, role: Role = "viewer", email: str = "") -> Person:
        """Let somebody work with the store; from the first person on, nobody comes in without a token or a session.

        Args:
            name: How they are known in the journal, in approvals and on pages.
            role: The role in the whole store.
            email: Their address: who signs in through the identity provider with this verified address is this person.

        Raises:
            InvalidInput: When the name can't be used.
            Conflict: When there is, or was, a person of that name.
        """
        with self._database.transaction() as connection:
            return self._add(connection, check_name(name), role, email.strip().lower())

    @operation
    def list(self) -> tuple[Person, ...]:
        """Return everybody who was ever added, by name."""
        with self._database.reading() as connection:
            return tuple(_person(row) for row in connection.execute(sa.select(people).order_by(people.c.name)))

    @operation
    def get(self, name: str) -> Person:
        """Return a person.

        Raises:
            NotFound: When there is none of that name.
        """
        with self._database.reading() as connection:
            return self._get(connection, name)

    @operation
    def me(self) -> Identity:
        """Return who asks, and with which rights; without a name for who holds a token of the store itself."""
        return asking() or Identity(role="admin")

    @operation(writes=True, role="admin", repeatable=True)
    def role(self, name: str, role: Role, on: str = EVERYTHING) -> Person:
        """Give somebody a role in the whole store, or on one project; on a project ``viewer`` takes the role back.

        Args:
            name: Who.
            role: viewer reads; editor tracks, registers and steers; approver also lets versions take traffic; admin does all.
            on: The project: a pattern of the names of loops, models, endpoints and experiments, like ``fraud-*``.

        Raises:
            NotFound: When there is no such person.
            Conflict: When nobody would be left who is an admin.
        """
        pattern = check_pattern(on)
        with self._database.transaction() as connection:
            found = self._get(connection, name, lock=True)
            if pattern == EVERYTHING:
                if role != "admin":
                    check_stays(self._all(connection), name)
                changed = msgspec.structs.replace(found, role=role)
            else:
                kept = {one: held for one, held in found.projects.items() if one != pattern}
                changed = msgspec.structs.replace(found, projects=kept if role == "viewer" else {**kept, pattern: role})
            if changed != found:
                self._write(connection, changed, "PersonRoleGiven", {"role": role, "on": pattern})
            return changed

    @operation(writes=True, role="admin", repeatable=True)
    def disable(self, name: str) -> Person:
        """Shut somebody out: their tokens and sessions end within a second. Their name stays in the history.

        Raises:
            NotFound: When there is no such person.
            Conflict: When nobody would be left who is an admin.
        """
        with self._database.transaction() as connection:
            found = self._get(connection, name, lock=True)
            if found.disabled_at is not None:
                return found
            check_stays(self._all(connection), name)
            changed = msgspec.structs.replace(found, disabled_at=self._clock.now())
            self._write(connection, changed, "PersonDisabled", {})
            return changed

    @operation(writes=True, role="admin", repeatable=True)
    def enable(self, name: str) -> Person:
        """Let somebody in again, with the rights and the tokens that they had.

        Raises:
            NotFound: When there is no such person.
        """
        with self._database.transaction() as connection:
            found = self._get(connection, name, lock=True)
            if found.disabled_at is None:
                return found
            changed = msgspec.structs.replace(found, disabled_at=None)
            self._write(connection, changed, "PersonEnabled", {})
            return changed

    # ------------------------------------------------------------ tokens

    @operation(writes=True, role="viewer")
    def token(self, digest: str, person: str = "", label: str = "", expires_at: datetime | None = None) -> PersonToken:
        """Give somebody a token, made where it is asked for: only its digest travels and is kept.

        Args:
            digest: The SHA-256 digest of the token, in hexadecimal.
            person: Whose it is; who asks, if not said. Only an admin makes tokens of others.
            label: What it is for.
            expires_at: From when on it is refused.

        Raises:
            InvalidInput: When the digest or the time can't be used, or nobody is named.
            Forbidden: When it is for somebody else.
            Conflict: When the token is known, or the person has too many.
        """
        name = self._whose(person)
        now = self._clock.now()
        if expires_at is not None and utc(expires_at) <= now:
            raise InvalidInput("the token would have expired already", where="expires_at", allowed="a time to come")
        with self._database.transaction() as connection:
            self._get(connection, name, lock=True)
            held = sa.select(sa.func.count()).where(
                person_tokens.c.person == name, person_tokens.c.revoked_at.is_(None)
            )
            if connection.execute(held).scalar_one() >= _MOST_TOKENS:
                raise Conflict(f"{name} has {_MOST_TOKENS} tokens", where="token", fix="revoke those out of use")
            row: dict[str, Any] = {
                "person": name,
                "label": label[:200],
                "digest": check_digest(digest),
                "created_at": now,
                "expires_at": None if expires_at is None else utc(expires_at),
                "revoked_at": None,
            }
            try:
                with connection.begin_nested():
                    number = connection.execute(sa.insert(person_tokens).values(**row)).inserted_primary_key
            except IntegrityError as error:
                raise Conflict("this token is known already", where="digest", fix="make a new one") from error
            identity = int(number[0]) if number is not None else 0
            self._tell(connection, "PersonTokenMade", name, {"token": identity, "label": label[:200]})
            return PersonToken(id=identity, **row)

    @operation
    def tokens(self, person: str = "") -> tuple[PersonToken, ...]:
        """Return somebody's tokens, without the tokens themselves, the newest first.

        Args:
            person: Whose; who asks, if not said. Only an admin sees those of others.
        """
        query = sa.select(person_tokens).where(person_tokens.c.person == self._whose(person))
        with self._database.reading() as connection:
            return tuple(_token(row) for row in connection.execute(query.order_by(person_tokens.c.id.desc())))

    @operation(writes=True, role="viewer", repeatable=True)
    def revoke(self, token: int) -> PersonToken:
        """Take a token back; it is refused within a second.

        Raises:
            NotFound: When there is no such token.
            Forbidden: When it is somebody else's and who asks is no admin.
        """
        with self._database.transaction() as connection:
            where = person_tokens.c.id == token
            row = connection.execute(sa.select(person_tokens).where(where).with_for_update()).first()
            if row is None:
                raise NotFound("there is no such token", where="token", fix="`kilter people tokens` shows them")
            found = _token(row)
            self._whose(found.person)
            if found.revoked_at is None:
                found = msgspec.structs.replace(found, revoked_at=self._clock.now())
                connection.execute(sa.update(person_tokens).where(where).values(revoked_at=found.revoked_at))
                self._tell(connection, "PersonTokenRevoked", found.person, {"token": token})
            return found

    # ------------------------------------------------------------ for servers

    def everybody(self) -> Everybody:
        """Return all persons and tokens, as a server keeps them in mind."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(person_tokens).where(person_tokens.c.revoked_at.is_(None)))
            tokens = {row.digest: _token(row) for row in rows}
            return Everybody(people={one.name: one for one in self._all(connection)}, tokens=tokens)

    def signed_in(
        self, subject: str, names: tuple[str, ...], email: str, role: Role | None, first: Role | None
    ) -> Person:
        """Return the person whom an identity provider has vouched for.

        Args:
            subject: The provider's issuer and its subject: what somebody is known by from the first time on.
            names: What a new person may be called, the best first.
            email: The verified address, or empty: a person who was added with it is this one.
            role: The role that the provider's groups give; None when they say nothing.
            first: The role of who wasn't known before; None refuses them.

        Raises:
            Forbidden: When they aren't known, or are shut out.
        """
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(people).where(people.c.subject == subject).with_for_update()).first()
            if row is None and email:
                wanted = (people.c.email == email) & people.c.subject.is_(None)
                row = connection.execute(sa.select(people).where(wanted).with_for_update()).first()
            if row is None:
                if role is None and first is None:
                    raise Forbidden("nobody has added this person", where="login", fix="ask an admin of this store")
                found = self._add(connection, self._free(connection, names), role or first or "viewer", email)
            else:
                found = _person(row)
            if found.disabled_at is not None:
                raise Forbidden("this person is shut out", where="login", fix="ask an admin of this store")
            changed = msgspec.structs.replace(
                found, subject=subject, seen_at=self._clock.now(), role=role or found.role
            )
            if changed.role != found.role and found.role == "admin":
                check_stays(self._all(connection), found.name)
            self._write(connection, changed, "PersonSignedIn", {"role": changed.role})
            return changed

    # ------------------------------------------------------------ within

    def _add(self, connection: sa.Connection, name: str, role: Role, email: str) -> Person:
        made = Person(name=name, role=role, email=email, created_at=self._clock.now())
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(people).values(**_row(made)))
        except IntegrityError as error:
            raise Conflict(
                "there is, or was, a person of that name",
                where="name",
                fix="`kilter people enable` lets somebody in again; else choose another name",
            ) from error
        self._tell(connection, "PersonAdded", name, {"role": role})
        return made

    def _free(self, connection: sa.Connection, names: tuple[str, ...]) -> str:
        wanted = name_from(*names)
        taken = set(connection.execute(sa.select(people.c.name).where(people.c.name.startswith(wanted))).scalars())
        return next(
            found
            for found in (wanted, *(f"{wanted[:60]}-{number}" for number in range(2, len(taken) + 3)))
            if found not in taken
        )

    def _whose(self, person: str) -> str:
        """Return whom a call is about, after a look at who asks."""
        who = asking()
        name = person or (who.name if who is not None else "")
        if not name:
            raise InvalidInput("nobody is named", where="person", fix="say whose token it is")
        if who is not None and who.role != "admin" and who.name != name:
            raise Forbidden("only an admin sees and makes tokens of others", where="person", allowed=who.name)
        return name

    def _all(self, connection: sa.Connection) -> tuple[Person, ...]:
        return tuple(_person(row) for row in connection.execute(sa.select(people)))

    def _get(self, connection: sa.Connection, name: str, *, lock: bool = False) -> Person:
        query = sa.select(people).where(people.c.name == name)
        row = connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            raise NotFound("there is no such person", where="name", fix="`kilter people list` shows them")
        return _person(row)

    def _write(self, connection: sa.Connection, person: Person, kind: str, data: Mapping[str, Any]) -> None:
        connection.execute(sa.update(people).where(people.c.name == person.name).values(**_row(person)))
        self._tell(connection, kind, person.name, data)

    def _tell(self, connection: sa.Connection, kind: str, name: str, data: Mapping[str, Any]) -> None:
        who = asking()
        self._journal.append(connection, kind, "people", {"person": name, "by": who.name if who else "", **data})


def _row(person: Person) -> dict[str, Any]:
    return {**msgspec.structs.asdict(person), "projects": dict(person.projects), "subject": person.subject or None}


def _person(row: sa.Row[Any]) -> Person:
    found = dict(row._mapping)  # noqa: SLF001 - the public way to read a row by name
    return Person(**{**found, "subject": found["subject"] or ""})


def _token(row: sa.Row[Any]) -> PersonToken:
    return PersonToken(**dict(row._mapping))  # noqa: SLF001 - the public way to read a row by name
