"""Where a log begins, once its oldest segments were removed.

The marker is written before anything is unlinked: after a crash at any moment the log begins where the marker says, what lies
before it is left over and is removed by the next one who looks, and a segment that is missing behind it is damage.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kilter.core.errors import Damaged

_MARKER = "begin"
_LOCK = "removal.lock"


class Begin(NamedTuple):
    """Where a log begins.

    Args:
        segment: The first segment that is kept.
        removed: The position of the last record that was removed; -1 when none was.
    """

    segment: int
    removed: int


WHOLE = Begin(0, -1)
"""A log of which nothing was removed."""


def read_begin(folder: Path) -> Begin:
    """Return where the log of a folder begins.

    Raises:
        Damaged: When the marker can't be understood.
    """
    try:
        text = (folder / _MARKER).read_bytes()
    except FileNotFoundError:
        return WHOLE
    parts = text.split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or not text.endswith(b"\n"):
        raise Damaged(
            "the marker of the log's beginning can't be read",
            where=str(folder / _MARKER),
            fix="restore it from a backup, or write the number of the first segment and the last removed position",
        )
    return Begin(int(parts[0]), int(parts[1]))


def write_begin(folder: Path, begin: Begin) -> None:
    """Let the log begin elsewhere; when this returns, that survives a power cut."""
    aside = folder / f".{_MARKER}.{os.getpid()}"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(descriptor, b"%d %d\n" % begin)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    aside.replace(folder / _MARKER)
    sync_folder(folder)


@contextmanager
def removing(folder: Path) -> Iterator[None]:
    """Be the only one who removes segments of a folder; others wait."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
