"""Sortable ids for rows: a prefix, the time in milliseconds, and randomness (the layout of UUIDv7)."""

from __future__ import annotations

import secrets
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str, at: datetime) -> str:
    """Return a new id such as ``run_01j9z4k0w8f3q2m7x5c1``; ids sort by ``at``.

    Args:
        prefix: The kind of row, a short lower-case word.
        at: The time of creation.
    """
    number = (int(at.timestamp() * 1000) << 50) | secrets.randbits(50)
    letters = []
    for _ in range(20):
        number, rest = divmod(number, 32)
        letters.append(_ALPHABET[rest])
    return f"{prefix}_{''.join(reversed(letters))}"
