"""The operations on the journal."""

from __future__ import annotations

from kilter.journal.records import Event, Verification
from kilter.journal.service import Journal
from kilter.operations.table import operation


class JournalService:
    """What happened, and whether it is still as it was written.

    Args:
        journal: The journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @operation
    def events(
        self,
        after: int = 0,
        limit: int = 100,
        subject: str | None = None,
        kind: str | None = None,
        newest: bool = False,
    ) -> tuple[Event, ...]:
        """Return events in order.

        Args:
            after: Only those behind this place.
            limit: At most so many.
            subject: A loop, or a version such as ``flight-delay@v7``.
            kind: One kind, such as ``AlarmRaised``.
            newest: The newest ones instead of the oldest, newest first.
        """
        return tuple(self._journal.events(after=after, limit=limit, subject=subject, kind=kind, newest=newest))

    @operation
    def verify(self) -> Verification:
        """Check the whole chain; name the first event that is not as it was written."""
        return self._journal.verify()
