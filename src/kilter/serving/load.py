"""A closed load on a front: so many callers, each with one request under way; what comes back, how fast, and at what cost.

A closed load finds the capacity: a server that falls behind is asked less, so that nothing piles up and each point of the curve
is a steady state. It says nothing of what happens beyond the capacity.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from kilter.core.errors import Unavailable

_END = b"\r\n\r\n"
_WARM_SHARE = 0.2
"""This part of a point's time goes before, and isn't counted."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What a number of callers got.

    Args:
        callers: How many asked at the same time.
        rows: The rows of each request.
        requests_per_second: Answered requests.
        rows_per_second: Answered rows.
        p50_ms: Median time of a request.
        p99_ms: 99th percentile.
        cpu_us: Processor time of all the server's processes per request, in microseconds; None where it can't be read.
        refused: Requests that were not answered with 200.
    """

    callers: int
    rows: int
    requests_per_second: float
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    refused: int


class _Caller(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, requests: Sequence[bytes], place: int, ended: Callable[[], bool]) -> None:
        self._requests = requests
        self._next = place
        self._ended = ended
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self.taken: list[tuple[float, float, bool]] = []
        """When an answer came, how long it took, and whether it was one."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(_END)
        if head < 0:
            return
        length = self._buffer.lower().find(b"content-length:", 0, head)
        size = int(self._buffer[length + 15 : self._buffer.find(b"\r", length)]) if length >= 0 else 0
        if len(self._buffer) < head + len(_END) + size:
            return
        now = time.perf_counter()
        self.taken.append((now, now - self._sent, self._buffer[9:12] == b"200"))
        self._buffer = b""
        if self._ended():
            self._close()
        else:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            reason = "" if exc is None else f": {type(exc).__name__}"
            self.done.set_exception(Unavailable(f"the front closed a connection under load{reason}", where="bench"))

    def _ask(self) -> None:
        assert self._transport is not None  # noqa: S101 - a caller asks while it is connected
        self._next = (self._next + 1) % len(self._requests)
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._next])

    def _close(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        if self._transport is not None:
            self._transport.close()


def ask(port: int, requests: Sequence[bytes], callers: int, rows: int, seconds: float, pid: int) -> Point:
    """Let callers ask a front for some seconds.

    Args:
        port: Where it listens, on this machine.
        requests: Whole HTTP/1.1 requests, asked in turn.
        callers: How many ask at the same time.
        rows: The rows of each request.
        seconds: For how long.
        pid: The front's process.

    Raises:
        Unavailable: When the front closes a connection, or answers nothing.
    """
    return asyncio.run(_ask(port, requests, callers, rows, seconds, pid))


async def _ask(port: int, requests: Sequence[bytes], callers: int, rows: int, seconds: float, pid: int) -> Point:
    loop = asyncio.get_running_loop()
    begin = time.perf_counter() + seconds * _WARM_SHARE
    end = begin + seconds
    made: list[_Caller] = []

    def ended() -> bool:
        return time.perf_counter() >= end

    for place in range(callers):
        protocol = partial(_Caller, requests, place, ended)
        _, caller = await loop.create_connection(protocol, "127.0.0.1", port)
        made.append(caller)
    await asyncio.sleep(begin - time.perf_counter())
    before = cpu_seconds(pid)
    await asyncio.sleep(end - time.perf_counter())
    after = cpu_seconds(pid)
    await asyncio.gather(*(caller.done for caller in made))
    taken = [one for caller in made for one in caller.taken if begin <= one[0] < end]
    answered = np.array([duration for _, duration, good in taken if good])
    if not len(answered):
        raise Unavailable("the front answered nothing", where="bench", fix="ask for fewer rows, or for longer")
    return Point(
        callers=callers,
        rows=rows,
        requests_per_second=len(answered) / seconds,
        rows_per_second=len(answered) * rows / seconds,
        p50_ms=float(np.quantile(answered, 0.5)) * 1e3,
        p99_ms=float(np.quantile(answered, 0.99)) * 1e3,
        cpu_us=None if before is None or after is None else (after - before) / len(taken) * 1e6,
        refused=len(taken) - len(answered),
    )


def cpu_seconds(pid: int) -> float | None:
    """Return the processor time of a process and all below it; None where the system doesn't tell."""
    ticks = 0
    try:
        for one in _family(pid):
            fields = Path(f"/proc/{one}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    except OSError:
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="utf-8").split():
            yield from _family(int(child))
