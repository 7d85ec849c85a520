"""The processes behind a version: started, warmed, restarted, drained.

A worker is reached over a socket pair; the end of the socket is its death, known at once and without heartbeats. What was in
flight then comes back to whoever asked, to be asked again elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine

import msgspec

from kilter.core.errors import Unavailable
from kilter.packaging.bundle import Parts
from kilter.serving.frames import HELLO, LENGTHS, READY, REFUSED, ROWS, VALUES, Reader, frame

log = logging.getLogger("kilter.serving")

Done = Callable[[bytes | None, bool], None]
"""Takes the answers (float64), or None with True when the worker died and False when the model refused the rows."""

# A worker that had been ready comes back soon, because requests wait for it; one that never was is not tried in a hurry.
_BACKOFF_FIRST, _BACKOFF_READY, _BACKOFF_MOST = 0.05, 0.5, 5.0
_STABLE_SECONDS = 10.0
_LOADS = 3
"""How many processes may die in the middle of loading a model, without a word, before that is taken for its fault."""
_EXIT_SECONDS = 2.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Worker(asyncio.Protocol):
    """One process.

    Args:
        pool: What it belongs to.
        hello: The frame that carries the model.
    """

    def __init__(self, pool: Pool, hello: bytes) -> None:
        self.ready = False
        self.served = False
        self.refusal = ""
        self.rows = 0
        self.started = pool.clock()
        self._pool = pool
        self._reader = Reader()
        self._asked: dict[int, tuple[int, float, Done]] = {}
        self._ticket = 0
        self._transport: asyncio.WriteTransport | None = None
        self._hello = hello
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id; 0 before it has one."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start the process and hand it the model; ``ready`` is set when it has said so."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            # The parent's standard streams are inherited: what a library prints while it loads is seen.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a few milliseconds; our own interpreter and module
                [sys.executable, "-m", "kilter.serving.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
            )
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=ours)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the model."""
        self._transport = transport  # type: ignore[assignment]
        transport.set_write_buffer_limits(high=64 << 20)  # type: ignore[attr-defined]
        transport.write(self._hello)  # type: ignore[attr-defined]
        self._hello = b""

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        for kind, ticket, _, payload in self._reader.feed(data):
            if kind in {VALUES, REFUSED}:
                asked = self._asked.pop(ticket, None)
                if asked is not None:
                    count, _, done = asked
                    self.rows -= count
                    done(payload if kind == VALUES else None, False)
                elif kind == REFUSED:  # of the model itself
                    self.refusal = payload.decode("utf-8", "replace")
            elif kind == READY:
                self.ready = True
                self._pool.became_ready()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Give back what was in flight."""
        self.served, self.ready = self.ready, False
        self._transport = None
        lost, self._asked = self._asked, {}
        self.rows = 0
        self._pool.died(self)
        for _, _, done in lost.values():
            done(None, True)

    def ask(self, payload: bytes, count: int, done: Done) -> None:
        """Ask for the answers to ``count`` rows."""
        assert self._transport is not None  # noqa: S101 - only a ready worker is asked
        self._ticket = (self._ticket + 1) & 0xFFFFFFFF
        self._asked[self._ticket] = (count, self._pool.clock(), done)
        self.rows += count
        self._transport.write(frame(ROWS, self._ticket, count, payload))

    def stalled(self, now: float, seconds: float) -> bool:
        """Say whether its oldest question has waited for longer than ``seconds``."""
        return bool(self._asked) and now - next(iter(self._asked.values()))[1] > seconds

    def kill(self) -> None:
        """End the process at once; its socket's end does the rest."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    async def stop(self) -> None:
        """Hang up, and wait until the process has gone."""
        if self._transport is not None:
            self._transport.close()
        await self.reap()

    async def reap(self) -> None:
        """Wait for the process to end, and end it if it doesn't."""
        process = self._process
        if process is None:
            return
        for _ in range(int(_EXIT_SECONDS / 0.01)):
            if process.poll() is not None:
                return
            await asyncio.sleep(0.01)
        process.kill()
        await asyncio.get_running_loop().run_in_executor(None, process.wait)


class Pool:
    """All workers of one version.

    Args:
        parts: The bundle's bytes; kept, so that a worker can be started again when the store is down.
        replicas: How many processes.
        changed: Called when a worker has become ready.
    """

    def __init__(self, parts: Parts, replicas: int, changed: Callable[[], None]) -> None:
        spec = msgspec.json.encode(parts.manifest.spec())
        lengths = LENGTHS.pack(len(spec), len(parts.model), len(parts.example))
        self._hello = frame(
            HELLO, 0, parts.manifest.example_rows, b"".join((lengths, spec, parts.model, parts.example))
        )
        self.clock = asyncio.get_running_loop().time
        self.restarts = 0
        self.start_seconds = 0.0
        self._changed = changed
        self._replicas = replicas
        self._workers: list[Worker] = []
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._starting: set[asyncio.Task[None]] = set()
        self._reaping: set[asyncio.Task[None]] = set()
        self._backoff = 0.0
        self._lost_loads = 0
        self._stopped = False

    @property
    def ready(self) -> bool:
        """Whether a worker can be asked."""
        return any(worker.ready for worker in self._workers)

    @property
    def rows(self) -> int:
        """How many rows are in flight."""
        return sum(worker.rows for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that are ready."""
        return [worker.pid for worker in self._workers if worker.ready]

    async def start(self, seconds: float) -> None:
        """Start all workers and wait until every one is ready.

        Args:
            seconds: How long to wait.

        Raises:
            Unavailable: When a worker can't load the model, dies, or isn't ready in time. Nothing is left running.
        """
        begun = self.clock()
        try:
            for _ in range(self._replicas):
                await self._spawn()
            await asyncio.wait_for(asyncio.shield(self._first), seconds)
        except BaseException as error:
            await self.stop()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"the model was not ready within {seconds:g} seconds", where="worker") from error
            if isinstance(error, OSError):
                raise Unavailable("a worker process can't be started", where="worker") from error
            raise
        self.start_seconds = self.clock() - begun

    def ask(self, payload: bytes, count: int, done: Done) -> None:
        """Ask the ready worker with the least in flight."""
        ready = [worker for worker in self._workers if worker.ready]
        worker = ready[0] if len(ready) == 1 else min(ready, key=lambda one: one.rows)
        worker.ask(payload, count, done)

    def became_ready(self) -> None:
        """Count a worker in."""
        if not self._first.done() and sum(one.ready for one in self._workers) == self._replicas:
            self._first.set_result(None)
        self._changed()

    def died(self, worker: Worker) -> None:
        """Count a worker out; before the pool was ever ready that is its failure, afterwards it is started again."""
        if worker in self._workers:
            self._workers.remove(worker)
        _keep(worker.reap(), self._reaping)
        if self._stopped:
            return
        self._lost_loads += not self._first.done()
        if not self._first.done() and (worker.refusal or self._lost_loads >= _LOADS):
            reason = worker.refusal or "the worker process died while it loaded the model"
            self._first.set_exception(Unavailable(reason, where="worker"))
            self._first.exception()  # it is taken note of here: nobody may be waiting any more
            return
        self.restarts += 1
        stable = self.clock() - worker.started > _STABLE_SECONDS
        most = _BACKOFF_READY if worker.served else _BACKOFF_MOST
        delay = 0.0 if stable else min(self._backoff, most)
        self._backoff = _BACKOFF_FIRST if stable else min(max(self._backoff * 2, _BACKOFF_FIRST), most)
        log.warning("worker %d died; the next one starts in %.2f s", worker.pid, delay)
        _keep(self._respawn(delay), self._starting)

    def kill_stalled(self, seconds: float) -> None:
        """End workers that have not answered for longer than ``seconds``: their rows are asked elsewhere."""
        now = self.clock()
        for worker in self._workers:
            if worker.stalled(now, seconds):
                log.error("worker %d has not answered for %g s and is ended", worker.pid, seconds)
                worker.kill()

    async def stop(self) -> None:
        """Hang up on all workers and wait until they have gone."""
        self._stopped = True
        for task in tuple(self._starting):
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for worker in tuple(self._workers):
            await worker.stop()
        await asyncio.gather(*self._reaping)
        if not self._first.done():
            self._first.cancel()

    async def _spawn(self) -> None:
        worker = Worker(self, self._hello)
        self._workers.append(worker)
        await worker.start()

    async def _respawn(self, delay: float) -> None:
        if delay:
            await asyncio.sleep(delay)
        while not self._stopped:
            try:
                await self._spawn()
            except OSError:
                log.exception("a worker process can't be started")
                await asyncio.sleep(_BACKOFF_MOST)
            else:
                return


def _keep(work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> None:
    """Start a task and hold on to it: the loop alone would let it be collected."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
