"""The registry's rows."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

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

registered = Table(
    "registered_models",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(256), nullable=False, unique=True),
    Column("owner", String(8), nullable=False),
    Column("description", Text, nullable=False),
    Column("latest", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
)
"""Every model that people see, whoever made it: ``owner`` is ``loop`` for those of ``models``, else ``client``. The id outlives a
name: a renamed model keeps its history, and one that is made again under an old name begins at version 1 with an empty one."""

entries = Table(
    "registered_versions",
    metadata,
    Column("model", ForeignKey("registered_models.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("run", String(256), nullable=False),
    Column("logged_model", String(64), nullable=False),
    Column("run_link", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("user", String(200), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("status", String(24), nullable=False),
    Column("approval", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Index(None, "run"),
    Index(None, "changed_at"),
)
"""What can be said about a version and changed later. The bundle and the lineage of one that a loop made are in ``model_versions``;
``source`` and ``location`` are empty then."""

model_tags = Table(
    "registered_model_tags",
    metadata,
    Column("model", ForeignKey("registered_models.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
    Index(None, "name"),
)

version_tags = Table(
    "registered_version_tags",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["registered_versions.model", "registered_versions.version"]),
    Index(None, "name"),
)

free_aliases = Table(
    "registered_aliases",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("alias", String(255), primary_key=True),
    Column("version", Integer, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["registered_versions.model", "registered_versions.version"]),
)
"""Aliases that people set; a loop's ``champion`` and ``challenger`` are in ``model_aliases`` alone."""

changes = Table(
    "registry_changes",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("model", String(64), nullable=False),
    Column("name", String(256), nullable=False),
    Column("version", Integer, nullable=True),
    Column("what", String(16), nullable=False),
    Column("field", String(256), nullable=False),
    Column("before", Text, nullable=True),
    Column("after", Text, nullable=True),
    Column("by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index(None, "model", "id"),
    Index(None, "name"),
)
"""Who changed what, when and why. Rows are only added: they stay when the model is deleted."""

webhooks = Table(
    "registry_webhooks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("url", Text, nullable=False),
    Column("events", Json, nullable=False),
    Column("description", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
)

deliveries = Table(
    "registry_deliveries",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("webhook", ForeignKey("registry_webhooks.id"), nullable=False),
    Column("key", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "due_at"),
    Index(None, "webhook"),
)
"""The outbox: written with the change that it tells of, and emptied by whichever server comes first."""
