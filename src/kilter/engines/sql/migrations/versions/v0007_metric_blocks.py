"""Points of metrics that came in bulk, as columns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "run_metric_blocks",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("run", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("after", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_run_metric_blocks_run_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_metric_blocks")),
    )
    op.create_index(op.f("ix_run_metric_blocks_run_name_id"), "run_metric_blocks", ["run", "name", "id"], unique=False)


def downgrade() -> None:
    """Drop it: points that came in bulk go with it."""
    op.drop_table("run_metric_blocks")
