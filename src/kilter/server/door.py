"""What the pages of the way in are made of."""

from __future__ import annotations

from dataclasses import dataclass

from kilter.governance.oidc import Provider
from kilter.governance.service import PeopleService
from kilter.server.access import Access, Sessions
from kilter.server.identity import Identities


@dataclass(frozen=True)
class Door:
    """The way in.

    Args:
        access: The server's rules.
        sessions: The sessions of browsers.
        identities: Who may come in, and as whom.
        people: Who there is; None where nobody is known by name.
        provider: Where people sign in, or None.
    """

    access: Access
    sessions: Sessions
    identities: Identities
    people: PeopleService | None = None
    provider: Provider | None = None
