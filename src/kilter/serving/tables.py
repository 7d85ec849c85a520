"""The endpoints' rows: what each is to do, and how far each front has followed."""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table, Text

from kilter.engines.sql.database import metadata
from kilter.engines.sql.types import Json, UtcDateTime

endpoint_plans = Table(
    "endpoint_plans",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("plan", Json, nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)
"""One row per endpoint: the desired traffic. ``generation`` rises by one with every change."""

endpoint_status = Table(
    "endpoint_status",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("front", String(64), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("applied_generation", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
"""One row per endpoint and front: the generation it serves, and why it serves no newer one."""
