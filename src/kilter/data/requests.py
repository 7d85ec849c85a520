"""The callers' own ids of appends: an append that is sent again is known, however late it comes.

An id is in memory while its rows wait in the row log, and in SQL from the flush on. Almost every append is a new one; to say so
without asking SQL each time, the ids in SQL are known by heart while they are few.
"""

from __future__ import annotations

from kilter.core.errors import InvalidInput
from kilter.data.catalog import Catalog
from kilter.data.records import Appended

_LONGEST = 200
_BY_HEART = 100_000
"""So many ids of a table are kept in memory, about 10 MB; of a table with more, SQL is asked."""


class Requests:
    """The ids of the appends that this process knows of.

    Args:
        catalog: Has those that were flushed.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._waiting: dict[str, dict[str, Appended]] = {}
        self._flushed: dict[str, set[str] | None] = {}

    def find(self, table: str, request: str) -> Appended | None:
        """Return what was answered to an append with this id, or None when there was none.

        Raises:
            InvalidInput: When it is no id.
        """
        if not 1 <= len(request) <= _LONGEST:
            raise InvalidInput(
                f"a request id of {len(request)} characters", where=table, allowed=f"1 to {_LONGEST} characters"
            )
        found = self._waiting.get(table, {}).get(request)
        if found is None and self._maybe_flushed(table, request):
            found = self._catalog.request(table, request)
        return None if found is None else Appended(table, found.rows, found.position, found.at, repeated=True)

    def keep(self, request: str, answer: Appended) -> None:
        """Remember what was answered to an append whose rows wait in the log."""
        self._waiting.setdefault(answer.table, {})[request] = answer

    def flushed(self, table: str, position: int) -> None:
        """Forget the answers up to a position: SQL has them from now on."""
        waiting = self._waiting.get(table, {})
        held = [request for request, answer in waiting.items() if answer.position <= position]
        for request in held:
            del waiting[request]
        known = self._flushed.get(table)
        if known is not None:
            known.update(held)
            if len(known) > _BY_HEART:
                self._flushed[table] = None

    def passed_over(self, table: str) -> None:
        """Learn the table's ids again: others have flushed batches that this process has not looked at."""
        self._flushed.pop(table, None)

    def _maybe_flushed(self, table: str, request: str) -> bool:
        if table not in self._flushed:
            known = self._catalog.requests(table, _BY_HEART + 1)
            self._flushed[table] = set(known) if len(known) <= _BY_HEART else None
        known_ids = self._flushed[table]
        return known_ids is None or request in known_ids
