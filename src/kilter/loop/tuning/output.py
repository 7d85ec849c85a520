"""What a trial prints, kept with its run and not on the terminal: the newest part of it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

KEPT: Final = "output.log"
_MOST: Final = 256_000


def tail(source: IO[bytes]) -> bytes:
    """Return the newest part of an output."""
    size = source.seek(0, os.SEEK_END)
    source.seek(max(size - _MOST, 0))
    return source.read()


def tail_of(path: Path) -> bytes:
    """Return the newest part of an output that was written to a file."""
    with path.open("rb") as source:
        return tail(source)


@contextmanager
def captured() -> Iterator[IO[bytes]]:
    """Let everything that this process and its libraries print go to a file; native libraries print past Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = (os.dup(1), os.dup(2))
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield sink
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, before in zip((1, 2), saved, strict=True):
                os.dup2(before, number)
                os.close(before)
