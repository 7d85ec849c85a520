"""Which process runs a trial, in words that another process of the same machine can check."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


def this_process() -> str:
    """Return ``HOST/PID/START``: a number of a process is used again, its start is not."""
    return _named(os.getpid())


def is_gone(process: str) -> bool:
    """Return whether a process has surely ended; one of another machine never has, as far as we know."""
    host, _, rest = process.partition("/")
    number, _, start = rest.partition("/")
    if host != _host() or not number.isdigit() or not start:
        return False
    return _start(int(number)) != start


@cache
def _named(process: int) -> str:
    return f"{_host()}/{process}/{_start(process)}"


@cache
def _host() -> str:
    """Return a name for the machine since its start, and for its container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        space = Path("/proc/self/ns/pid").readlink()
    except OSError:  # no Linux: the lease alone says who is alive
        return ""
    return f"{socket.gethostname()}-{boot}-{space}".replace("/", "-")


def _start(process: int) -> str:
    """Return when a process was started, in ticks since the machine's start; empty when it is not there."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]
