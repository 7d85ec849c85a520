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


def in_notebook() -> bool:
    """Say whether the program that is running is no file: it is being typed."""
    return getattr(sys.modules.get("__main__"), "__file__", None) is None


def main_source() -> str | None:
    """Return the text of the program that is running, of a notebook the cells that ran; None where neither is known."""
    if in_notebook():
        return _cells()
    try:
        return Path(sys.modules["__main__"].__file__ or "").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _cells() -> str | None:
    """Return what was typed into a notebook so far, as IPython remembers it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    typed = getattr(getattr(shell, "history_manager", None), "input_hist_raw", None)
    if not typed:
        return None
    return "".join(f"# In [{place}]\n{cell}\n\n" for place, cell in enumerate(typed) if cell)
