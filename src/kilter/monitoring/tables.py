"""Monitoring's rows: what each day looked like, and the alerts."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Date, Float, Index, Integer, String, Table

from kilter.engines.sql.database import metadata
from kilter.engines.sql.types import Json, UtcDateTime

monitor_days = Table(
    "monitor_days",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("arm", String(16), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("rows", BigInteger, nullable=False),
    Column("labels", BigInteger, nullable=False),
    Column("value_sum", Float(53), nullable=False),
    Column("scored_sum", Float(53), nullable=False),
    Column("label_sum", Float(53), nullable=False),
    Column("log_loss_sum", Float(53), nullable=False),
    Column("brier_sum", Float(53), nullable=False),
)
"""One row per loop, version, role and UTC day: counts and sums, so that days add up. Version 0 is the constant."""

monitor_features = Table(
    "monitor_features",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("feature", String(256), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("psi", Float(53), nullable=False),
    Column("excess", Float(53), nullable=False),
    Column("histogram", Json, nullable=False),
)
"""One row per loop, input (or ``prediction``) and UTC day: drift of the seven days that end with it, against ``version``'s reference."""

monitor_alerts = Table(
    "monitor_alerts",
    metadata,
    Column("id", String(512), primary_key=True),
    Column("loop", String(128), nullable=False),
    Column("version", Integer, nullable=False),
    Column("monitor", String(128), nullable=False),
    Column("raised_at", UtcDateTime, nullable=False),
    Column("cleared_at", UtcDateTime, nullable=True),
    Column("finding", Json, nullable=False),
    Column("latest", Json, nullable=False),
    Index("ix_monitor_alerts_loop_raised_at", "loop", "raised_at"),
)
"""One row per alert, from raised to cleared; at most one of a loop, version and monitor is open."""
