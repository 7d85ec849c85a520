"""The room's rows in SQL: the registered views."""

from __future__ import annotations

from sqlalchemy import Column, String, Table

from kilter.engines.sql.database import Json, UtcDateTime, metadata

feature_views = Table(
    "feature_views",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("table", String(100), nullable=False, index=True),
    Column("spec", Json, nullable=False),
    Column("registered_at", UtcDateTime, nullable=False),
)
"""One row per definition; a changed definition is another row."""
