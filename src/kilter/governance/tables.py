"""Governance's rows."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, String, Table

from kilter.engines.sql.database import metadata
from kilter.engines.sql.types import Json, UtcDateTime

_NUMBER = BigInteger().with_variant(Integer, "sqlite")

people = Table(
    "people",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("projects", Json, nullable=False),
    Column("email", String(320), nullable=False),
    Column("subject", String(600), nullable=True, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("disabled_at", UtcDateTime, nullable=True),
    Column("seen_at", UtcDateTime, nullable=True),
)

person_tokens = Table(
    "person_tokens",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("person", String(64), nullable=False),
    Column("label", String(200), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=True),
    Column("revoked_at", UtcDateTime, nullable=True),
    ForeignKeyConstraint(["person"], ["people.name"]),
    Index(None, "person"),
)
"""The digest is all that is kept of a token."""
