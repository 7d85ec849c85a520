"""The front: one process that owns the port, the prediction log and the workers.

``python -m kilter.serving.front.process CONFIG`` with the configuration as JSON, or :func:`run` in a process of its own.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from kilter.serving.access.reception import Reception
from kilter.serving.answering.admission import Budget, Door
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.answering.group import Lookup
from kilter.serving.front.control import Follower
from kilter.serving.front.faces import Faces
from kilter.serving.front.http import Connection, Limits
from kilter.serving.front.upkeep import Upkeep
from kilter.serving.recording.predictions import FRONT_NAME, PredictionLog
from kilter.serving.recording.replays import Replays
from kilter.serving.service import EndpointService
from kilter.serving.settings import Settings, check_settings
from kilter.serving.workers.keeper import Keeper
from kilter.serving.workers.memory import keep_freed, measurable

if TYPE_CHECKING:
    from kilter.serving.grpc.server import GrpcServer
    from kilter.serving.telemetry.otlp import Exporter

log = logging.getLogger("kilter.serving")

_SWEEP_SECONDS = 1.0
_YOUNG_OBJECTS = 20_000
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
        grpc_port: Port to listen on for gRPC; 0 for any free one, None for no gRPC.
        token: Bearer token that clients must send; needed beyond loopback.
        guarded_by: The platform that lets only its own callers reach the port, and hands no token on; empty for none.
        clock: ``system``, or ``file:<path>`` of a shared simulated clock.
        front: The front's name: 1 to 64 of a-z, 0-9 and _.
        announce: File to write ``{"pid", "host", "port", "grpc_port"}`` to once it listens; empty for none.
        settings: How its endpoints are run.
        endpoints: The same for single ones, by name, in place of ``settings``.
        memory: Bytes that all workers may hold together; 0 for no bound.
        recent: Seconds for which a model stays in memory after it was asked, however short memory is.
        waiting_rows: Rows that may wait in the whole front.
        patience: Seconds that a row waits for its own version's next worker while another version could answer.
        deadline: Seconds after which a row takes whatever answer there is.
        stall: Seconds without an answer after which a worker is ended.
        load_timeout: Seconds that a version may take to become ready.
        poll: Seconds between two looks at the plans.
        drain: Seconds that requests under way have when the front is told to stop.
        fsync: Wait for the disk at every record: it then survives a power cut too, not only the process's death.
        otlp: URL of an OpenTelemetry collector that takes spans over HTTP; empty for none. Needs the extra ``otel``.
        otlp_headers: What the collector wants to be sent, such as a key.
        otlp_share: The share of requests without a trace of their own that begin one here.
        limits: What one client may ask.
    """

    database: str
    objects: str
    logs: str
    online: str = ""
    host: str = "127.0.0.1"
    port: int = 7471
    grpc_port: int | None = None
    token: str | None = None
    guarded_by: str = ""
    clock: str = "system"
    front: str = "main"
    announce: str = ""
    settings: Settings = Settings()
    endpoints: dict[str, Settings] = {}
    memory: int = 0
    recent: float = 5.0
    waiting_rows: int = 40_000
    patience: float = 0.5
    deadline: float = 2.0
    stall: float = 5.0
    load_timeout: float = 60.0
    poll: float = 0.05
    drain: float = 10.0
    fsync: bool = False
    otlp: str = ""
    otlp_headers: dict[str, str] = {}
    otlp_share: float = 1.0
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
        check_bind(config.host, config.token or config.guarded_by)
        if not FRONT_NAME.match(config.front):
            raise InvalidInput("that is no name for a front", where="front", allowed="1 to 64 of a-z, 0-9 and _")
        for name, settings in {"settings": config.settings, **config.endpoints}.items():
            check_settings(settings, name)
        if config.memory < 0 or (config.memory and not measurable()):
            raise InvalidInput("memory can't be bounded so", where="memory",
                               allowed="0, or bytes on a system with /proc")  # fmt: skip
        self.config = config
        self._clock = clock_of(config.clock)
        self._database = Database.open(config.database)
        journal = Log.open(Path(config.logs) / config.front, fsync=config.fsync)
        self._log = PredictionLog(journal, config.front)
        replays = Replays()
        replays.rebuild(journal)
        self._online = OnlineStore.open(config.online, readonly=True) if config.online else None
        self._lookup = lookup_of(OnlineFeatures(self._online)) if self._online is not None else None
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(config.waiting_rows)
        self._exporter = exporter_of(config, time.monotonic)
        self._reception = Reception(config.token, self._clock, time.monotonic, self._exporter, config.otlp_share)
        self.faces = Faces(
            self._log, replays, config.limits, host=config.host, reception=self._reception, clock=time.monotonic
        )
        self._service = EndpointService(self._database, self._clock, Path(config.logs))
        # SQL, the object store and /proc block; one thread keeps their order and leaves the event loop alone.
        self._thread = ThreadPoolExecutor(1, "kilter-serving-plans")
        self.keeper = Keeper(
            self.faces.endpoints,
            ObjectStore.open(config.objects),
            self._thread,
            self._settings,
            budget=config.memory,
            recent=config.recent,
            load_timeout=config.load_timeout,
            stall=config.stall,
        )
        self.faces.measures.append(self.keeper.measure)
        self._follower = Follower(
            config.front,
            self._service,
            self.keeper,
            self._thread,
            self.faces.endpoints,
            self._endpoint,
            poll=config.poll,
        )
        self._upkeep = Upkeep(self._database, self._clock, self._reception, self._log, self._thread)
        self._server: asyncio.Server | None = None
        self._grpc = grpc_of(config, self.faces, self._reception)
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def start(self) -> None:
        """Serve the plans that are there, then listen.

        Raises:
            Conflict: When the port is in use.
            Unavailable: When the address can't be listened on.
        """
        if not await self._upkeep.look():
            raise Unavailable(
                "the store's keys can't be read", where="front", fix="try again when its database is back"
            )
        await self._follower.look()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._follower.settle(), _FIRST_LOAD_SECONDS)
        config = self.config
        try:
            self._server = await self._loop.create_server(
                partial(Connection, self.faces, time.monotonic), config.host, config.port, backlog=1024
            )
            if self._grpc is not None:
                await self._grpc.start(config.grpc_port or 0)
        except OSError as error:
            await self.stop()
            raise _listening(error, config, grpc=self._server is not None) from error
        self.port = self._server.sockets[0].getsockname()[1]
        self._tasks = [self._loop.create_task(self._follower.follow()), self._loop.create_task(self._sweep()),
                       self._loop.create_task(self._upkeep.run())]  # fmt: skip
        if config.announce:
            said: dict[str, object] = {"pid": os.getpid(), "host": config.host, "port": self.port}
            if self._grpc is not None:
                said["grpc_port"] = self._grpc.port
            _announce(Path(config.announce), said)
        # What is loaded by now stays: the collector need not walk it again and again between requests.
        gc.collect()
        gc.freeze()
        # A request leaves no cycles behind: what is young dies by itself, and need not be looked through 700 objects later.
        gc.set_threshold(_YOUNG_OBJECTS)
        log.info("listening on http://%s:%d", config.host, self.port)

    async def drain(self) -> None:
        """Take no more connections, and answer what is under way; afterwards readiness is false."""
        self.faces.draining = True
        if self._server is not None:
            self._server.close()
        if self._grpc is not None:
            self._grpc.drain()
        end = self._loop.time() + self.config.drain
        while self._loop.time() < end:
            waiting = sum(one.rows for one in self.faces.endpoints.values())
            busy = sum(one.waiting for one in self.faces.connections)
            if not waiting and not busy and not (self._grpc is not None and self._grpc.busy):
                break
            await asyncio.sleep(0.01)
        for connection in tuple(self.faces.connections):
            connection.sweep(self._loop.time())
        await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop everything."""
        if self._server is not None:
            self._server.close()
        if self._grpc is not None:
            self._grpc.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._follower.stop()
        await self._upkeep.tell()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.close)
        self._thread.shutdown()
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
            Door(self._settings(loop), self._budget),
            patience=self.config.patience,
            deadline=self.config.deadline,
            watch=self._reception.step if self._exporter is not None else None,
        )

    def _settings(self, loop: str) -> Settings:
        return self.config.endpoints.get(loop, self.config.settings)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._loop.time()
            for connection in tuple(self.faces.connections):
                connection.sweep(now)
            if self._grpc is not None:
                self._grpc.sweep(now)


def grpc_of(config: FrontConfig, faces: Faces, reception: Reception) -> GrpcServer | None:
    """Return what listens for gRPC, or None when no port is configured for it.

    Raises:
        InvalidInput: When the extra is missing.
    """
    if config.grpc_port is None:
        return None
    try:
        from kilter.serving.grpc.server import GrpcServer, all_methods  # noqa: PLC0415 - an extra, for those who ask for it
    except ImportError as error:
        raise InvalidInput(
            "gRPC needs protobuf and h2", where="grpc_port", fix='pip install "kilter[grpc]", or leave grpc_port empty'
        ) from error
    methods = all_methods(faces.intake, faces.ready)
    return GrpcServer(methods, config.limits, host=config.host, reception=reception)


def exporter_of(config: FrontConfig, now: Callable[[], float]) -> Exporter | None:
    """Return what sends spans, or None when no collector is configured.

    Raises:
        InvalidInput: When the extra is missing, or the URL or the share can't be used.
    """
    if not config.otlp:
        return None
    if not config.otlp.startswith(("http://", "https://")):
        raise InvalidInput("that is no collector", where="otlp", allowed="an http:// or https:// URL")
    if not 0 <= config.otlp_share <= 1:
        raise InvalidInput("that is no share", where="otlp_share", allowed="0 to 1")
    try:
        from kilter.serving.telemetry.otlp import Exporter  # noqa: PLC0415 - an extra, and only for those who ask for it
    except ImportError as error:
        raise InvalidInput(
            "spans need the OpenTelemetry SDK", where="otlp", fix='pip install "kilter[otel]", or leave otlp empty'
        ) from error
    return Exporter(config.otlp, config.front, now, headers=config.otlp_headers)


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
    keep_freed()
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


def _listening(error: OSError, config: FrontConfig, *, grpc: bool) -> KilterError:
    where = f"{config.host}:{config.grpc_port if grpc else config.port}"
    if error.errno == errno.EADDRINUSE:
        option = "--grpc-port" if grpc else "--port"
        return Conflict(
            "the port is in use", where=where, fix=f"stop the other server, or choose another {option} (0: any)"
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
