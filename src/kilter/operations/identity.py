"""Who asks, and what they may change: an identity's role in the whole store, and on single projects.

Everybody who may come in at all may read the whole store; what must not be read together belongs in stores of its own. A project is
what its names say: ``fraud-*`` are all loops, models, endpoints and experiments whose names begin so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase

import msgspec

from kilter.core.errors import Forbidden
from kilter.operations.table import ROLES, Role

EVERYTHING = "*"

NAMED = ("loop", "model", "endpoint", "experiment")
"""Arguments of operations that name what belongs to a project."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks.

    Args:
        name: The person's name; empty for the holder of a token of the store, or for anybody on this machine.
        role: The role in the whole store.
        projects: The role on each project, by the pattern of its names.
    """

    name: str = ""
    role: Role = "viewer"
    projects: Mapping[str, Role] = {}

    def role_on(self, names: Iterable[str]) -> Role:
        """Return the role that holds for all of these names; without names, the role in the whole store."""
        held = ROLES.index(self.role)
        wanted = [max((held, *self._roles(name))) for name in names]
        return ROLES[min(wanted, default=held)]

    def _roles(self, name: str) -> Iterable[int]:
        return (ROLES.index(role) for pattern, role in self.projects.items() if fnmatchcase(name, pattern))

    def best(self) -> Role:
        """Return the highest role that it has anywhere."""
        return max((self.role, *self.projects.values()), key=ROLES.index)

    def check(self, needed: Role, names: Iterable[str], where: str) -> None:
        """Refuse what the role doesn't allow.

        Args:
            needed: The least role.
            names: What would be changed; nothing when it is not of one project.
            where: The operation, for the error.

        Raises:
            Forbidden: When the role is less.
        """
        known = tuple(names)
        if ROLES.index(self.role_on(known)) < ROLES.index(needed):
            on = f" on {', '.join(sorted(set(known)))[:200]}" if known else ""
            raise Forbidden(
                f"{self.name or 'the token'} is {self.role_on(known)}{on}",
                where=where,
                allowed=needed,
                fix="an admin gives roles with `kilter people role`",
            )


def named(arguments: Mapping[str, object]) -> tuple[str, ...]:
    """Return what an operation's arguments name; of a reference like ``flight-delay@v7`` the model."""
    found = (arguments.get(argument) for argument in NAMED)
    return tuple(value.partition("@")[0] for value in found if isinstance(value, str) and value)


_asking: ContextVar[Identity | None] = ContextVar("kilter_asking", default=None)


def asking() -> Identity | None:
    """Return who asks for the operation that runs; None where nobody had to say so: on the store's own machine."""
    return _asking.get()


@contextmanager
def asked_by(identity: Identity) -> Iterator[None]:
    """Let an operation know who asks for it."""
    before = _asking.set(identity)
    try:
        yield
    finally:
        _asking.reset(before)
