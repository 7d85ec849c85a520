"""What the journal holds and what its check finds."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

GENESIS = "0" * 64
"""What stands in the place of the digest before the first event's."""


class Event(msgspec.Struct, frozen=True):
    """One change of control state.

    Args:
        seq: The place in the journal: 1, 2, 3, without gaps.
        at: When it happened, by the clock of the workspace.
        kind: What happened, in the past tense: ``"AlarmRaised"``.
        subject: To what: ``"flight-delay"`` (a loop) or ``"flight-delay@v7"`` (a version).
        data: The details, as JSON says them.
        previous: The digest of the event before.
        digest: The digest of all the above.
    """

    seq: int
    at: datetime
    kind: str
    subject: str
    data: dict[str, Any]
    previous: str
    digest: str


class Verification(msgspec.Struct, frozen=True):
    """What checking the chain has found.

    Args:
        ok: Whether every event is as it was written.
        checked: How many events were found whole before the first broken one.
        broken_at: The first place that is broken, or ``None``.
        reason: What is wrong there, in words; empty when all is well.
    """

    ok: bool
    checked: int
    broken_at: int | None
    reason: str
