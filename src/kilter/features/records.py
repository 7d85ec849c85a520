"""What the features room answers with."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kilter.features.spec import ViewSpec


class RegisteredView(msgspec.Struct, frozen=True):
    """A registered view.

    Args:
        digest: Of its definition.
        spec: The definition.
        registered_at: When it was registered.
    """

    digest: str
    spec: ViewSpec
    registered_at: datetime


class Freshness(msgspec.Struct, frozen=True):
    """How far the online side of a view has come.

    Args:
        digest: The view.
        position: Of the last batch of the row log that changed it.
        at: When that batch arrived.
        behind: Batches of its table that came after and wait to be read.
    """

    digest: str
    position: int
    at: datetime
    behind: int


class FeatureRow(msgspec.Struct, frozen=True):
    """The features of one entity as of a moment; null where a window has no value."""

    entity: str
    at: datetime
    values: dict[str, float | None]
