"""The SQL table of the operations: results of writes by idempotency key."""

from __future__ import annotations

from sqlalchemy import Column, LargeBinary, String, Table

from kilter.engines.sql.database import metadata
from kilter.engines.sql.types import UtcDateTime

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("operation", String(200), nullable=False),
    Column("arguments", String(64), nullable=False),
    Column("boot", String(64), nullable=False),
    Column("result", LargeBinary, nullable=True),
    Column("at", UtcDateTime, nullable=False, index=True),
)
