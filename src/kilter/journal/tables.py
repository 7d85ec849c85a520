"""The journal's tables: the events, the head of the chain, and the readers' cursors."""

from __future__ import annotations

import sqlalchemy as sa

from kilter.engines.sql.database import metadata

events = sa.Table(
    "journal",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    # Microseconds since 1970 and raw JSON text: the digest covers exactly what is stored.
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(100), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("topic", sa.String(200), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Index("ix_journal_topic_seq", "topic", "seq"),
)

head = sa.Table(
    "journal_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)

cursors = sa.Table(
    "journal_cursor",
    metadata,
    sa.Column("reader", sa.String(200), primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
)
