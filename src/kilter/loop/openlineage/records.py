"""What is said of lineage on its way out."""

from __future__ import annotations

from typing import Any

import msgspec


class LineagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Run events of OpenLineage, and where to go on.

    Args:
        events: Each a JSON object of the spec 2-0-2, in the journal's order.
        next: The place in the journal behind the last one that was read: ``after`` of the next page.
        more: Whether the journal goes on behind it.
    """

    events: tuple[dict[str, Any], ...]
    next: int
    more: bool


class LineageState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the journal has been told.

    Args:
        told: The place up to which it was delivered; 0 when it never was.
        newest: The newest place.
    """

    told: int
    newest: int
