"""Whom the edge lets in, and as whom: persons with their tokens and sessions, and the tokens of the store itself."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import time
from collections.abc import Callable

from kilter.core.access import secret_digest
from kilter.core.clock import Clock
from kilter.governance.records import Everybody
from kilter.operations.identity import Identity
from kilter.server.access import Access, Sessions
from kilter.server.pool import Pool

FRESH_SECONDS = 0.5
"""How old what is known about persons may be: who is shut out is out within a second."""

_PAUSE = 0.05
"""How long at least between two looks: a flood of wrong tokens reads the store twenty times a second, not more."""

_NOBODY = Everybody(people={}, tokens={})


class Identities:
    """Who may come in, and as whom.

    Args:
        access: The server's rules.
        sessions: The sessions of browsers.
        everybody: Reads all persons and tokens; None where there are none.
        pool: Where that runs.
        clock: The machine's clock.
    """

    def __init__(
        self,
        access: Access,
        sessions: Sessions,
        everybody: Callable[[], Everybody] | None,
        pool: Pool,
        clock: Clock,
    ) -> None:
        self._access = access
        self._sessions = sessions
        self._read = everybody
        self._pool = pool
        self._clock = clock
        self._known = _NOBODY
        self._looked = -math.inf
        self._next: asyncio.Task[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether persons were added: nobody comes in without a name then, on this machine too."""
        return bool(self._known.people)

    async def refresh(self) -> None:
        """Look again who there is, if the last look was half a second ago or more."""
        if self._read is not None and time.monotonic() >= self._looked + FRESH_SECONDS:
            await self._look(self._read)  # who comes meanwhile doesn't look too

    async def look_again(self) -> None:
        """Look who there is, with a look that begins from now on: a token that was made a moment ago opens.

        To be called before somebody is sent away. All who wait share one look.
        """
        if self._read is None:
            return
        if self._next is None:
            self._next = asyncio.create_task(self._after_pause(self._read))
        await asyncio.shield(self._next)

    async def _after_pause(self, read: Callable[[], Everybody]) -> None:
        await asyncio.sleep(max(0.0, self._looked + _PAUSE - time.monotonic()))
        self._next = None  # who comes from here on needs a look of their own
        await self._look(read)

    async def _look(self, read: Callable[[], Everybody]) -> None:
        self._looked = time.monotonic()
        self._known = await self._pool.run(read)

    def of_header(self, header: str) -> Identity | None:
        """Return whose token an Authorization header carries: ``Bearer TOKEN``, or ``Basic`` with the token as the password."""
        kind, _, given = header.partition(" ")
        name, token = "", given.strip()
        if kind.lower() == "basic":
            name, token = _basic(token)
        elif kind.lower() != "bearer":
            return None
        role = self._access.role_of(f"Bearer {token}")
        if role is not None:
            return Identity(role=role)
        found = self._known.holder(secret_digest(token), self._clock.now())
        return found if found is not None and name in {"", found.name} else None

    def of_token(self, token: str) -> Identity | None:
        """Return whose a token is."""
        return self.of_header(f"Bearer {token}")

    def of_session(self, value: str) -> Identity | None:
        """Return whose session a cookie holds; a session of a link is that of the store's own token."""
        name = self._sessions.person(value)
        if name is None:
            return None
        return self._known.identity(name) if name else Identity(role="admin")


def _basic(text: str) -> tuple[str, str]:
    try:
        name, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, password
