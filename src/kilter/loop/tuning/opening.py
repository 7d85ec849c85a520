"""The runs of a store and nothing else of it: a search over a function needs no tables, and begins at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kilter.core.clock import SystemClock
from kilter.core.errors import Unavailable
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.loop.store import Store
from kilter.operations.client import Remote
from kilter.tracking.service import RunService


@contextmanager
def opened_runs(store: str, home: str | None = None) -> Iterator[RunService]:
    """Open the runs of a store or of a running server, and close them again.

    Args:
        store: A folder, a database, or ``http(s)://`` of a server.
        home: The local folder of a store that is a database.

    Raises:
        Unavailable: When the folder can't be made.
    """
    if store.startswith(("http://", "https://")):
        remote = Remote(store, os.environ.get("KILTER_TOKEN"))
        try:
            yield remote.service("runs", RunService)
        finally:
            remote.close()
        return
    places = Store.parse(store, home)
    try:
        places.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the folder can't be made: {error.strerror}", where=str(places.folder), fix="choose another store"
        ) from error
    database = Database.open(places.database)
    try:
        database.migrate()
        yield RunService(database, ObjectStore.open(places.objects), SystemClock())
    finally:
        database.close()
