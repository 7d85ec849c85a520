"""The front: one process that owns the port, the prediction log and the workers.

``python -m kilter.serving.front CONFIG`` with the configuration as JSON, or :func:`run` in a process of its own.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from kilter.core.access import check_bind
from kilter.core.clock import Clock, SystemClock
from kilter.core.errors import Conflict, InvalidInput, KilterError, Unavailable
from kilter.data.batch import micros
from kilter.engines.clock import SharedClock
from kilter.engines.objects.store import ObjectStore
from kilter.engines.online.store import OnlineStore
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.features.declare import FeatureView
from kilter.features.online import OnlineFeatures
from kilter.serving.control import Follower
from kilter.serving.endpoint import Budget, Endpoint
from kilter.serving.faces import Faces
from kilter.serving.group import Lookup
from kilter.serving.http import Connection, Limits
from kilter.serving.recording import FRONT_NAME, PredictionLog
from kilter.serving.replays import Replays, tail
from kilter.serving.service import EndpointService

log = logging.getLogger("kilter.serving")

_SWEEP_SECONDS = 1.0
_FIRST_LOAD_SECONDS = 30.0


class FrontConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a front runs.

    Args:
        database: URL of the metadata.
        objects: URL of the object store.
        logs: Folder of the prediction logs; this front writes ``<logs>/<front>``.
        online: Folder of the online features; empty for none.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        token: Bearer token that clients must send; needed beyond loopback.
        clock: ``system``, or ``file:<path>`` of a shared simulated clock.
        front: The front's name: 1 to 64 of a-z, 0-9 and _.
        announce: File to write ``{"pid", "host", "port"}`` to once it listens; empty for none.
        replicas: Worker processes per version.
        waiting_rows: Rows that may wait in the whole front.
        patience: Seconds that a row waits for its own version's next worker while another version could answer.
        deadline: Seconds after which a row takes whatever answer there is.
        stall: Seconds without an answer after which a worker is ended.
        load_timeout: Seconds that a version may take to become ready.
        poll: Seconds between two looks at the plans.
        drain: Seconds that requests under way have when the front is told to stop.
        fsync: Wait for the disk at every record: it then survives a power cut too, not only the process's death.
        limits: What one client may ask.
    """

    database: str
    objects: str
    logs: str
    online: str = ""
    host: str = "127.0.0.1"
    port: int = 7471
    token: str | None = None
    clock: str = "system"
    front: str = "main"
    announce: str = ""
    replicas: int = 1
    waiting_rows: int = 40_000
    patience: float = 0.5
    deadline: float = 2.0
    stall: float = 5.0
    load_timeout: float = 60.0
    poll: float = 0.05
    drain: float = 10.0
    fsync: bool = False
    limits: Limits = Limits()


class Front:
    """A front that is being set up, serves, and drains.

    Args:
        config: How it runs.

    Raises:
        Forbidden: When it would listen beyond loopback without a token.
        InvalidInput: When the clock or the name can't be used.
        Conflict: When another front of that name is running.
    """

    def __init__(self, config: FrontConfig) -> None:
        check_bind(config.host, config.token)
        if not FRONT_NAME.match(config.front):
            raise InvalidInput("that is no name for a front", where="front", allowed="1 to 64 of a-z, 0-9 and _")
        self.config = config
        self._clock = clock_of(config.clock)
        self._database = Database.open(config.database)
        journal = Log.open(Path(config.logs) / config.front, fsync=config.fsync)
        self._log = PredictionLog(journal, config.front)
        replays = Replays()
        replays.rebuild(tail(journal))
        self._online = OnlineStore.open(config.online, readonly=True) if config.online else None
        self._lookup = lookup_of(OnlineFeatures(self._online)) if self._online is not None else None
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(config.waiting_rows)
        self.faces = Faces(
            self._log, replays, config.limits, host=config.host, token=config.token, clock=self._loop.time
        )
        self._service = EndpointService(self._database, self._clock, Path(config.logs))
        self._follower = Follower(
            config.front,
            self._service,
            ObjectStore.open(config.objects),
            self.faces.endpoints,
            self._endpoint,
            poll=config.poll,
            load_timeout=config.load_timeout,
            stall=config.stall,
            replicas=config.replicas,
        )
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def start(self) -> None:
        """Serve the plans that are there, then listen.

        Raises:
            Conflict: When the port is in use.
            Unavailable: When the address can't be listened on.
        """
        await self._follower.look()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._follower.settle(), _FIRST_LOAD_SECONDS)
        config = self.config
        try:
            self._server = await self._loop.create_server(
                partial(Connection, self.faces, self._loop.time), config.host, config.port, backlog=1024
            )
        except OSError as error:
            await self.stop()
            raise _listening(error, config) from error
        self.port = self._server.sockets[0].getsockname()[1]
        self._tasks = [self._loop.create_task(self._follower.follow()), self._loop.create_task(self._sweep())]
        if config.announce:
            _announce(Path(config.announce), {"pid": os.getpid(), "host": config.host, "port": self.port})
        # What is loaded by now stays: the collector need not walk it again and again between requests.
        gc.collect()
        gc.freeze()
        log.info("listening on http://%s:%d", config.host, self.port)

    async def drain(self) -> None:
        """Take no more connections, and answer what is under way; afterwards readiness is false."""
        self.faces.draining = True
        if self._server is not None:
            self._server.close()
        end = self._loop.time() + self.config.drain
        while self._loop.time() < end:
            waiting = sum(one.rows for one in self.faces.endpoints.values())
            busy = sum(one.waiting for one in self.faces.connections)
            if not waiting and not busy:
                break
            await asyncio.sleep(0.01)
        for connection in tuple(self.faces.connections):
            connection.sweep(self._loop.time())
        await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop everything."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._follower.stop()
        self._log.close()
        if self._online is not None:
            self._online.close()
        self._database.close()

    def _endpoint(self, loop: str) -> Endpoint:
        return Endpoint(
            loop,
            self._log,
            self._clock,
            self._lookup,
            self._budget,
            patience=self.config.patience,
            deadline=self.config.deadline,
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._loop.time()
            for connection in tuple(self.faces.connections):
                connection.sweep(now)


def clock_of(spec: str) -> Clock:
    """Return the clock that a configuration names.

    Raises:
        InvalidInput: When it names none.
    """
    kind, _, path = spec.partition(":")
    if kind == "file" and path:
        return SharedClock(Path(path))
    if spec != "system":
        raise InvalidInput("that is no clock", where="clock", allowed='"system" or "file:<path>"')
    return SystemClock()


def lookup_of(online: OnlineFeatures) -> Lookup:
    """Return a look-up of features as serving wants it."""

    def lookup(
        view: FeatureView, entities: Sequence[str | None], times: Sequence[datetime]
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        return online.matrix(view, entities, [micros(time) for time in times])

    return lookup


async def serve(config: FrontConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once."""
    front = Front(config)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    await front.start()
    await stopping.wait()
    await front.drain()
    await front.stop()


def run(config: FrontConfig) -> None:
    """Run a front in this process until it is told to stop.

    Raises:
        KilterError: When it can't start; nothing is left running.
    """
    uvloop.run(serve(config))


def main(arguments: Sequence[str]) -> int:
    """Run a front from the command line."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        run(msgspec.json.decode(arguments[0] if arguments else "{}", type=FrontConfig))
    except msgspec.MsgspecError as error:
        sys.stderr.write(f"the configuration can't be read: {error}\n")
        return 2
    except KilterError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _listening(error: OSError, config: FrontConfig) -> KilterError:
    where = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            "the port is in use", where=where, fix="stop the other server, or choose another --port (0: any)"
        )
    if error.errno == errno.EACCES:
        return Unavailable("this user may not listen there", where=where, fix="choose a port above 1023")
    return Unavailable("the address can't be listened on", where=where, fix="give an address of this machine")


def _announce(path: Path, what: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(msgspec.json.encode(what))
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
