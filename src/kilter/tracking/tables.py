"""The rows of tracking."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    event,
)

from kilter.core.clock import SystemClock
from kilter.engines.sql.database import metadata
from kilter.engines.sql.types import Json, UtcDateTime

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself only in an INTEGER PRIMARY KEY

experiments = Table(
    "experiments",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("name", String(500), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime, nullable=True),
)
"""Number 0 is named ``Default``, and is there from the beginning: clients of MLflow take it where nobody names one."""


@event.listens_for(experiments, "after_create")
def _make_default(_table: Table, connection: Connection, **_options: object) -> None:
    now = SystemClock().now()
    connection.execute(experiments.insert().values(id=0, name="Default", created_at=now, changed_at=now))


experiment_tags = Table(
    "experiment_tags",
    metadata,
    Column("experiment", ForeignKey("experiments.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("experiment", String(500), nullable=False),
    Column("name", String(8000), nullable=False),
    Column("status", String(16), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, nullable=True),
    Column("lease_until", UtcDateTime, nullable=False),
    Column("data_digest", String(64), nullable=False),
    Column("feature_digest", String(64), nullable=False),
    Column("code_digest", String(64), nullable=False),
    Column("environment", String(64), nullable=False),
    Column("seed", BigInteger, nullable=True),
    Column("spec", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("key", String(200), nullable=True, unique=True),
    Column("patience", Float(53), nullable=False, server_default="120"),
    Column("deleted_at", UtcDateTime, nullable=True),
    Index(None, "experiment", "started_at", "id"),
    Index(None, "started_at", "id"),
    Index(None, "status", "lease_until"),
)
"""``lease_until`` is the machine's time, not the loop's: a simulated clock says nothing about a dead process. ``patience`` is for how
many seconds a sign of life counts."""

params = Table(
    "run_params",
    metadata,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Json, nullable=True),
    Column("number", Float(53), nullable=True),
)
"""``number`` repeats a numeric value, so that filters compare numbers as numbers."""

tags = Table(
    "run_tags",
    metadata,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

metrics = Table(
    "run_metrics",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("run", ForeignKey("runs.id"), nullable=False),
    Column("name", String(250), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("value", Float(53), nullable=True),
    Column("at", UtcDateTime, nullable=False),
    Index(None, "run", "name", "step", "id"),
)
"""NaN is kept as NULL, because SQLite turns it into that anyway and PostgreSQL sorts it above all numbers."""

blocks = Table(
    "run_metric_blocks",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("run", ForeignKey("runs.id"), nullable=False),
    Column("name", String(250), nullable=False),
    Column("after", BigInteger, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index(None, "run", "name", "id"),
)
"""Points that came in bulk, of one metric each, as the columns of ``columns.py``: a tenth of what rows cost to write and to keep. ``after`` is
the id of the newest row of ``run_metrics`` at that moment, so that rows and blocks have one order."""

summaries = Table(
    "run_metric_summaries",
    metadata,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("points", BigInteger, nullable=False),
    Column("last", Float(53), nullable=True),
    Column("last_step", BigInteger, nullable=False),
    Column("least", Float(53), nullable=True),
    Column("greatest", Float(53), nullable=True),
    Column("last_at", UtcDateTime, nullable=True),
    Index(None, "name", "last"),
)

artifacts = Table(
    "run_artifacts",
    metadata,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("name", String(500), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

writes = Table(
    "run_writes",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("run", ForeignKey("runs.id"), nullable=False),
)
"""The idempotency keys of batches of metrics."""

datasets = Table(
    "run_datasets",
    metadata,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("name", String(500), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("source_type", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("schema", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("tags", Json, nullable=False),
)
"""What runs read, as their clients describe it."""

logged_models = Table(
    "logged_models",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("experiment", ForeignKey("experiments.id"), nullable=False),
    Column("run", String(64), nullable=False),
    Column("name", String(500), nullable=False),
    Column("type", String(500), nullable=False),
    Column("status", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime, nullable=True),
    Index(None, "experiment", "created_at"),
    Index(None, "run"),
)
"""Models as a training leaves them, before anybody registers one."""

logged_params = Table(
    "logged_model_params",
    metadata,
    Column("model", ForeignKey("logged_models.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

logged_tags = Table(
    "logged_model_tags",
    metadata,
    Column("model", ForeignKey("logged_models.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

logged_files = Table(
    "logged_model_files",
    metadata,
    Column("model", ForeignKey("logged_models.id"), primary_key=True),
    Column("name", String(500), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

logged_metrics = Table(
    "logged_model_metrics",
    metadata,
    Column("id", _NUMBER, primary_key=True, autoincrement=True),
    Column("model", ForeignKey("logged_models.id"), nullable=False),
    Column("run", String(64), nullable=False),
    Column("name", String(250), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("value", Float(53), nullable=True),
    Column("at", UtcDateTime, nullable=False),
    Column("dataset", String(500), nullable=False),
    Column("dataset_digest", String(64), nullable=False),
    Index(None, "model", "name", "step"),
)
"""What runs measured of a model, on which data."""

run_models = Table(
    "run_models",
    metadata,
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Column("model", ForeignKey("logged_models.id"), primary_key=True),
    Column("role", String(8), primary_key=True),
    Column("step", BigInteger, nullable=False),
)
"""Which models a run read (``input``) and made (``output``)."""
