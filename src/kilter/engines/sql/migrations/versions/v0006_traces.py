"""Traces of applications on language models, what is said about them, and the datasets that they are judged by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from kilter.engines.sql.types import Json, UtcDateTime

revision = "0006"
down_revision = "0005"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = (
    "trace_tags",
    "trace_spans",
    "trace_runs",
    "trace_prompts",
    "trace_metadata",
    "trace_files",
    "trace_assessments",
    "traces",
    "evaluation_dataset_tags",
    "evaluation_dataset_records",
    "evaluation_dataset_experiments",
    "evaluation_datasets",
)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "evaluation_datasets",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("schema", Json(), nullable=True),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=250), nullable=True),
        sa.Column("changed_by", sa.String(length=250), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation_datasets")),
    )
    op.create_index(op.f("ix_evaluation_datasets_created_ms"), "evaluation_datasets", ["created_ms"], unique=False)
    op.create_table(
        "evaluation_dataset_experiments",
        sa.Column("dataset", sa.String(length=64), nullable=False),
        sa.Column("experiment", _NUMBER, nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset"],
            ["evaluation_datasets.id"],
            name=op.f("fk_evaluation_dataset_experiments_dataset_evaluation_datasets"),
        ),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiments.id"], name=op.f("fk_evaluation_dataset_experiments_experiment_experiments")
        ),
        sa.PrimaryKeyConstraint("dataset", "experiment", name=op.f("pk_evaluation_dataset_experiments")),
    )
    op.create_index(
        op.f("ix_evaluation_dataset_experiments_experiment"),
        "evaluation_dataset_experiments",
        ["experiment"],
        unique=False,
    )
    op.create_table(
        "evaluation_dataset_records",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("dataset", sa.String(length=64), nullable=False),
        sa.Column("inputs_digest", sa.String(length=64), nullable=False),
        sa.Column("inputs", Json(), nullable=False),
        sa.Column("outputs", Json(), nullable=True),
        sa.Column("expectations", Json(), nullable=True),
        sa.Column("tags", Json(), nullable=True),
        sa.Column("source", Json(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=250), nullable=True),
        sa.Column("changed_by", sa.String(length=250), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset"],
            ["evaluation_datasets.id"],
            name=op.f("fk_evaluation_dataset_records_dataset_evaluation_datasets"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_evaluation_dataset_records")),
        sa.UniqueConstraint("id", name=op.f("uq_evaluation_dataset_records_id")),
    )
    op.create_index(
        op.f("ix_evaluation_dataset_records_dataset_inputs_digest"),
        "evaluation_dataset_records",
        ["dataset", "inputs_digest"],
        unique=True,
    )
    op.create_table(
        "evaluation_dataset_tags",
        sa.Column("dataset", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset"], ["evaluation_datasets.id"], name=op.f("fk_evaluation_dataset_tags_dataset_evaluation_datasets")
        ),
        sa.PrimaryKeyConstraint("dataset", "name", name=op.f("pk_evaluation_dataset_tags")),
    )
    op.create_table(
        "traces",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("experiment", _NUMBER, nullable=False),
        sa.Column("request_ms", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("session", sa.String(length=250), nullable=True),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_read_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_creation_input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("input_cost", sa.Float(precision=53), nullable=True),
        sa.Column("output_cost", sa.Float(precision=53), nullable=True),
        sa.Column("total_cost", sa.Float(precision=53), nullable=True),
        sa.Column("finalized", sa.Boolean(), nullable=False),
        sa.Column("usage_said", sa.Boolean(), nullable=False),
        sa.Column("cost_said", sa.Boolean(), nullable=False),
        sa.Column("spans", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["experiment"], ["experiments.id"], name=op.f("fk_traces_experiment_experiments")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_traces")),
    )
    op.create_index(op.f("ix_traces_experiment_request_ms"), "traces", ["experiment", "request_ms"], unique=False)
    op.create_index(op.f("ix_traces_experiment_session"), "traces", ["experiment", "session"], unique=False)
    op.create_table(
        "trace_assessments",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("number", sa.Float(precision=53), nullable=True),
        sa.Column("numeric", sa.Boolean(), nullable=False),
        sa.Column("error", Json(), nullable=True),
        sa.Column("source_type", sa.String(length=50), nullable=False),
        sa.Column("source", sa.String(length=250), nullable=False),
        sa.Column("span", sa.String(length=64), nullable=False),
        sa.Column("rationale", sa.Text(), nullable=True),
        sa.Column("metadata", Json(), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("overrides", sa.String(length=64), nullable=False),
        sa.Column("valid", sa.Boolean(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["trace"], ["traces.id"], name=op.f("fk_trace_assessments_trace_traces")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trace_assessments")),
    )
    op.create_index(
        op.f("ix_trace_assessments_trace_kind_name"), "trace_assessments", ["trace", "kind", "name"], unique=False
    )
    op.create_table(
        "trace_files",
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["trace"], ["traces.id"], name=op.f("fk_trace_files_trace_traces")),
        sa.PrimaryKeyConstraint("trace", "name", name=op.f("pk_trace_files")),
    )
    op.create_table(
        "trace_metadata",
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["trace"], ["traces.id"], name=op.f("fk_trace_metadata_trace_traces")),
        sa.PrimaryKeyConstraint("trace", "name", name=op.f("pk_trace_metadata")),
    )
    op.create_table(
        "trace_prompts",
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["trace"], ["traces.id"], name=op.f("fk_trace_prompts_trace_traces")),
        sa.PrimaryKeyConstraint("trace", "name", "version", name=op.f("pk_trace_prompts")),
    )
    op.create_index(op.f("ix_trace_prompts_name_version"), "trace_prompts", ["name", "version"], unique=False)
    op.create_table(
        "trace_runs",
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_trace_runs_run_runs")),
        sa.ForeignKeyConstraint(["trace"], ["traces.id"], name=op.f("fk_trace_runs_trace_traces")),
        sa.PrimaryKeyConstraint("trace", "run", name=op.f("pk_trace_runs")),
    )
    op.create_index(op.f("ix_trace_runs_run"), "trace_runs", ["run"], unique=False)
    op.create_table(
        "trace_spans",
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("parent", sa.String(length=16), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False),
        sa.Column("end_ns", sa.BigInteger(), nullable=True),
        sa.Column("model", sa.String(length=500), nullable=True),
        sa.Column("provider", sa.String(length=500), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        sa.Column("input_cost", sa.Float(precision=53), nullable=True),
        sa.Column("output_cost", sa.Float(precision=53), nullable=True),
        sa.Column("total_cost", sa.Float(precision=53), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["trace"], ["traces.id"], name=op.f("fk_trace_spans_trace_traces")),
        sa.PrimaryKeyConstraint("trace", "id", name=op.f("pk_trace_spans")),
    )
    op.create_table(
        "trace_tags",
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["trace"], ["traces.id"], name=op.f("fk_trace_tags_trace_traces")),
        sa.PrimaryKeyConstraint("trace", "name", name=op.f("pk_trace_tags")),
    )


def downgrade() -> None:
    """Drop them."""
    for name in _TABLES:
        op.drop_table(name)
