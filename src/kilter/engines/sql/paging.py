"""In which order rows come, and where a page of them ends."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from kilter.core.digests import digest
from kilter.core.errors import InvalidInput
from kilter.engines.sql.types import json_text

_TERM = re.compile(
    r"""\s*(?P<minus>-?)\s*(?P<field>(?:[A-Za-z]+\.)?(?:`[^`]+`|"[^"]+"|[\w/.\-]+))(?:\s+(?P<way>asc|desc))?\s*(?:,|$)""",
    re.VERBOSE | re.IGNORECASE,
)
_FARTHEST = 10_000_000


@dataclass(frozen=True)
class Wanted:
    """One field of an order, as it was written.

    Args:
        field: The field: ``metrics.auc``.
        descending: The greatest first.
    """

    field: str
    descending: bool


def wanted(text: str, allowed: str) -> tuple[Wanted, ...]:
    """Return the fields of an order: ``-metrics.auc, started`` or ``name DESC``.

    Args:
        text: The order.
        allowed: What may be asked for, for the words of a refusal.

    Raises:
        InvalidInput: When it can't be read.
    """
    found: list[Wanted] = []
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or (match["minus"] and match["way"]):
            raise InvalidInput(f"can't read the order {text[at : at + 40]!r}", where="order", allowed=allowed)
        found.append(Wanted(match["field"], bool(match["minus"]) or (match["way"] or "").lower() == "desc"))
        at = match.end()
    return tuple(found)


class Place:
    """Where a page ends, as an opaque text.

    Args:
        order: What the pages are in the order of: a place in one order means nothing in another.
    """

    def __init__(self, order: str) -> None:
        self._name = digest(order.encode())[:12]

    def start(self, cursor: str | None) -> int:
        """Return how many come before a cursor.

        Raises:
            InvalidInput: When it can't be read, or is of another order.
        """
        if cursor is None:
            return 0
        found = self.read(cursor)
        if not isinstance(found, int) or not 0 <= found <= _FARTHEST:
            raise unreadable()
        return found

    def cursor(self, place: object) -> str:
        """Return a place as a text."""
        return base64.urlsafe_b64encode(json_text([self._name, place]).encode()).decode()

    def read(self, cursor: str) -> Any:
        """Return the place that a text says.

        Raises:
            InvalidInput: When it can't be read, or is of another order.
        """
        try:
            name, place = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode()), type=tuple[str, Any])
        except (ValueError, TypeError, binascii.Error, msgspec.MsgspecError) as error:
            raise unreadable() from error
        if name != self._name:
            raise InvalidInput("the cursor is of another order", where="cursor", fix="start again without one")
        return place


def unreadable() -> InvalidInput:
    """Return what is said of a cursor that can't be read."""
    return InvalidInput("the cursor can't be read", where="cursor", fix="start again without one")
