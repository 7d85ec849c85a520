"""What may be said of persons: names, roles, patterns of projects, and who must stay."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kilter.core.errors import Conflict, InvalidInput
from kilter.governance.records import Person
from kilter.operations.table import ROLES, Role

LONGEST_NAME = 64
RESERVED = frozenset({"token", "anonymous", "everybody", "kilter"})

_NAME = re.compile(r"[a-z0-9]([a-z0-9._@+-]*[a-z0-9])?")
_PATTERN = re.compile(r"[A-Za-z0-9._/ *?-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_name(name: str) -> str:
    """Return a person's name.

    Raises:
        InvalidInput: When it can't be one.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME or name in RESERVED:
        raise InvalidInput(
            f"{name[:80]!r} is no name for a person",
            where="name",
            allowed=f"1 to {LONGEST_NAME} of a-z, 0-9 and . _ @ + - between them; not {', '.join(sorted(RESERVED))}",
        )
    return name


def check_pattern(pattern: str) -> str:
    """Return the pattern of a project's names.

    Raises:
        InvalidInput: When it isn't one.
    """
    if not _PATTERN.fullmatch(pattern):
        raise InvalidInput(f"{pattern[:80]!r}", where="on", allowed='names with * and ?, like "fraud-*"')
    return pattern


def check_digest(digest: str) -> str:
    """Return a token's digest.

    Raises:
        InvalidInput: When it is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput("that is no digest", where="digest", allowed="64 hexadecimal digits of SHA-256")
    return digest


def check_stays(people: Iterable[Person], leaving: str) -> None:
    """Refuse to lose the last administrator among persons: from then on only the store's own token could add one.

    Raises:
        Conflict: When nobody else is one.
    """
    admins = {person.name for person in people if person.role == "admin" and person.disabled_at is None}
    if admins == {leaving}:
        raise Conflict(f"{leaving} is the last admin", where="people", fix="make somebody else an admin first")


def role_of_groups(groups: Iterable[str], roles: Mapping[str, Role]) -> Role | None:
    """Return the highest role that an identity provider's groups give; None when they give none."""
    found = [roles[group] for group in groups if group in roles]
    return max(found, key=ROLES.index, default=None)


def name_from(*wanted: str) -> str:
    """Return the first text that makes a name, its other characters left out.

    Raises:
        InvalidInput: When none does.
    """
    for text in wanted:
        plain = re.sub(r"[^a-z0-9._@+-]+", "", text.lower())[:LONGEST_NAME].strip("._@+-")
        if plain and plain not in RESERVED and _NAME.fullmatch(plain):
            return plain
    raise InvalidInput("the identity provider gives no name to know somebody by", where="claims")
