"""The loop's rows: what was declared, and what ``decide`` remembers."""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table

from kilter.engines.sql.database import Json, UtcDateTime, metadata

loops = Table(
    "loops",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("environment", String(32), nullable=False),
    Column("spec_digest", String(64), nullable=False),
    Column("filename", String(512), nullable=False),
    Column("state", Json, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("applied_at", UtcDateTime, nullable=False),
    Column("settled_at", UtcDateTime, nullable=True),
)
"""One row per loop; ``revision`` counts the decisions, ``settled_at`` is the time up to which nothing was left to do."""

specs = Table(
    "specs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("loop", String(128), nullable=False),
    Column("spec", Json, nullable=False),
    Column("source", String(64), nullable=False),
    Column("filename", String(512), nullable=False),
    Column("name", String(128), nullable=False),
    Column("applied_at", UtcDateTime, nullable=False),
)
"""Every declaration ever applied, with the object that holds its source: a version can be rebuilt from its spec's digest."""
