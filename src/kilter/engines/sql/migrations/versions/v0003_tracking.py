"""Experiments with names that can change, runs that can be deleted, what runs read, and models as trainings leave them."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from kilter.engines.sql.types import Json, UtcDateTime

revision = "0003"
down_revision = "0002"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LOGGED = (
    "run_models",
    "logged_model_tags",
    "logged_model_params",
    "logged_model_metrics",
    "logged_model_files",
    "run_datasets",
    "logged_models",
)


def upgrade() -> None:
    """Make the tables, and an experiment of each name that runs have."""
    experiments = op.create_table(
        "experiments",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("name", name=op.f("uq_experiments_name")),
    )
    op.create_table(
        "experiment_tags",
        sa.Column("experiment", _NUMBER, nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiments.id"], name=op.f("fk_experiment_tags_experiment_experiments")
        ),
        sa.PrimaryKeyConstraint("experiment", "name", name=op.f("pk_experiment_tags")),
    )
    op.add_column("runs", sa.Column("patience", sa.Float(precision=53), nullable=False, server_default="120"))
    op.add_column("runs", sa.Column("deleted_at", UtcDateTime(), nullable=True))
    op.add_column("run_metric_summaries", sa.Column("last_at", UtcDateTime(), nullable=True))
    now = datetime.now(UTC)
    names = op.get_bind().execute(sa.text("SELECT DISTINCT experiment FROM runs ORDER BY experiment")).scalars().all()
    op.bulk_insert(experiments, [{"id": 0, "name": "Default", "created_at": now, "changed_at": now}])
    op.bulk_insert(
        experiments, [{"name": name, "created_at": now, "changed_at": now} for name in names if name != "Default"]
    )
    _make_logged_models()


def _make_logged_models() -> None:
    op.create_table(
        "logged_models",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("experiment", _NUMBER, nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("type", sa.String(length=500), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiments.id"], name=op.f("fk_logged_models_experiment_experiments")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logged_models")),
    )
    op.create_index(
        op.f("ix_logged_models_experiment_created_at"), "logged_models", ["experiment", "created_at"], unique=False
    )
    op.create_index(op.f("ix_logged_models_run"), "logged_models", ["run"], unique=False)
    op.create_table(
        "run_datasets",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("schema", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("tags", Json(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_datasets_run_runs")),
        sa.PrimaryKeyConstraint("run", "name", "digest", name=op.f("pk_run_datasets")),
    )
    op.create_table(
        "logged_model_files",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"], ["logged_models.id"], name=op.f("fk_logged_model_files_model_logged_models")
        ),
        sa.PrimaryKeyConstraint("model", "name", name=op.f("pk_logged_model_files")),
    )
    op.create_table(
        "logged_model_metrics",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("dataset", sa.String(length=500), nullable=False),
        sa.Column("dataset_digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"], ["logged_models.id"], name=op.f("fk_logged_model_metrics_model_logged_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logged_model_metrics")),
    )
    op.create_index(op.f("ix_logged_model_metrics_model_name"), "logged_model_metrics", ["model", "name"], unique=False)
    op.create_table(
        "logged_model_params",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"], ["logged_models.id"], name=op.f("fk_logged_model_params_model_logged_models")
        ),
        sa.PrimaryKeyConstraint("model", "name", name=op.f("pk_logged_model_params")),
    )
    op.create_table(
        "logged_model_tags",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["logged_models.id"], name=op.f("fk_logged_model_tags_model_logged_models")),
        sa.PrimaryKeyConstraint("model", "name", name=op.f("pk_logged_model_tags")),
    )
    op.create_table(
        "run_models",
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["logged_models.id"], name=op.f("fk_run_models_model_logged_models")),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_models_run_runs")),
        sa.PrimaryKeyConstraint("run", "model", "role", name=op.f("pk_run_models")),
    )


def downgrade() -> None:
    """Drop them."""
    for name in _LOGGED:
        op.drop_table(name)
    op.drop_column("run_metric_summaries", "last_at")
    op.drop_column("runs", "deleted_at")
    op.drop_column("runs", "patience")
    op.drop_table("experiment_tags")
    op.drop_table("experiments")
