"""How much memory the models of a front hold, which of them go when it is short, and what a process keeps of what it frees.

A model is a process: what it holds is read from the kernel, and all of it is back when the process has gone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_GUESS_FIXED, _GUESS_TIMES = 24 << 20, 3
"""What a worker is taken to hold before it was seen: Python and a library, and a few times the model's file."""


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 16 << 20
"""How much freed memory a process keeps, and up to which size it is kept."""


class Held(NamedTuple):
    """A model that holds memory.

    Args:
        name: Which.
        bytes: How much it holds.
        used: When it was last asked.
        pinned: It is part of a release, or the way back from one: it never goes.
    """

    name: str
    bytes: int
    used: float
    pinned: bool


def to_evict(held: Sequence[Held], need: int, budget: int, now: float, recent: float) -> tuple[tuple[str, ...], bool]:
    """Return which models go so that ``need`` bytes more fit, the least recently used first, and whether they do fit then.

    Args:
        held: All that holds memory.
        need: How much is wanted.
        budget: How much there is.
        now: The time.
        recent: Seconds for which a model stays after it was asked.
    """
    excess = sum(one.bytes for one in held) + need - budget
    names: list[str] = []
    for one in sorted(held, key=lambda one: one.used):
        if excess <= 0:
            break
        if not one.pinned and now - one.used >= recent:
            names.append(one.name)
            excess -= one.bytes
    return tuple(names), excess <= 0


def guessed(size: int, replicas: int) -> int:
    """Return what a model that was never seen in memory is taken to hold.

    Args:
        size: Its file's bytes.
        replicas: How many workers it has.
    """
    return (_GUESS_FIXED + _GUESS_TIMES * size) * replicas


def held_by(pid: int) -> int:
    """Return what a process holds in bytes: its proportional set, in which shared pages are counted once over all.

    Without ``smaps_rollup`` it is the resident set; 0 when the process has gone. Source: proc_pid_smaps(5).
    """
    folder = Path("/proc") / str(pid)
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return _resident(folder)
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def keep_freed() -> None:
    """Have this process keep what it frees for the next batch.

    glibc gives large pieces back at once, and the kernel has to clear each page anew when the next batch touches it. Other C
    libraries have no such setting, and nothing happens. Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, _KEPT)
    mallopt(_MMAP_THRESHOLD, _KEPT)


def measurable() -> bool:
    """Say whether this system tells what a process holds."""
    return Path("/proc/self/statm").exists()


def _resident(folder: Path) -> int:
    try:
        return int((folder / "statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0
