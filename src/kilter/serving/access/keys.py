"""Keys of endpoints: who may call what, by named keys of which the store has only digests.

`kilter.core.access` says why a digest is enough. Source: OWASP, "API Security".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from kilter.core.access import token_matches
from kilter.core.clock import Clock, utc
from kilter.core.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthorized
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.serving.tables import api_keys

PREFIX = "kk_"
OWNER = "token"
"""The name of a caller who sends the front's own token."""

_NAME = re.compile(r"^[a-z0-9]+([._-][a-z0-9]+)*$")
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_ENDPOINT = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
_LONGEST_NAME = 64
_RESERVED = frozenset({OWNER, "anonymous", "other"})
_NOBODY = b"\0" * 32


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was given out.

    Args:
        name: Its name, by which its caller is known in records and in the register of consumers.
        digest: The SHA-256 digest of the key.
        endpoints: The endpoints that it may call; empty for all.
        created_at: When it was made.
        expires_at: From when on it is refused; None for never.
        revoked_at: When it was taken back; None while it holds.
    """

    name: str
    digest: str
    endpoints: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def holds(self, now: datetime) -> bool:
        """Return whether the key is accepted at a moment."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyService:
    """The keys of a store's endpoints.

    Args:
        database: The store's metadata.
        clock: The time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @operation(writes=True, role="admin")
    def create(
        self, name: str, digest: str, endpoints: Sequence[str] = (), expires_at: datetime | None = None
    ) -> ApiKey:
        """Let the holder of a key call endpoints. From the first key on, fronts answer nobody who has none.

        Args:
            name: Who will use it: a service, a team, a person.
            digest: The SHA-256 digest of the key, in hexadecimal; the key itself stays with its owner.
            endpoints: The endpoints that it may call; none for all.
            expires_at: From when on it is refused.

        Raises:
            InvalidInput: When the name, the digest, an endpoint or the time can't be used.
            Conflict: When there is, or was, a key of that name.
        """
        if not _NAME.match(name) or len(name) > _LONGEST_NAME or name in _RESERVED:
            raise InvalidInput(
                "that is no name for a key",
                where="name",
                allowed=f"1 to {_LONGEST_NAME} of a-z, 0-9, '.', '_', '-'; not {', '.join(sorted(_RESERVED))}",
            )
        if not _DIGEST.match(digest):
            raise InvalidInput("that is no digest", where="digest", allowed="64 hexadecimal digits of SHA-256")
        for place, endpoint in enumerate(endpoints):
            if not _ENDPOINT.match(endpoint):
                raise InvalidInput(
                    "that is no endpoint's name",
                    where=f"endpoints[{place}]",
                    allowed="words of a-z and 0-9, joined by '-'",
                )
        now = self._clock.now()
        if expires_at is not None and utc(expires_at) <= now:
            raise InvalidInput("the key would have expired already", where="expires_at", allowed="a time to come")
        made = ApiKey(
            name=name,
            digest=digest,
            endpoints=tuple(dict.fromkeys(endpoints)),
            created_at=now,
            expires_at=None if expires_at is None else utc(expires_at),
        )
        values = {**msgspec.structs.asdict(made), "endpoints": list(made.endpoints)}
        try:
            with self._database.transaction() as connection:
                connection.execute(sa.insert(api_keys).values(**values))
        except IntegrityError as error:
            raise Conflict(
                "there is, or was, a key of that name, or the same key under another one",
                where="name",
                fix="choose another name: records tell callers apart by it",
            ) from error
        return made

    @operation
    def all(self) -> list[ApiKey]:
        """Return every key that was ever given out, by name, with the digests only."""
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.name))]

    @operation(writes=True, repeatable=True, role="admin")
    def revoke(self, name: str) -> ApiKey:
        """Take a key back: fronts refuse it within a second. Its name stays taken.

        Args:
            name: Its name.

        Raises:
            NotFound: When there is no such key.
        """
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.name == name).with_for_update()).one_or_none()
            if row is None:
                raise NotFound("there is no such key", where="name", fix="`kilter keys list` shows them")
            found = _key(row)
            if found.revoked_at is None:
                found = msgspec.structs.replace(found, revoked_at=self._clock.now())
                connection.execute(
                    sa.update(api_keys).where(api_keys.c.name == name).values(revoked_at=found.revoked_at)
                )
            return found


class Caller(msgspec.Struct, frozen=True):
    """Who asks.

    Args:
        name: The name of the key, ``token``, or empty for anybody.
        endpoints: The endpoints that may be asked; empty for all.
        expires_at: When the key ends; None for never.
        digest: The key's digest.
    """

    name: str
    endpoints: frozenset[str] = frozenset()
    expires_at: datetime | None = None
    digest: bytes = _NOBODY


ANYBODY = Caller("")
_OWNER = Caller(OWNER)


class KeyRing:
    """Who may come in: the holders of keys, and of the front's own token.

    Args:
        token: The front's token, or None.
        clock: The time.
    """

    def __init__(self, token: str | None, clock: Clock) -> None:
        self._token = token
        self._clock = clock
        self._callers: dict[str, Caller] = {}
        self._scopes: dict[str, frozenset[str]] = {}
        self._locked = bool(token)

    def know(self, keys: Iterable[ApiKey]) -> None:
        """Take the keys as they are now. A key that was ever given out closes the door for those who have none."""
        known = list(keys)
        self._callers = {
            key.digest: Caller(key.name, frozenset(key.endpoints), key.expires_at, bytes.fromhex(key.digest))
            for key in known
            if key.revoked_at is None
        }
        self._scopes = {caller.name: caller.endpoints for caller in self._callers.values() if caller.endpoints}
        self._locked = bool(self._token) or bool(known)

    @property
    def locked(self) -> bool:
        """Whether a key or the token is needed."""
        return self._locked

    def check(self, client: str, endpoint: str) -> None:
        """Refuse an endpoint that a caller may not ask.

        Args:
            client: The caller's name.
            endpoint: The endpoint.

        Raises:
            Forbidden: When the key is not for it; nothing is said about whether there is such an endpoint.
        """
        if client in self._scopes and endpoint not in self._scopes[client]:
            raise Forbidden("the key is not for this endpoint", where="Authorization", fix="ask for a key that is")

    def caller(self, authorization: str | None, key: str | None = None) -> Caller:
        """Return who asks.

        Args:
            authorization: The header ``Authorization``: ``Bearer`` and a key or the token; or None.
            key: The header ``X-API-Key``, or None.

        Raises:
            Unauthorized: When a key is needed and none that holds was sent.
        """
        if not self._locked:
            return ANYBODY
        given = key
        if given is None and authorization is not None:
            kind, _, text = authorization.partition(" ")
            given = text.strip() if kind.lower() == "bearer" else None
        if given is not None:
            # What is looked up is a digest, so the time that it takes says nothing about any key.
            digest = hashlib.sha256(given.encode("utf-8", "replace")).digest()
            found = self._callers.get(digest.hex())
            if found is not None and hmac.compare_digest(digest, found.digest):
                if found.expires_at is None or self._clock.now() < found.expires_at:
                    return found
                raise Unauthorized("the key has expired", where="Authorization", fix="ask for a new key")
            if self._token and token_matches(f"Bearer {given}", self._token):
                return _OWNER
        raise Unauthorized(
            "no valid key or token was sent", where="Authorization", allowed="Bearer <key>, or X-API-Key"
        )


def _key(row: sa.Row[tuple[object, ...]]) -> ApiKey:
    found = row._mapping  # noqa: SLF001 - the public way to read a row by name
    return ApiKey(
        name=found["name"],
        digest=found["digest"],
        endpoints=tuple(found["endpoints"]),
        created_at=found["created_at"],
        expires_at=found["expires_at"],
        revoked_at=found["revoked_at"],
    )
