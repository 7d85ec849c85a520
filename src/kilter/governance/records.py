"""What is known about persons."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kilter.operations.identity import Identity
from kilter.operations.table import Role


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who works with the store.

    Args:
        name: How they are known in the journal, in approvals and on pages.
        role: The role in the whole store.
        projects: The role on each project, by the pattern of its names.
        email: Their address, or empty.
        subject: How the identity provider knows them: its issuer and their subject; empty for who has only tokens.
        created_at: When they were added.
        disabled_at: When they were shut out; None while they may come in.
        seen_at: When they last signed in through the identity provider.
    """

    name: str
    role: Role
    projects: dict[str, Role] = {}
    email: str = ""
    subject: str = ""
    created_at: datetime
    disabled_at: datetime | None = None
    seen_at: datetime | None = None

    @property
    def identity(self) -> Identity:
        """Who they are to an operation."""
        return Identity(name=self.name, role=self.role, projects=self.projects)


class PersonToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token of a person, without the token itself.

    Args:
        id: Its number.
        person: Whose it is.
        label: What it is for.
        digest: The SHA-256 digest of the token, in hexadecimal.
        created_at: When it was made.
        expires_at: From when on it is refused; None for never.
        revoked_at: When it was taken back; None while it holds.
    """

    id: int
    person: str
    label: str
    digest: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def holds(self, now: datetime) -> bool:
        """Return whether the token is accepted at a moment."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Everybody(msgspec.Struct, frozen=True, kw_only=True):
    """All persons and tokens, as a server keeps them in mind."""

    people: dict[str, Person]
    tokens: dict[str, PersonToken]

    def holder(self, digest: str, now: datetime) -> Identity | None:
        """Return who holds a token that is accepted at a moment."""
        token = self.tokens.get(digest)
        if token is None or not token.holds(now):
            return None
        return self.identity(token.person)

    def identity(self, name: str) -> Identity | None:
        """Return who somebody is, or None when they may not come in."""
        person = self.people.get(name)
        return None if person is None or person.disabled_at is not None else person.identity
