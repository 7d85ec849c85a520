"""The registry's rows."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Index, Integer, String, Table, Text, UniqueConstraint

from kilter.engines.sql.database import metadata
from kilter.engines.sql.types import Json, UtcDateTime

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself only in an INTEGER PRIMARY KEY

models = Table(
    "models",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("latest", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
"""One row per model; ``latest`` is the newest version's number, and hands out the next."""

versions = Table(
    "model_versions",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("bundle", String(64), nullable=False),
    Column("run", String(64), nullable=False),
    Column("lineage", Json, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("key", String(200), nullable=True),
    Column("stage", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    ForeignKeyConstraint(["model"], ["models.name"]),
    UniqueConstraint("model", "key"),
    Index(None, "run"),
    Index(None, "bundle"),
)
"""``stage`` and ``reason`` repeat the newest row of ``model_stages``; nothing else is ever updated."""

stages = Table(
    "model_stages",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("model", String(128), nullable=False),
    Column("version", Integer, nullable=False),
    Column("stage", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["model_versions.model", "model_versions.version"]),
    Index(None, "model", "version"),
)

aliases = Table(
    "model_aliases",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("alias", String(32), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["model_versions.model", "model_versions.version"]),
)
"""The primary key is the rule: a model has one champion."""

evidence = Table(
    "model_evidence",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("model", String(128), nullable=False),
    Column("version", Integer, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("findings", Json, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["model_versions.model", "model_versions.version"]),
    Index(None, "model", "version"),
)

approvals = Table(
    "model_approvals",
    metadata,
    Column("model", String(128), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("by", String(200), primary_key=True),
    Column("comment", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["model_versions.model", "model_versions.version"]),
)
