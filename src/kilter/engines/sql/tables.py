"""The engine's own table: leases."""

from __future__ import annotations

import sqlalchemy as sa

from kilter.engines.sql.database import metadata

leases = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.Float(53), nullable=False),
)
