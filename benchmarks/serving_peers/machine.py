"""What a benchmark has to know of its machine: the cores, what processes used, and whether somebody else is working."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_SPIN_TURNS, _SPIN_STEPS = 8, 200_000


class Cores(NamedTuple):
    """Where the two sides run."""

    server: int
    client: int


def two_cores() -> Cores:
    """Return the first and the last core that this process may use."""
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    return Cores(found[0], found[-1])


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run this thread on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Spin(NamedTuple):
    """How a fixed piece of work went.

    Args:
        cpu_ms: What it used: it grows when the core is slower than it was.
        share: Of the time that it took: below one, somebody else had the core.
    """

    cpu_ms: float
    share: float


def spin(core: int) -> Spin:
    """Do a fixed piece of work on a core: median of its turns."""
    turns = []
    with pinned(core):
        for _ in range(_SPIN_TURNS):
            began, used = time.perf_counter(), time.thread_time()
            sum(range(_SPIN_STEPS))
            sum(value * value for value in range(_SPIN_STEPS // 10))
            turns.append((time.thread_time() - used, time.perf_counter() - began))
    used = sum(cpu for cpu, _ in turns)
    return Spin(
        round(statistics.median(cpu for cpu, _ in turns) * 1e3, 3), round(used / sum(wall for _, wall in turns), 3)
    )


def noise(spins: Iterable[Spin]) -> dict[str, float | bool]:
    """Say how quiet the machine was: the least share of a core, and how far its speed moved."""
    seen = list(spins)
    speeds = [one.cpu_ms for one in seen]
    least, moved = min(one.share for one in seen), max(speeds) / min(speeds) - 1.0
    return {"least_share": least, "speed_moved": round(moved, 3), "quiet": least >= 0.95 and moved <= 0.10}


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def cpu_of(pid: int) -> float:
    """Return the seconds of user and system time of a process and its descendants, with those that have ended."""
    used = 0.0
    for one in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_bytes().rpartition(b")")[2].split()
            used += sum(int(field) for field in fields[11:15]) * _TICK
    return used


class Scheduled(NamedTuple):
    """Seconds that a process ran, and that it waited for a core, since it began; and when that was read."""

    run: float
    wait: float
    at: float

    def since(self, before: Scheduled) -> dict[str, float]:
        """Return the shares of the time since then in which it ran, waited for a core, and had nothing to do."""
        passed = self.at - before.at
        run, wait = (self.run - before.run) / passed, (self.wait - before.wait) / passed
        return {"run": round(run, 3), "wait": round(wait, 3), "idle": round(max(1.0 - run - wait, 0.0), 3)}


def scheduled(pid: int) -> Scheduled:
    """Return how a process has been scheduled, all its threads that live."""
    run = wait = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            ran, waited, _ = (task / "schedstat").read_text().split()
            run, wait = run + int(ran), wait + int(waited)
    return Scheduled(run / 1e9, wait / 1e9, time.perf_counter())


def busy() -> float:
    """Return the seconds that all cores together have been busy since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) * _TICK
