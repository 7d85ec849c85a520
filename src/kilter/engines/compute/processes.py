"""Warm worker processes on this machine."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.compute.worker import Hello, Report, Work, receive, send

_TARGET = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
_GRACE_SECONDS = 5.0
_LIMITS = (-signal.SIGPROF, -signal.SIGXCPU)


class Outcome(msgspec.Struct, frozen=True):
    """How a job ended.

    Args:
        payload: The function's answer, or ``None`` if it failed.
        error: Why it failed: the traceback, or what happened to the worker; ``None`` if it did not.
        cpu_seconds: The CPU time it used, in all threads and ended children.
        lost: The worker went away for no reason of the job's own (killed, never started): it may be run again.
    """

    payload: bytes | None
    error: str | None
    cpu_seconds: float
    lost: bool = False


class Job:
    """A function that was submitted."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._ended = threading.Event()
        self._outcome = Outcome(None, "not ended", 0.0)

    def done(self) -> bool:
        """Return whether the outcome is known."""
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> Outcome:
        """Wait for the outcome.

        Args:
            timeout: How many seconds to wait at most.

        Raises:
            Unavailable: When the job has not ended by then; it goes on.
        """
        if not self._ended.wait(timeout):
            raise Unavailable("the job has not ended yet", where=self.work.target, fix="wait longer")
        return self._outcome

    def end(self, outcome: Outcome) -> None:
        """Note the outcome; only the pool calls this, once."""
        self._outcome = outcome
        self._ended.set()


class Compute:
    """A pool of worker processes that stay warm between jobs and never outlive this one.

    Args:
        workers: How many jobs run at once.
        preload: Modules that each worker imports while it waits for its first job.
    """

    def __init__(self, workers: int = 1, preload: Sequence[str] = ()) -> None:
        if workers < 1:
            raise InvalidInput(f"{workers} workers", where="compute", allowed="1 or more")
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._workers = [_Worker(self._closing, list(preload)) for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), name="kilter-compute", daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, target: str, payload: bytes, cpu_limit: float | None = None) -> Job:
        """Run a function in a worker.

        Args:
            target: ``"package.module:function"``, importable here; it takes bytes and returns bytes.
            payload: What the function is given.
            cpu_limit: End the job after so many CPU seconds, counted over all its threads.

        Raises:
            InvalidInput: When the target or the limit make no sense.
            Conflict: When the pool is closed.
        """
        if not _TARGET.match(target):
            raise InvalidInput(f"{target!r} names no function", where="compute", allowed='"package.module:function"')
        if cpu_limit is not None and not cpu_limit > 0:
            raise InvalidInput(f"{cpu_limit}", where="cpu_limit", allowed="more than 0 seconds")
        if self._closing.is_set():
            raise Conflict("the pool is closed", where="compute")
        job = Job(Work(target, payload, cpu_limit))
        self._jobs.put(job)
        return job

    def cancel(self, job: Job) -> None:
        """End a job whose outcome no longer matters; its worker is replaced."""
        for worker in self._workers:
            worker.cancel(job)

    def close(self) -> None:
        """End all workers; jobs that have not ended get an error."""
        self._closing.set()
        for worker in self._workers:
            worker.stop()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(_GRACE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self, worker: _Worker) -> None:
        while True:
            worker.warm()
            job = self._jobs.get()
            if job is None or self._closing.is_set():
                if job is not None:
                    job.end(Outcome(None, "the pool was closed before the job began", 0.0, lost=True))
                    continue
                break
            job.end(worker.run(job))
        worker.stop()


class _Worker:
    """One process and the two sockets to it."""

    def __init__(self, closing: threading.Event, preload: list[str]) -> None:
        self._closing = closing
        self._preload = preload
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._life: socket.socket | None = None
        self._job: Job | None = None

    def warm(self) -> bool:
        """Make sure that a process is there; return whether it is."""
        with self._guard:
            if self._closing.is_set():
                return False
            if self._process is not None and self._process.poll() is None:
                return True
            self._drop()
            ours, theirs = socket.socketpair()
            life, their_life = socket.socketpair()
            try:
                descriptors = (theirs.fileno(), their_life.fileno())
                self._process = subprocess.Popen(  # noqa: S603 -- our own module, and numbers
                    [sys.executable, "-m", __spec__.name.replace("processes", "worker"), *map(str, descriptors)],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # What a job prints must not end up in the parent's own output.
                )
            except OSError:
                ours.close()
                life.close()
                return False
            finally:
                theirs.close()
                their_life.close()
            self._channel, self._life = ours, life
        return self._greet(ours)

    def run(self, job: Job) -> Outcome:
        """Run a job and return its outcome, whatever happens to the process."""
        for _ in range(2):
            if not self.warm():
                continue
            channel = self._channel
            if channel is None:
                continue
            self._job = job
            try:
                outcome = self._ask(channel, job.work)
            finally:
                self._job = None
            if outcome is not None:
                return outcome
        return Outcome(
            None,
            "the pool was closed" if self._closing.is_set() else "no worker process could be started",
            0.0,
            lost=True,
        )

    def cancel(self, job: Job) -> None:
        """End the process if it runs this job."""
        with self._guard:
            if self._job is job and self._process is not None and self._process.poll() is None:
                self._process.kill()

    def stop(self) -> None:
        """End the process, kindly at first."""
        with self._guard:
            self._drop()

    def _greet(self, channel: socket.socket) -> bool:
        try:
            send(channel, Hello(list(sys.path), self._preload))
            return receive(channel) is not None
        except OSError:
            return False

    def _ask(self, channel: socket.socket, work: Work) -> Outcome | None:
        """Return the outcome, or ``None`` if the process had died before the job began: it may be tried again."""
        before: float | None = None
        try:
            send(channel, work)
            while (message := receive(channel)) is not None:
                report = msgspec.msgpack.decode(message, type=Report)
                if report.stage == "done":
                    return Outcome(report.payload, report.error, report.cpu_seconds)
                before = report.cpu_seconds
        except OSError:
            pass
        status, used = self._reap()
        if before is None:
            return None
        # A signal other than that of a limit comes from outside: an operator, the kernel short of memory, a shutdown.
        lost = status < 0 and status not in _LIMITS
        return Outcome(None, _reason(status, work), max(0.0, used - before), lost=lost)

    def _reap(self) -> tuple[int, float]:
        """Wait for the dead process and return its status and the CPU seconds of its whole life."""
        with self._guard:
            process = self._process
            if process is None:
                return -signal.SIGTERM, 0.0
            if process.returncode is not None:
                return process.returncode, 0.0
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except ChildProcessError:
                return -signal.SIGKILL, 0.0
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for end in (self._channel, self._life):
            if end is not None:
                end.close()
        self._channel = self._life = None


def _reason(status: int, work: Work) -> str:
    if status in _LIMITS:
        return f"the job was ended after its limit of {work.cpu_limit:g} CPU seconds"
    if status < 0:
        return f"the worker was killed by {signal.Signals(-status).name}"
    return f"the worker exited with status {status}"
