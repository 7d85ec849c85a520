"""The evidence about releases, kept for the page and for ``kilter why``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table, UniqueConstraint

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
    Column("guards", Json, nullable=False),
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

observations = Table(
    "release_observations",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("loop", String(128), nullable=False),
    Column("name", String(100), nullable=False),
    Column("prediction", String(100), nullable=False),
    Column("key", String(500), nullable=False),
    Column("value", Float(53), nullable=False),
    Column("request", String(200), nullable=True),
    Column("at", UtcDateTime, nullable=False),
    UniqueConstraint("loop", "request"),
    Index(None, "loop", "name", "at"),
)
"""Values of business metrics, in the order of their arrival; one names a prediction or a key, never both."""

experiments = Table(
    "release_experiments",
    metadata,
    Column("loop", String(128), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("plan", Json, nullable=False),
    Column("weights", Json, nullable=False),
    Column("starts", Json, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("weighed_at", UtcDateTime, nullable=False),
    Column("stopped_at", UtcDateTime, nullable=True),
    Column("reason", String(500), nullable=False),
)
"""One row per experiment: its plan, the arms' shares now, and where the prediction logs stood when it began."""
