"""Durations as people write them: ``"30s"``, ``"15m"``, ``"12h"``, ``"7d"``, ``"2w"``."""

from __future__ import annotations

import re
from datetime import timedelta

from kilter.core.errors import InvalidInput

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*$")

ALLOWED = 'a number and a unit of ms, s, m, h, d or w, like "30s", "12h" or "7d"'


def parse_duration(text: str, *, where: str = "duration") -> timedelta:
    """Return the duration that ``text`` names.

    Args:
        text: A number and a unit: ``"30s"``, ``"15m"``, ``"12h"``, ``"7d"``, ``"2w"``.
        where: What is being parsed, for the error.

    Raises:
        InvalidInput: When the text is not a positive duration.
    """
    found = _PATTERN.match(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidInput(f"{text!r} is not a duration", where=where, allowed=ALLOWED)
    seconds = float(found.group(1)) * _UNITS[found.group(2)]
    if seconds <= 0:
        raise InvalidInput(f"{text!r} is not a positive duration", where=where, allowed=ALLOWED)
    return timedelta(seconds=seconds)


def format_duration(span: timedelta) -> str:
    """Return the shortest whole-number spelling of ``span``: ``"2d"`` rather than ``"48h"``."""
    seconds = span.total_seconds()
    for unit in ("w", "d", "h", "m", "s"):
        size = _UNITS[unit]
        if unit != "w" and seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"
