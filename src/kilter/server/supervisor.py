"""``kilter up``: the server, the front of the endpoints and the controller as children of one process.

The supervisor holds no state and opens no store; it starts its children, waits until each is ready, starts them again
with growing pauses when they end unasked, and ends them when it is told to end. It stays small so that it stays alive.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from kilter.core.errors import Unavailable
from kilter.operations.running import RunFolder, Running
from kilter.server.lifeline import VARIABLE

READY_SECONDS = 60.0
DRAIN_SECONDS = 15.0

_LOOK = 0.05
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_LONGEST_PAUSE_READY = 1.0
_STABLE = 10.0
_LOG_KEPT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Part:
    """A child to run.

    Args:
        name: ``server``, ``serve`` or ``controller``; also the name of its file in ``DIR/run``.
        arguments: Its command line after ``kilter``.
        probe: The path that answers 200 once it is ready; empty when having said that it runs is enough.
    """

    name: str
    arguments: tuple[str, ...]
    probe: str = "/readyz"


@dataclass(frozen=True)
class Happening:
    """Something the supervisor tells: ``started``, ``ready``, ``died``, ``stopping`` or ``stopped``."""

    what: str
    part: str = ""
    pid: int = 0
    detail: str = ""


@dataclass
class _Child:
    part: Part
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = _FIRST_PAUSE
    again_at: float = 0.0
    ready: bool = False
    restarts: int = field(default=0)


class Supervisor:
    """Runs parts until it is told to end.

    Args:
        parts: The children, in the order in which they start.
        run: The store's folder ``run``: logs go there, and what the children say of themselves is read there.
        tell: Called with each happening.
    """

    def __init__(self, parts: tuple[Part, ...], run: RunFolder, tell: Callable[[Happening], None]) -> None:
        self._children = [_Child(part) for part in parts]
        self._run = run
        self._tell = tell
        self._woken = threading.Event()
        self._ending = 0
        self._reading, self._writing = -1, -1

    def run(self, ready: Callable[[], None]) -> None:
        """Start everything, call ``ready`` once when all parts are, and return when a signal has ended it.

        Raises:
            Unavailable: When a part isn't ready in time or ends again and again before it is; everything is stopped then.
        """
        self._reading, self._writing = os.pipe()  # not inheritable: a child gets the reading end alone
        kept = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        kept[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: self._woken.set())
        try:
            deadline = time.monotonic() + READY_SECONDS
            told = False
            while not self._ending:
                self._step()
                if not told and all(child.ready for child in self._children):
                    told = True
                    ready()
                if not told:
                    self._check_start(deadline)
                self._woken.wait(_LOOK)
                self._woken.clear()
        finally:
            self._stop()
            os.close(self._writing)
            os.close(self._reading)
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._ending += 1
        self._woken.set()
        if self._ending > 1:  # the second signal does not wait for anything to drain
            for child in self._children:
                if child.process is not None and child.process.poll() is None:
                    child.process.kill()

    def _step(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is None:
                if now >= child.again_at:
                    self._start(child)
            elif child.process.poll() is not None:
                self._mourn(child, now)
            elif not child.ready and self._is_ready(child):
                child.ready = True
                self._tell(Happening("ready", child.part.name, child.process.pid))

    def _start(self, child: _Child) -> None:
        log = self._log_of(child)
        if log.exists() and log.stat().st_size > _LOG_KEPT:
            log.replace(log.with_suffix(".log.1"))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            child.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
                [sys.executable, "-m", "kilter.cli.main", *child.part.arguments],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                pass_fds=(self._reading,),
                # Ctrl-C reaches the whole terminal group; the children wait for the supervisor's word instead.
                process_group=0,
                env={**os.environ, VARIABLE: f"{os.getpid()}:{self._reading}", "PYTHONUNBUFFERED": "1"},
            )
        finally:
            os.close(descriptor)
        child.started = time.monotonic()
        child.ready = False
        self._tell(Happening("started", child.part.name, child.process.pid))

    def _mourn(self, child: _Child, now: float) -> None:
        if child.process is None:
            return
        code, pid = child.process.returncode, child.process.pid
        self._run.remove(child.part.name, pid)
        # What had been ready can be so again, and others wait for it; what never was is not tried in a hurry.
        most = _LONGEST_PAUSE_READY if child.ready else _LONGEST_PAUSE
        child.process = None
        child.ready = False
        child.restarts += 1
        child.pause = _FIRST_PAUSE if now - child.started > _STABLE else min(child.pause * 2, most)
        child.again_at = now + child.pause
        said = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
        self._tell(Happening("died", child.part.name, pid, f"{said}; starts again in {child.pause:g} s"))

    def _is_ready(self, child: _Child) -> bool:
        said = self._run.read(child.part.name)
        if said is None or child.process is None or said.pid != child.process.pid:
            return False
        return not child.part.probe or _answers(said, child.part.probe)

    def _check_start(self, deadline: float) -> None:
        late = time.monotonic() > deadline
        for child in self._children:
            if not child.ready and (late or child.restarts > 2):
                reason = "is not ready" if late else "ends again and again"
                raise Unavailable(
                    f"{child.part.name} {reason}: {_last_words(self._log_of(child))}",
                    where=str(self._log_of(child)),
                    fix=f"run `kilter {child.part.name}` by itself to see why",
                )

    def _stop(self) -> None:
        self._tell(Happening("stopping"))
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + DRAIN_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in self._children:
            if child.process is not None:
                self._run.remove(child.part.name, child.process.pid)
        self._tell(Happening("stopped"))

    def _log_of(self, child: _Child) -> Path:
        return self._run.path / f"{child.part.name}.log"


def _answers(running: Running, path: str) -> bool:
    if not running.url:
        return True
    parts = urlsplit(running.url)
    if parts.scheme != "http" or parts.hostname is None:
        return True  # with TLS, having said that it listens is enough
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_words(log: Path) -> str:
    """Return what a child said last: its error with what is allowed and the fix, if it ended with one."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-20:]
    except OSError:
        lines = []
    begins = [place for place, line in enumerate(lines) if line.startswith("error:")]
    said = lines[begins[-1] :] if begins else lines[-1:]
    return " ".join(line.strip() for line in said)[:600] or "it said nothing"
