"""One process of a version, seen from the front.

It is reached over a socket pair; the end of the socket is its death, known at once and without heartbeats. What was in flight then
comes back to whoever asked, to be asked again elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import Protocol

from kilter.serving.answering.batching import Batch
from kilter.serving.workers.frames import EXPLAIN, FAILED, READY, REFUSED, ROWS, VALUES, Reader, framed

_EXIT_SECONDS = 2.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Owner(Protocol):
    """Whom a worker tells."""

    def clock(self) -> float:
        """Return the loop's time."""
        ...

    def became_ready(self) -> None:
        """Count a worker in."""
        ...

    def answered(self, worker: Worker, batch: Batch, values: bytes | None, seconds: float) -> None:
        """Take a batch's answers; None when the model refused it."""
        ...

    def died(self, worker: Worker, lost: list[Batch]) -> None:
        """Count a worker out; ``lost`` was in its hands."""
        ...


class Worker(asyncio.Protocol):
    """One process.

    Args:
        pool: What it belongs to.
        hello: The frame that carries the model.
    """

    def __init__(self, pool: Owner, hello: bytes) -> None:
        self.ready = False
        self.served = False
        self.refusal = ""
        self.started = pool.clock()
        self._pool = pool
        self._reader = Reader()
        self._asked: dict[int, Batch] = {}
        self._last = 0.0
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
                [sys.executable, "-m", "kilter.serving.workers.worker", str(theirs.fileno())],
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

    @property
    def batches(self) -> int:
        """How many batches it has in hand: one that it predicts, and those that are next."""
        return len(self._asked)

    @property
    def alone(self) -> bool:
        """Whether it has rows in hand that may be its death."""
        return any(batch.alone for batch in self._asked.values())

    @property
    def rows(self) -> int:
        """How many rows it has in hand."""
        return sum(batch.rows for batch in self._asked.values())

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        for kind, ticket, _, payload in self._reader.feed(data):
            if kind in {VALUES, REFUSED, FAILED}:
                batch = self._asked.pop(ticket, None)
                if batch is not None:
                    now = self._pool.clock()
                    seconds, self._last = now - max(batch.at, self._last), now
                    batch.failed = kind == FAILED
                    self._pool.answered(self, batch, payload if kind == VALUES else None, seconds)
                else:  # of the model itself
                    self.refusal = payload.decode("utf-8", "replace")
            elif kind == READY:
                self.ready = True
                self._pool.became_ready()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Give back what was in flight."""
        self.served, self.ready = self.ready, False
        self._transport = None
        lost, self._asked = list(self._asked.values()), {}
        self._pool.died(self, lost)

    def send(self, batch: Batch) -> None:
        """Hand a batch over."""
        assert self._transport is not None  # noqa: S101 - only a ready worker is asked
        self._ticket = (self._ticket + 1) & 0xFFFFFFFF
        self._asked[self._ticket] = batch
        kind = EXPLAIN if batch.explains else ROWS
        self._transport.writelines(framed(kind, self._ticket, batch.rows, batch.parts()))

    def stalled(self, now: float, seconds: float) -> bool:
        """Say whether the batch that it predicts has taken longer than ``seconds``."""
        return bool(self._asked) and now - max(next(iter(self._asked.values())).at, self._last) > seconds

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
