"""The evidence about releases, kept for the page and for ``kilter why``."""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table

from kilter.engines.sql.database import metadata
from kilter.engines.sql.types import Json, UtcDateTime

canaries = Table(
    "release_canaries",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("row_count", Integer, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("finding", Json, nullable=False),
    Column("points", Json, nullable=False),
)
"""One row per canary: its latest finding, and its course by day. Both follow from the prediction log and the labels."""

looks = Table(
    "release_looks",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("look", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("finding", Json, nullable=False),
)
"""One row per look at a shadow. A look is taken once: asked for again, it gives what it gave the first time."""
