"""The room's rows in SQL: tables and their schema, how far each is flushed, and the appends that were acknowledged."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, String, Table

from kilter.engines.sql.database import Json, UtcDateTime, metadata

data_tables = Table(
    "data_tables",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("key", String(128), nullable=False),
    Column("time", String(128), nullable=False),
    Column("columns", Json, nullable=False),
    Column("flushed", BigInteger, nullable=False),
    Column("version", Integer, nullable=True),
    Column("parts", BigInteger, nullable=False),
    Column("declared_at", UtcDateTime, nullable=False),
    Column("flushed_at", UtcDateTime, nullable=True),
)
"""One row per table; ``columns`` is a list of ``[name, kind]``; batches of the row log up to ``flushed`` are in ``version``."""

data_versions = Table(
    "data_versions",
    metadata,
    Column("table", String(100), primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("parts", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
"""One row per flush or bulk load: which version of the files holds the row log up to which position."""

data_requests = Table(
    "data_requests",
    metadata,
    Column("table", String(100), primary_key=True),
    Column("request", String(200), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
"""Appends whose caller gave them an id: a repeated one is answered and not written again."""
