"""Where a run is sent to, and where its buffer lies meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from kilter.core.errors import InvalidInput
from kilter.operations.running import RunFolder
from kilter.tracking.service import RunService

DEFAULT_STORE = ".kilter"
BUFFER = "buffer"


def store_place(store: str | Path | None) -> str:
    """Return the store that was given, else ``KILTER_STORE``, else ``.kilter``: an address, or a whole path.

    Raises:
        InvalidInput: When it is neither a folder nor the address of a server.
    """
    place = str(store or os.environ.get("KILTER_STORE") or DEFAULT_STORE)
    if is_server(place):
        return place.rstrip("/")
    if "://" in place:
        raise InvalidInput(
            f"{place!r} can't be tracked to directly",
            where="store",
            allowed="a folder, or the address of a server (http://HOST:PORT)",
        )
    return str(Path(place).expanduser().absolute())


def is_server(place: str) -> bool:
    """Say whether a store is the address of a server."""
    return place.startswith(("http://", "https://"))


def buffers_of(place: str) -> Path:
    """Return the folder of the buffers of what is sent to a store: ``KILTER_BUFFER``, else one that is found again from anywhere."""
    given = os.environ.get("KILTER_BUFFER")
    if given:
        return Path(given).expanduser().absolute()
    return Path.home() / ".kilter" / BUFFER if is_server(place) else Path(place) / BUFFER


def connect(place: str) -> tuple[RunService, Callable[[], None]]:
    """Return the runs of a store, and what closes it.

    Raises:
        Unavailable: When a folder can't be written.
    """
    if is_server(place):
        from kilter.operations.client import Remote  # noqa: PLC0415 - a folder needs no client

        remote = Remote(place)
        return remote.service("runs", RunService), remote.close
    from kilter.core.clock import SystemClock  # noqa: PLC0415 - a server has the engines, not its client
    from kilter.engines.objects.store import ObjectStore  # noqa: PLC0415
    from kilter.engines.sql.database import Database  # noqa: PLC0415

    folder = Path(place)
    database = Database.open(f"sqlite:///{folder / 'kilter.db'}")
    database.migrate()
    return RunService(database, ObjectStore.open(str(folder / "objects")), SystemClock()), database.close


def page_of(place: str, run: str) -> str:
    """Return the address of a run's page, or nothing when no server is known that has one."""
    if is_server(place):
        return f"{place}/runs/{run}"
    running = RunFolder(Path(place) / "run").living("server")
    return f"{running.url.rstrip('/')}/runs/{run}" if running is not None and running.url else ""
