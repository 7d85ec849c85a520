"""``kilter server``: one process that serves a store's operations, stream and pages."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from kilter.core.clock import SystemClock
from kilter.core.errors import KilterError
from kilter.governance.oidc import Provider, settings_from
from kilter.loop.remote import SERVICES
from kilter.loop.store import clock_from
from kilter.loop.workspace import Workspace
from kilter.operations.running import Running
from kilter.server.access import make_access
from kilter.server.app import Application, Page, Parts, build
from kilter.server.door import Door
from kilter.server.listening import Listener, tls_of
from kilter.server.ports import free_port
from kilter.server.trimming import trimming
from kilter.serving.recording.retention import Retention

log = logging.getLogger("kilter.server")


@dataclass(frozen=True)
class ServerConfig:
    """How a server is run.

    Args:
        store: A folder or the URL of a database.
        home: The local folder of a remote store.
        host: The address to listen on.
        port: The port, or 0 for a free one.
        clock: ``system``, or ``file:PATH`` for a simulated clock.
        tls_cert: Certificate chain in PEM.
        tls_key: Its key in PEM.
        insecure: TLS ends before this server, at a proxy.
        keep: How much of the logs is kept.
    """

    store: str
    home: str | None = None
    host: str = "127.0.0.1"
    port: int = 8700
    clock: str = "system"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    keep: Retention = field(default_factory=Retention)


def run(config: ServerConfig) -> None:
    """Serve until a signal ends it.

    Raises:
        Forbidden: When the address is reachable by others without token or TLS.
        Conflict: When the port is in use.
        KilterError: When the store can't be opened.
    """
    settings = settings_from()
    port = free_port(config.host, config.port)
    with Workspace.open(config.store, clock_from(config.clock), config.home) as workspace:
        folder = workspace.store.run
        _recover(workspace)
        tls = config.tls_cert is not None
        access = make_access(folder, config.host, port, tls=tls, insecure=config.insecure)
        application = build(
            Parts(
                services={noun: getattr(workspace, noun) for noun in SERVICES},
                journal=workspace.journal_log,
                database=workspace.database,
                access=access,
                pages=_pages(workspace),
                entrance=_entrance,
                provider=None if settings is None else Provider(settings),
            )
        )
        running = Running("server", os.getpid(), SystemClock().now(), config.host, port, access.url)
        with (
            trimming(lambda: workspace.logs, config.keep),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            try:
                runner.run(_serve(application, config, port, lambda: folder.write(running)))
            finally:
                folder.remove("server", os.getpid())


def _recover(workspace: Workspace) -> None:
    # A client whose answer was lost sends its rows again, and is told that they are there: nobody would observe them then.
    try:
        workspace.features.recover()
    except KilterError as error:
        log.warning("online features are behind until rows arrive: %s", error)


def _pages(workspace: Workspace) -> Sequence[Page]:
    # The pages stand on this room and not the other way round; an installation may leave them out.
    if (
        importlib.util.find_spec("kilter.server.ui") is None
        or importlib.util.find_spec("kilter.server.ui.routes") is None
    ):
        return ()
    found: Sequence[Page] = importlib.import_module("kilter.server.ui.routes").routes(workspace)
    return found


def _entrance(door: Door) -> Sequence[Page]:
    if importlib.util.find_spec("kilter.server.ui") is None:
        return ()
    found: Sequence[Page] = importlib.import_module("kilter.server.ui.login").LoginPages(door).routes()
    return found


async def _serve(application: Application, config: ServerConfig, port: int, listening: Callable[[], None]) -> None:
    tls = None if config.tls_cert is None else tls_of(config.tls_cert, config.tls_key)
    listener = Listener(application.asgi, tls=tls)

    def end() -> None:
        if application.closing.is_set():  # the second signal
            os._exit(1)
        application.closing.set()
        listener.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await listener.start(config.host, port)
    listening()
    await listener.serve()
