"""Scorers: what outputs are judged by, kept by experiment and name, in versions. Points of logged models are found by their step."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the tables, and the index."""
    op.create_table(
        "scorers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("experiment", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("newest", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["experiment"], ["experiments.id"], name=op.f("fk_scorers_experiment_experiments")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scorers")),
    )
    op.create_index(op.f("ix_scorers_experiment_name"), "scorers", ["experiment", "name"], unique=True)
    op.create_table(
        "scorer_versions",
        sa.Column("scorer", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["scorer"], ["scorers.id"], name=op.f("fk_scorer_versions_scorer_scorers")),
        sa.PrimaryKeyConstraint("scorer", "version", name=op.f("pk_scorer_versions")),
    )
    op.drop_index(op.f("ix_logged_model_metrics_model_name"), table_name="logged_model_metrics")
    op.create_index(
        op.f("ix_logged_model_metrics_model_name_step"), "logged_model_metrics", ["model", "name", "step"], unique=False
    )


def downgrade() -> None:
    """Drop them: the scorers go with them."""
    op.drop_index(op.f("ix_logged_model_metrics_model_name_step"), table_name="logged_model_metrics")
    op.create_index(op.f("ix_logged_model_metrics_model_name"), "logged_model_metrics", ["model", "name"], unique=False)
    op.drop_table("scorer_versions")
    op.drop_table("scorers")
