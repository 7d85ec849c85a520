"""How busy the machine is while a run goes on: ``system/...`` metrics, read from the kernel every few seconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kilter.tracking.sdk.gpu import nvml, usage

EVERY = 10.0
"""Seconds between two looks, unless said otherwise."""

_SECTOR = 512


class _Counters(NamedTuple):
    at: float
    busy: float
    total: float
    own: float
    read: float
    written: float
    received: float
    sent: float


def seconds_between(given: bool | float | None) -> float:
    """Return how often to look, 0 for never: as given, else ``KILTER_SYSTEM_METRICS``, else every ten seconds."""
    if given is None:
        said = os.environ.get("KILTER_SYSTEM_METRICS", "").strip().lower()
        if said in {"0", "false", "no", "off"}:
            return 0.0
        with suppress(ValueError):
            return max(float(said), 0.1)
        return EVERY
    if isinstance(given, bool):
        return EVERY if given else 0.0
    return max(float(given), 0.1) if given > 0 else 0.0


class Watcher:
    """Looks at the machine from a thread of its own.

    Args:
        say: Told the values by name, without the ``system/`` in front.
        every: Seconds between two looks.
    """

    def __init__(self, say: Callable[[dict[str, float]], object], every: float) -> None:
        self._say = say
        self._every = every
        self._over = threading.Event()
        self._began = time.monotonic()
        self._before = _look()
        self._nvml: Any = None
        self._thread = threading.Thread(target=self._watch, name="kilter-system", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look once more, and end."""
        self._over.set()
        self._thread.join(1.0)

    def _watch(self) -> None:
        self._nvml = nvml()
        while not self._over.wait(self._every):
            self._tell()
        if time.monotonic() - self._began >= 1.0:  # of a shorter run there is nothing to see
            self._tell()

    def _tell(self) -> None:
        now = _look()
        values = _between(self._before, now)
        self._before = now
        if self._nvml is not None:
            values |= usage(self._nvml)
        self._say(values)


def _between(before: _Counters, now: _Counters) -> dict[str, float]:
    seconds = max(now.at - before.at, 1e-3)
    values = {
        "process_cpu_percent": 100 * (now.own - before.own) / seconds,
        "disk_read_mb_s": (now.read - before.read) / seconds / 1e6,
        "disk_write_mb_s": (now.written - before.written) / seconds / 1e6,
        "network_in_mb_s": (now.received - before.received) / seconds / 1e6,
        "network_out_mb_s": (now.sent - before.sent) / seconds / 1e6,
    }
    if now.total > before.total:
        values["cpu_percent"] = 100 * (now.busy - before.busy) / (now.total - before.total)
    return {**values, **_memory()}


def _look() -> _Counters:
    busy = total = read = written = received = sent = 0.0
    with suppress(OSError, ValueError, IndexError):
        fields = [float(value) for value in _text("/proc/stat").split("\n", 1)[0].split()[1:9]]
        total, busy = sum(fields), sum(fields) - fields[3] - fields[4]
    with suppress(OSError, ValueError, IndexError):
        whole = {path.name for path in Path("/sys/block").iterdir() if not path.name.startswith(("loop", "ram"))}
        for line in _text("/proc/diskstats").splitlines():
            parts = line.split()
            if parts[2] in whole:
                read += float(parts[5]) * _SECTOR
                written += float(parts[9]) * _SECTOR
    with suppress(OSError, ValueError, IndexError):
        for line in _text("/proc/net/dev").splitlines()[2:]:
            name, _, counters = line.partition(":")
            if name.strip() != "lo":
                parts = counters.split()
                received += float(parts[0])
                sent += float(parts[8])
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return _Counters(time.monotonic(), busy, total, own, read, written, received, sent)


def _memory() -> dict[str, float]:
    values: dict[str, float] = {}
    with suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in _text("/proc/meminfo").splitlines() if ":" in line)
        total, free = (float(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        values["memory_used_mb"] = (total - free) / 1e6
        values["memory_percent"] = 100 * (total - free) / total
    with suppress(OSError, ValueError, IndexError):
        values["process_memory_mb"] = float(_text("/proc/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return values


def _text(path: str) -> str:
    return Path(path).read_text(encoding="ascii", errors="replace")
