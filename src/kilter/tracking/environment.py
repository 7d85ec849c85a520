"""What a run was made with: the installed distributions and the source, by digest."""

from __future__ import annotations

import platform
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from kilter.core.digests import digest

_SEPARATORS = re.compile(r"[-_.]+")


@cache
def environment_lock() -> bytes:
    """Return the interpreter and every installed distribution as lines of ``name==version``, sorted.

    It is read once per process: what is imported already does not change when something is installed beside it.
    """
    found = {
        f"{_SEPARATORS.sub('-', name).lower()}=={distribution.version}"
        for distribution in metadata.distributions()
        if (name := distribution.metadata["Name"])
    }
    lines = [f"python=={platform.python_version()}", *sorted(found)]
    return "".join(f"{line}\n" for line in lines).encode()


def code_digest(source: str) -> str:
    """Return the digest of a source text."""
    return digest(source.encode())


def main_source() -> str | None:
    """Return the text of the program that is running, or None in a notebook or an interactive session."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
