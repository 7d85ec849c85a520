"""Files of a source, wherever they are, as files of this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

_PIECE = 1 << 20


@contextmanager
def on_disk(file: BinaryIO) -> Iterator[tuple[Path, str, int]]:
    """Have a file's bytes on this machine's disk, with their digest and size.

    Args:
        file: The open file; it is read to its end, in pieces.
    """
    hashing, size = blake3(), 0
    path = Path(file.name) if isinstance(getattr(file, "name", None), str) else None
    if path is not None and path.is_file():
        while piece := file.read(_PIECE):
            hashing.update(piece)
            size += len(piece)
        yield path, hashing.hexdigest(), size
        return
    descriptor, aside = tempfile.mkstemp(prefix="kilter-import-")
    try:
        with os.fdopen(descriptor, "wb") as target:
            while piece := file.read(_PIECE):
                hashing.update(piece)
                size += len(piece)
                target.write(piece)
        yield Path(aside), hashing.hexdigest(), size
    finally:
        os.unlink(aside)  # noqa: PTH108 - what mkstemp made
