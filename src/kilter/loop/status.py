"""What people are told of a loop: what applying it would change, and where it stands."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kilter.loop.declaration.plan import Change
from kilter.loop.drill import Drill
from kilter.loop.summary import Summary


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a file would do.

    Args:
        loop: The loop's name.
        digest: Digest of the declaration.
        applied: Digest of the declaration that is applied now, or empty.
        changes: Field by field; empty when nothing would change.
    """

    loop: str
    digest: str
    applied: str
    changes: tuple[Change, ...]


class LoopStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where a loop stands.

    Args:
        name: The loop's name.
        environment: Where it runs.
        owner: Who answers for it.
        purpose: What its predictions are for.
        spec: Digest of the applied declaration.
        filename: The file it came from.
        now: The time, by the clock of the store.
        settled_at: The time up to which the controller had nothing left to do, or None when none ran yet.
        summary: Champion, challenger, traffic, alarms, and what it waits for.
        failure: Why the latest training failed; None when it did not.
        drill: The latest rehearsed rollback, or None.
    """

    name: str
    environment: str
    owner: str
    purpose: str
    spec: str
    filename: str
    now: datetime
    settled_at: datetime | None
    summary: Summary
    failure: str | None = None
    drill: Drill | None = None


class AppliedText(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a declaration as it was applied.

    Args:
        filename: What its file was called.
        text: The file's text.
        digest: Of the declaration.
    """

    filename: str
    text: str
    digest: str
