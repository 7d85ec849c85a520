"""The controller: the one process that drives every loop of a store.

One works on a store at a time; it holds a lease, and every transaction of its drivers checks that it still does. A second one
waits for the lease.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from kilter.core.errors import KilterError
from kilter.engines.compute.processes import Compute
from kilter.engines.sql.lease import Lease
from kilter.loop.driver import Driver
from kilter.loop.store import Store, clock_from
from kilter.loop.workspace import Workspace
from kilter.operations.running import Running

log = logging.getLogger("kilter.controller")

LEASE = "controller"
LEASE_SECONDS = 10.0


class ControllerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a controller.

    Args:
        store: Where everything is.
        clock: ``system`` or ``file:PATH``.
        pause: Seconds between two rounds when there is nothing to do; a simulated clock, which jumps, is looked at more often.
        preload: Modules, such as a framework, that a worker imports while it waits for its first job.
    """

    store: Store
    clock: str = "system"
    pause: float | None = None
    preload: tuple[str, ...] = ()


def run(config: ControllerConfig) -> None:
    """Run a controller until it is told to stop (SIGTERM or SIGINT); a second one on the same store waits for the lease."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Workspace(config.store, clock_from(config.clock)) as workspace:
        workspace.database.migrate()
        folder = config.store.run
        folder.write(Running("controller", os.getpid(), datetime.now(UTC)))
        try:
            usual = 0.25 if config.clock == "system" else 0.02
            pause = usual if config.pause is None else config.pause
            Controller(workspace, pause=pause, preload=config.preload).serve(stop)
        finally:
            folder.remove("controller", os.getpid())


class Controller:
    """Drives every loop of a store.

    Args:
        workspace: The store.
        pause: Seconds between two rounds when there is nothing to do.
        preload: Modules that a worker imports while it waits for its first job.
    """

    def __init__(self, workspace: Workspace, *, pause: float = 0.02, preload: Sequence[str] = ()) -> None:
        self._workspace = workspace
        self._pause = pause
        self._lease = Lease(workspace.database)
        self._ledger = workspace.loops.ledger
        self._compute = Compute(workers=1, preload=["kilter.loop.jobs", *preload])
        self._batching: Compute | None = None
        self._drivers: dict[str, Driver] = {}
        self._names: list[str] = []
        self._look_again = 0.0
        self._weigh_again = 0.0

    def serve(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        run = self._workspace.store.run
        holder = f"{socket.gethostname()}/{os.getpid()}"
        waiting = False
        try:
            while not stop.is_set():
                # A controller that was killed on this machine can't come back: its lease need not run out first.
                mark = run.hold("controller")
                name = f"{mark}/{holder}" if mark else holder
                if self._lease.acquire(LEASE, name, LEASE_SECONDS, heir_of=f"{mark}/" if mark else "") is None:
                    if not waiting:
                        log.warning("another controller works on this store; waiting for its lease")
                        waiting = True
                    stop.wait(1.0)
                    continue
                waiting = False
                self._work(stop)
        finally:
            self._compute.close()
            if self._batching is not None:
                self._batching.close()
            self._lease.release()
            run.let_go("controller")

    def _work(self, stop: threading.Event) -> None:
        beat = threading.Event()
        keeper = threading.Thread(target=self._keep_lease, args=(stop, beat), daemon=True)
        keeper.start()
        try:
            while not stop.is_set() and not beat.is_set():
                try:
                    busy = self.step()
                except KilterError as error:
                    log.warning("%s", error)
                    busy = False
                if not busy:
                    stop.wait(self._pause)
        finally:
            beat.set()
            keeper.join()

    def _keep_lease(self, stop: threading.Event, lost: threading.Event) -> None:
        while not stop.is_set() and not lost.wait(LEASE_SECONDS / 3):
            try:
                if not self._lease.renew():
                    lost.set()
                self._workspace.runs.interrupt_orphans()
            except KilterError as error:
                log.warning("the lease can't be renewed: %s", error)
            except Exception:  # whatever it is, a keeper that has ended would let the lease run out unnoticed
                log.exception("the lease can't be renewed")

    def step(self) -> bool:
        """Let every loop take a step; return whether any had something to do."""
        busy = False
        for name in self._known():
            driver = self._drivers.get(name)
            if driver is None:
                driver = self._drivers[name] = Driver(self._workspace, name, self._compute, self._lease, self._batches)
            try:
                busy = driver.step() or busy
            except KilterError as error:
                log.warning("%s: %s", name, error)
            except Exception:  # one loop's defect must not stop the others; a fresh driver starts from what is stored
                log.exception("%s could not take a step", name)
                del self._drivers[name]
        return self._weigh() or busy

    def _batches(self) -> Compute:
        """Return the process that scores batches, which is there from the first one on."""
        if self._batching is None:
            self._batching = Compute(workers=1, preload=["kilter.loop.batches"])
        return self._batching

    def _weigh(self) -> bool:
        """Draw the shares of bandits anew when their time has come; the question is asked once a second."""
        if time.monotonic() < self._weigh_again:
            return False
        self._weigh_again = time.monotonic() + 1.0
        try:
            return self._workspace.experiments.weigh(self._lease.check) > 0
        except KilterError as error:
            log.warning("an experiment's shares could not be drawn: %s", error)
            return False

    def _known(self) -> list[str]:
        """Return the loops; a new one is noticed within half a second."""
        if time.monotonic() >= self._look_again:
            self._names = self._ledger.names()
            self._look_again = time.monotonic() + 0.5
        return self._names
