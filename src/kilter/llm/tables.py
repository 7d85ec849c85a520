"""The room's tables."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text

from kilter.engines.sql.database import Json, UtcDateTime, metadata

_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

traces = Table(
    "traces",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("experiment", ForeignKey("experiments.id"), nullable=False),
    Column("request_ms", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=True),
    Column("state", String(20), nullable=False),
    Column("name", Text, nullable=True),
    Column("client_id", Text, nullable=True),
    Column("session", String(250), nullable=True),
    Column("request", Text, nullable=True),
    Column("response", Text, nullable=True),
    Column("input_tokens", BigInteger, nullable=True),
    Column("output_tokens", BigInteger, nullable=True),
    Column("total_tokens", BigInteger, nullable=True),
    Column("cache_read_input_tokens", BigInteger, nullable=True),
    Column("cache_creation_input_tokens", BigInteger, nullable=True),
    Column("input_cost", Float(53), nullable=True),
    Column("output_cost", Float(53), nullable=True),
    Column("total_cost", Float(53), nullable=True),
    Column("finalized", Boolean, nullable=False),
    Column("usage_said", Boolean, nullable=False),
    Column("cost_said", Boolean, nullable=False),
    Column("spans", Integer, nullable=False),
    Index(None, "experiment", "request_ms"),
    Index(None, "experiment", "session"),
)
"""``finalized``: the client has said the trace as a whole; ``usage_said`` and ``cost_said``: and counted for itself."""

trace_tags = Table(
    "trace_tags",
    metadata,
    Column("trace", ForeignKey("traces.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

trace_metadata = Table(
    "trace_metadata",
    metadata,
    Column("trace", ForeignKey("traces.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

spans = Table(
    "trace_spans",
    metadata,
    Column("trace", ForeignKey("traces.id"), primary_key=True),
    Column("id", String(16), primary_key=True),
    Column("parent", String(16), nullable=True),
    Column("name", Text, nullable=False),
    Column("type", String(100), nullable=False),
    Column("status", String(8), nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=True),
    Column("model", String(500), nullable=True),
    Column("provider", String(500), nullable=True),
    Column("usage", Text, nullable=True),
    Column("input_cost", Float(53), nullable=True),
    Column("output_cost", Float(53), nullable=True),
    Column("total_cost", Float(53), nullable=True),
    Column("content", Text, nullable=False),
)
"""``content`` is JSON: the attributes as they were sent, events, links, who recorded it, and which values lie in the object store."""

trace_runs = Table(
    "trace_runs",
    metadata,
    Column("trace", ForeignKey("traces.id"), primary_key=True),
    Column("run", ForeignKey("runs.id"), primary_key=True),
    Index(None, "run"),
)

trace_prompts = Table(
    "trace_prompts",
    metadata,
    Column("trace", ForeignKey("traces.id"), primary_key=True),
    Column("name", String(500), primary_key=True),
    Column("version", String(64), primary_key=True),
    Index(None, "name", "version"),
)

trace_files = Table(
    "trace_files",
    metadata,
    Column("trace", ForeignKey("traces.id"), primary_key=True),
    Column("name", String(500), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

assessments = Table(
    "trace_assessments",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("trace", ForeignKey("traces.id"), nullable=False),
    Column("name", String(250), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("value", Text, nullable=False),
    Column("number", Float(53), nullable=True),
    Column("numeric", Boolean, nullable=False),
    Column("error", Json, nullable=True),
    Column("source_type", String(50), nullable=False),
    Column("source", String(250), nullable=False),
    Column("span", String(64), nullable=False),
    Column("rationale", Text, nullable=True),
    Column("metadata", Json, nullable=False),
    Column("run", String(64), nullable=False),
    Column("overrides", String(64), nullable=False),
    Column("valid", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    Index(None, "trace", "kind", "name"),
)
"""``number`` is what is averaged: 1 and 0 for yes and no; ``numeric`` says whether the value is a number itself."""

datasets = Table(
    "evaluation_datasets",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(500), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("schema", Json, nullable=True),
    Column("records", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    Column("created_by", String(250), nullable=True),
    Column("changed_by", String(250), nullable=True),
    Index(None, "created_ms"),
)

dataset_tags = Table(
    "evaluation_dataset_tags",
    metadata,
    Column("dataset", ForeignKey("evaluation_datasets.id"), primary_key=True),
    Column("name", String(250), primary_key=True),
    Column("value", Text, nullable=False),
)

dataset_experiments = Table(
    "evaluation_dataset_experiments",
    metadata,
    Column("dataset", ForeignKey("evaluation_datasets.id"), primary_key=True),
    Column("experiment", ForeignKey("experiments.id"), primary_key=True),
    Index(None, "experiment"),
)

dataset_records = Table(
    "evaluation_dataset_records",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("dataset", ForeignKey("evaluation_datasets.id"), nullable=False),
    Column("inputs_digest", String(64), nullable=False),
    Column("inputs", Json, nullable=False),
    Column("outputs", Json, nullable=True),
    Column("expectations", Json, nullable=True),
    Column("tags", Json, nullable=True),
    Column("source", Json, nullable=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    Column("created_by", String(250), nullable=True),
    Column("changed_by", String(250), nullable=True),
    Index(None, "dataset", "inputs_digest", unique=True),
)
"""The same inputs are the same record."""

scorers = Table(
    "scorers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("experiment", ForeignKey("experiments.id"), nullable=False),
    Column("name", String(250), nullable=False),
    Column("newest", BigInteger, nullable=False),
    Index(None, "experiment", "name", unique=True),
)

scorer_versions = Table(
    "scorer_versions",
    metadata,
    Column("scorer", ForeignKey("scorers.id"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)
