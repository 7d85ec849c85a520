"""What runs in a worker process: take a job, run it, answer, wait for the next."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import math
import os
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Literal

import msgspec

_LENGTH = struct.Struct("<Q")
_LONGEST_ERROR = 8000


class Hello(msgspec.Struct, tag="hello"):
    """The parent's first word.

    Args:
        path: Where to import from.
        preload: Modules to import before the first job comes, because it will want them.
    """

    path: list[str]
    preload: list[str] = []


class Work(msgspec.Struct, tag="work"):
    """A job for the worker.

    Args:
        target: ``"package.module:function"``; it takes and returns bytes.
        payload: What the function is given.
        cpu_limit: After how many CPU seconds of the whole process the job is ended, if at all.
    """

    target: str
    payload: bytes
    cpu_limit: float | None = None


class Report(msgspec.Struct, tag="report"):
    """The worker's word: ready, begun, or done with an answer or an error.

    Args:
        stage: What it reports.
        payload: The answer.
        error: What went wrong, with the traceback.
        cpu_seconds: CPU time of the process and its children: since its start if begun, of the job if done.
    """

    stage: Literal["ready", "begun", "done"]
    payload: bytes | None = None
    error: str | None = None
    cpu_seconds: float = 0.0


def send(channel: socket.socket, message: Hello | Work | Report) -> None:
    """Send one message, after its length."""
    data = msgspec.msgpack.encode(message)
    channel.sendall(_LENGTH.pack(len(data)))
    channel.sendall(data)


def receive(channel: socket.socket) -> bytes | None:
    """Return the bytes of one message, or ``None`` when the other side is gone."""
    header = _exactly(channel, _LENGTH.size)
    return None if header is None else _exactly(channel, _LENGTH.unpack(header)[0])


def cpu_seconds() -> float:
    """Return the CPU seconds that this process and its ended children have used."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def main(channel_fd: int, life_fd: int) -> None:
    """Serve jobs until the parent hangs up.

    Args:
        channel_fd: The socket for messages.
        life_fd: A socket on which nothing is ever sent; its end is the parent's end.
    """
    _die_with_parent(life_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    channel = socket.socket(fileno=channel_fd)
    hello = receive(channel)
    if hello is None:
        return
    told = msgspec.msgpack.decode(hello, type=Hello)
    sys.path[:] = told.path
    send(channel, Report("ready"))
    gc.set_threshold(20_000, 10, 10)  # most of what a job allocates are the modules of its framework, which stay
    for module in told.preload:
        with contextlib.suppress(Exception):  # the job that needs it will say what is wrong with it
            importlib.import_module(module)
    while (message := receive(channel)) is not None:
        work = msgspec.msgpack.decode(message, type=Work)
        before = cpu_seconds()
        send(channel, Report("begun", cpu_seconds=before))
        report = _run(work)
        report.cpu_seconds = cpu_seconds() - before
        send(channel, report)


def _run(work: Work) -> Report:
    _limit(work.cpu_limit)
    try:
        answer = _function(work.target)(work.payload)
        if not isinstance(answer, bytes):
            return Report("done", error=f"{work.target} returned {type(answer).__name__}, not bytes")
        return Report("done", payload=answer)
    except BaseException as error:  # noqa: BLE001 -- the edge of a process: whatever a job raises is its outcome
        text = "".join(traceback.format_exception(error))
        return Report("done", error=text[-_LONGEST_ERROR:])
    finally:
        _limit(None)


def _limit(seconds: float | None) -> None:
    """Let the kernel end this process after so many CPU seconds from now, counted over all threads.

    The timer is exact to some ticks of the scheduler; should a profiler inside the job take it over, the limit on the process, which counts whole
    seconds from the process's start, is behind it.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, 0 if seconds is None else max(seconds, 0.001))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = hard if seconds is None else math.ceil(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _function(target: str) -> Callable[[bytes], object]:
    module, _, name = target.partition(":")
    function: Callable[[bytes], object] = getattr(importlib.import_module(module), name)
    return function


def _die_with_parent(descriptor: int) -> None:
    """Let the kernel end this process when the parent's end of a socket closes, however busy the process is.

    SIGIO comes when the other end hangs up, and its default is to end the process.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    try:
        if not os.read(descriptor, 1):
            os._exit(1)  # The parent was gone before the signal was armed.
    except BlockingIOError:
        pass


def _exactly(channel: socket.socket, length: int) -> bytes | None:
    data = bytearray(length)
    view, got = memoryview(data), 0
    while got < length:
        try:
            count = channel.recv_into(view[got:])
        except ConnectionError:
            return None
        if not count:
            return None
        got += count
    return bytes(data)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
