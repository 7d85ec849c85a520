"""The operations on lineage as OpenLineage tells it."""

from __future__ import annotations

import sqlalchemy as sa

from kilter.engines.sql.database import Database
from kilter.journal.service import Journal
from kilter.loop.openlineage.context import Context
from kilter.loop.openlineage.events import Translator
from kilter.loop.openlineage.facets import Json
from kilter.loop.openlineage.records import LineagePage, LineageState
from kilter.operations.table import operation

NAMESPACE = "kilter"
"""The namespace of jobs and datasets where nobody says another one."""

READER = "openlineage"
"""The journal's reader that tells it to whoever collects lineage."""

BEHIND = 1000
"""So many events before the place where a translation begins are read first, to know which runs are open."""


class LineageService:
    """The journal in OpenLineage's words.

    Args:
        database: Where the journal's cursors are.
        journal: The journal.
        context: Looks up what its events name.
    """

    def __init__(self, database: Database, journal: Journal, context: Context) -> None:
        self.database = database
        self.journal = journal
        self._context = context

    @operation
    def events(self, after: int = 0, limit: int = 100, namespace: str = NAMESPACE) -> LineagePage:
        """Return what the journal says about lineage, as run events of OpenLineage 2-0-2.

        Args:
            after: Only of what lies behind this place in the journal.
            limit: Of at most so many events of the journal, from 1 to 1000; most say nothing about lineage.
            namespace: The namespace of jobs and datasets.

        Raises:
            InvalidInput: When the limit is out of range.
        """
        read = self.journal.events(after=after, limit=limit)
        translator = self.translator(namespace, after)
        told: list[Json] = [one for event in read for one in translator.feed(event)]
        return LineagePage(events=tuple(told), next=read[-1].seq if read else after, more=len(read) == limit)

    @operation
    def state(self) -> LineageState:
        """Return how far the journal was told to the place that ``OPENLINEAGE_URL`` names."""
        with self.database.reading() as connection:
            told = self._told(connection)
        newest = self.journal.events(limit=1, newest=True)
        return LineageState(told=told, newest=newest[0].seq if newest else 0)

    def translator(self, namespace: str, after: int) -> Translator:
        """Return what tells the events behind a place."""
        found = Translator(self._context, namespace)
        if after > 0:
            for event in self.journal.events(after=max(after - BEHIND, 0), limit=min(BEHIND, after)):
                if event.seq <= after:
                    found.feed(event)
        return found

    def _told(self, connection: sa.Connection) -> int:
        return self.journal.cursor(connection, READER)
