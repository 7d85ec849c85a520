"""What the journal's events refer to, looked up: declarations, versions, columns. All but the columns never changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property

from kilter.core.errors import KilterError, NotFound
from kilter.data.service import DataService
from kilter.journal.service import Journal
from kilter.loop.declaration.spec import LoopSpec
from kilter.loop.service import LoopService
from kilter.registry.records import ModelVersion
from kilter.registry.service import ModelService
from kilter.tracking.service import RunService

_KEPT = 1000


class Context:
    """Looks up what events name; what is gone is left out of what is told.

    Args:
        journal: The journal, whose first event names the store.
        loops: The loops.
        models: The registry.
        runs: The runs.
        data: The tables; opened when the first is asked for.
        tables: Where the tables' files are.
    """

    def __init__(
        self,
        journal: Journal,
        loops: LoopService,
        models: ModelService,
        runs: RunService,
        data: Callable[[], DataService],
        tables: str,
    ) -> None:
        self._journal = journal
        self._loops = loops
        self._models = models
        self._runs = runs
        self._data = data
        self.tables = tables
        self._specs: dict[str, LoopSpec | None] = {}
        self._trained: dict[str, str] = {}

    @cached_property
    def store(self) -> str:
        """What tells this store's runs from another's: the digest of its first event."""
        return self._journal.events(limit=1)[0].digest

    def spec(self, digest: str) -> LoopSpec | None:
        """Return a declaration."""
        if digest not in self._specs:
            if len(self._specs) >= _KEPT:
                self._specs.clear()
            self._specs[digest] = self._loops.declared(digest)
        return self._specs[digest]

    def applied(self, loop: str) -> LoopSpec | None:
        """Return the declaration that is applied now."""
        with suppress(NotFound):
            return self._loops.spec(loop)
        return None

    def version(self, model: str, number: int) -> ModelVersion | None:
        """Return a version."""
        with suppress(NotFound):
            return self._models.get(model, number)
        return None

    def training(self, version: ModelVersion) -> str:
        """Return the action that trained a version; empty for one that no loop of this store trained."""
        if version.reference not in self._trained:
            if len(self._trained) >= _KEPT:
                self._trained.clear()
            action = ""
            if version.lineage.run and version.lineage.origin is None:
                with suppress(NotFound):
                    action = self._runs.get(version.lineage.run).tags.get("action", "")
            self._trained[version.reference] = action
        return self._trained[version.reference]

    def columns(self, table: str) -> tuple[tuple[str, str], ...]:
        """Return a table's columns and their kinds."""
        with suppress(KilterError):
            found = next((one for one in self._data().tables() if one.name == table), None)
            return () if found is None else tuple((column.name, column.kind) for column in found.columns)
        return ()
