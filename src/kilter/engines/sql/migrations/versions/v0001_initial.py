"""The schema of the first version: the tables of every room."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from kilter.engines.sql.types import Json, UtcDateTime

revision = "0001"
down_revision = None

TABLES = (
    "data_requests",
    "data_tables",
    "data_versions",
    "endpoint_plans",
    "endpoint_status",
    "feature_views",
    "idempotency",
    "journal",
    "journal_cursor",
    "journal_head",
    "lease",
    "loops",
    "models",
    "monitor_alerts",
    "monitor_days",
    "monitor_features",
    "release_canaries",
    "release_looks",
    "release_experiments",
    "release_observations",
    "runs",
    "specs",
    "model_versions",
    "run_artifacts",
    "run_metric_summaries",
    "run_metrics",
    "run_params",
    "run_tags",
    "run_writes",
    "model_aliases",
    "model_approvals",
    "model_evidence",
    "model_stages",
)
"""In the order of their making: a table comes after those that it refers to."""


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "data_requests",
        sa.Column("table", sa.String(length=100), nullable=False),
        sa.Column("request", sa.String(length=200), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("table", "request", name=op.f("pk_data_requests")),
    )
    op.create_table(
        "data_tables",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("time", sa.String(length=128), nullable=False),
        sa.Column("columns", Json(), nullable=False),
        sa.Column("flushed", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("parts", sa.BigInteger(), nullable=False),
        sa.Column("declared_at", UtcDateTime(), nullable=False),
        sa.Column("flushed_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_data_tables")),
    )
    op.create_table(
        "data_versions",
        sa.Column("table", sa.String(length=100), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("table", "position", name=op.f("pk_data_versions")),
    )
    op.create_table(
        "endpoint_plans",
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("plan", Json(), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("loop", name=op.f("pk_endpoint_plans")),
    )
    op.create_table(
        "endpoint_status",
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("front", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("applied_generation", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("loop", "front", name=op.f("pk_endpoint_status")),
    )
    op.create_table(
        "feature_views",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("table", sa.String(length=100), nullable=False),
        sa.Column("spec", Json(), nullable=False),
        sa.Column("registered_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_feature_views")),
    )
    op.create_index(op.f("ix_feature_views_table"), "feature_views", ["table"], unique=False)
    op.create_table(
        "idempotency",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("operation", sa.String(length=200), nullable=False),
        sa.Column("arguments", sa.String(length=64), nullable=False),
        sa.Column("boot", sa.String(length=64), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_at"), "idempotency", ["at"], unique=False)
    op.create_table(
        "journal",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("topic", sa.String(length=200), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_journal")),
    )
    op.create_index("ix_journal_topic_seq", "journal", ["topic", "seq"], unique=False)
    op.create_table(
        "journal_cursor",
        sa.Column("reader", sa.String(length=200), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reader", name=op.f("pk_journal_cursor")),
    )
    op.create_table(
        "journal_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal_head")),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("holder", sa.String(length=200), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "loops",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("environment", sa.String(length=32), nullable=False),
        sa.Column("spec_digest", sa.String(length=64), nullable=False),
        sa.Column("filename", sa.String(length=512), nullable=False),
        sa.Column("state", Json(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("applied_at", UtcDateTime(), nullable=False),
        sa.Column("settled_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_loops")),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("latest", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_table(
        "monitor_alerts",
        sa.Column("id", sa.String(length=512), nullable=False),
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("monitor", sa.String(length=128), nullable=False),
        sa.Column("raised_at", UtcDateTime(), nullable=False),
        sa.Column("cleared_at", UtcDateTime(), nullable=True),
        sa.Column("finding", Json(), nullable=False),
        sa.Column("latest", Json(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_monitor_alerts")),
    )
    op.create_index("ix_monitor_alerts_loop_raised_at", "monitor_alerts", ["loop", "raised_at"], unique=False)
    op.create_table(
        "monitor_days",
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(length=16), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.BigInteger(), nullable=False),
        sa.Column("value_sum", sa.Float(precision=53), nullable=False),
        sa.Column("scored_sum", sa.Float(precision=53), nullable=False),
        sa.Column("label_sum", sa.Float(precision=53), nullable=False),
        sa.Column("log_loss_sum", sa.Float(precision=53), nullable=False),
        sa.Column("brier_sum", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("loop", "version", "arm", "day", name=op.f("pk_monitor_days")),
    )
    op.create_table(
        "monitor_features",
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("feature", sa.String(length=256), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("psi", sa.Float(precision=53), nullable=False),
        sa.Column("excess", sa.Float(precision=53), nullable=False),
        sa.Column("histogram", Json(), nullable=False),
        sa.PrimaryKeyConstraint("loop", "feature", "day", name=op.f("pk_monitor_features")),
    )
    op.create_table(
        "release_canaries",
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("row_count", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("finding", Json(), nullable=False),
        sa.Column("points", Json(), nullable=False),
        sa.Column("guards", Json(), nullable=False),
        sa.PrimaryKeyConstraint("loop", "version", name=op.f("pk_release_canaries")),
    )
    op.create_table(
        "release_looks",
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("look", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("finding", Json(), nullable=False),
        sa.PrimaryKeyConstraint("loop", "version", "look", name=op.f("pk_release_looks")),
    )
    op.create_table(
        "release_experiments",
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("plan", Json(), nullable=False),
        sa.Column("weights", Json(), nullable=False),
        sa.Column("starts", Json(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("weighed_at", UtcDateTime(), nullable=False),
        sa.Column("stopped_at", UtcDateTime(), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("loop", "name", name=op.f("pk_release_experiments")),
    )
    op.create_table(
        "release_observations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("prediction", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=500), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=False),
        sa.Column("request", sa.String(length=200), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_release_observations")),
        sa.UniqueConstraint("loop", "request", name=op.f("uq_release_observations_loop_request")),
    )
    op.create_index(
        op.f("ix_release_observations_loop_name_at"), "release_observations", ["loop", "name", "at"], unique=False
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("experiment", sa.String(length=500), nullable=False),
        sa.Column("name", sa.String(length=8000), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("feature_digest", sa.String(length=64), nullable=False),
        sa.Column("code_digest", sa.String(length=64), nullable=False),
        sa.Column("environment", sa.String(length=64), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("spec", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("key", name=op.f("uq_runs_key")),
    )
    op.create_index(op.f("ix_runs_experiment_started_at_id"), "runs", ["experiment", "started_at", "id"], unique=False)
    op.create_index(op.f("ix_runs_started_at_id"), "runs", ["started_at", "id"], unique=False)
    op.create_index(op.f("ix_runs_status_lease_until"), "runs", ["status", "lease_until"], unique=False)
    op.create_table(
        "specs",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("loop", sa.String(length=128), nullable=False),
        sa.Column("spec", Json(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("filename", sa.String(length=512), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("applied_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_specs")),
    )
    op.create_table(
        "model_versions",
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bundle", sa.String(length=64), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("lineage", Json(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=True),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_model_versions_model_models")),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("model", "key", name=op.f("uq_model_versions_model_key")),
    )
    op.create_index(op.f("ix_model_versions_bundle"), "model_versions", ["bundle"], unique=False)
    op.create_index(op.f("ix_model_versions_run"), "model_versions", ["run"], unique=False)
    op.create_table(
        "run_artifacts",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_artifacts_run_runs")),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_run_artifacts")),
    )
    op.create_table(
        "run_metric_summaries",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.Float(precision=53), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("least", sa.Float(precision=53), nullable=True),
        sa.Column("greatest", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_metric_summaries_run_runs")),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_run_metric_summaries")),
    )
    op.create_index(op.f("ix_run_metric_summaries_name_last"), "run_metric_summaries", ["name", "last"], unique=False)
    op.create_table(
        "run_metrics",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_metrics_run_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_metrics")),
    )
    op.create_index(op.f("ix_run_metrics_run_name_step_id"), "run_metrics", ["run", "name", "step", "id"], unique=False)
    op.create_table(
        "run_params",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", Json(), nullable=True),
        sa.Column("number", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_params_run_runs")),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_run_params")),
    )
    op.create_table(
        "run_tags",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_tags_run_runs")),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_run_tags")),
    )
    op.create_table(
        "run_writes",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_writes_run_runs")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_run_writes")),
    )
    op.create_table(
        "model_aliases",
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("alias", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_versions.model", "model_versions.version"],
            name=op.f("fk_model_aliases_model_version_model_versions"),
        ),
        sa.PrimaryKeyConstraint("model", "alias", name=op.f("pk_model_aliases")),
    )
    op.create_table(
        "model_approvals",
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_versions.model", "model_versions.version"],
            name=op.f("fk_model_approvals_model_version_model_versions"),
        ),
        sa.PrimaryKeyConstraint("model", "version", "by", name=op.f("pk_model_approvals")),
    )
    op.create_table(
        "model_evidence",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("findings", Json(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_versions.model", "model_versions.version"],
            name=op.f("fk_model_evidence_model_version_model_versions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_evidence")),
    )
    op.create_index(op.f("ix_model_evidence_model_version"), "model_evidence", ["model", "version"], unique=False)
    op.create_table(
        "model_stages",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_versions.model", "model_versions.version"],
            name=op.f("fk_model_stages_model_version_model_versions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_stages")),
    )
    op.create_index(op.f("ix_model_stages_model_version"), "model_stages", ["model", "version"], unique=False)


def downgrade() -> None:
    """Drop every table, with its indexes."""
    for name in reversed(TABLES):
        op.drop_table(name)
