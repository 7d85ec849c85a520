"""Whose word is enough to run code, or to reach another machine: digests that the user of this machine has packaged.

Formats that are plain data need no trust. A function's source is code, and an upstream is an address; a worker takes them
only when their digest stands in a file that nobody but its owner can write, and that packaging them here writes to.
"""

from __future__ import annotations

import os
from pathlib import Path

from kilter.core.digests import digest, short
from kilter.core.errors import Forbidden, Unavailable


def trust(data: bytes) -> str:
    """Trust bytes from now on, as the user of this machine; return their digest.

    Raises:
        Unavailable: When the file of trusted digests can't be written.
    """
    name = digest(data)
    file = _file()
    if name in _trusted():
        return name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{name}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(f"the file can't be written: {error.strerror}", where=str(file)) from error
    return name


def require_trust(data: bytes, what: str) -> None:
    """Refuse bytes that the user of this machine has not packaged.

    Args:
        data: The bytes.
        what: What they are, for the message: ``a function``.

    Raises:
        Forbidden: When their digest is not trusted, or others could have written that it is.
    """
    name = digest(data)
    if name not in _trusted():
        raise Forbidden(
            f"{what} with the digest {short(name)} was not packaged by this user on this machine",
            where="model",
            fix=f"package it here, or add its digest to {_file()} after reading it",
        )


def _trusted() -> frozenset[str]:
    file = _file()
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if status.st_mode & 0o022 or status.st_uid not in {os.getuid(), 0}:
                raise Forbidden(
                    "others can write the file of trusted digests", where=str(file), fix=f"chmod 600 {file}"
                )
            return frozenset(opened.read().decode("ascii", "replace").split())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise Unavailable(f"the file can't be read: {error.strerror}", where=str(file)) from error


def _file() -> Path:
    given = os.environ.get("KILTER_TRUST", "")
    return Path(given) if given else Path("~/.kilter/trusted").expanduser()
