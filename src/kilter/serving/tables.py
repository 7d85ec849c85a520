"""The endpoints' rows: what each is to do, how far each front has followed, who may call it, who does, and what is recorded."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table, Text

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

endpoint_recording = Table(
    "endpoint_recording",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("rule", Json, nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)
"""One row per endpoint of which not everything is recorded: which inputs are left out, hashed or sampled."""

endpoint_consumers = Table(
    "endpoint_consumers",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("client", String(64), primary_key=True),
    Column("agent", String(32), primary_key=True),
    Column("protocol", String(32), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("last_seen", UtcDateTime, nullable=False),
)
"""One row per endpoint, client, kind of program and protocol; all fronts add to it."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("endpoints", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("revoked_at", UtcDateTime, nullable=True),
)
"""One row per key that was ever given out; the key itself is not here, only its digest."""

log_readers = Table(
    "log_readers",
    metadata,
    Column("log", String(128), primary_key=True),
    Column("reader", String(200), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
"""One row per log and reader: it will never again ask for a record up to ``position``, not even after a restart."""
